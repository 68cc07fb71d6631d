"""Every file that a reward wants: repository, file, revision, checksum. The one table of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from vader_core.weights import WeightFile

CLIP_L14 = WeightFile("openai/clip-vit-large-patch14", "model.safetensors", numbers=427_616_513)
AESTHETIC_HEAD = WeightFile(
    "trl-lib/ddpo-aesthetic-predictor",
    "aesthetic-model.pth",
    revision="7f639699bec8126062148a47ecb1a4312d8e6688",
    numbers=927_969,
    note="a mirror of LAION's improved-aesthetic-predictor, sac+logos+ava1-l14-linearMSE.pth (3714759 bytes, "
    "sha256 21dd590f3ccdc646f0d53120778b296013b096a035a2718c9cb0d511bff0f1e0)",
)

_VADER = "github.com/mihirp1998/VADER"
_VADER_NOTE = "not on the hub: get it by hand, then give reward.{name}.head_weights=PATH"
RAINY_HEAD = WeightFile(
    _VADER,
    "assets/rainy_reward.pt",
    revision="adaf2ef",
    sha256="bfa1e0f38d6a8ed08637a72a141ea26fefe05632f5c160e952aa903f24ff80d3",
    size=3715200,
    note=_VADER_NOTE.format(name="rainy"),
)
SNOWY_HEAD = WeightFile(
    _VADER,
    "assets/snowy_reward.pt",
    revision="adaf2ef",
    sha256="dae251d2b71dd08b8d43f9ea8b2550ac60159ed02f54bede6162b0108d54f991",
    size=3715200,
    note=_VADER_NOTE.format(name="snowy"),
)
COMPRESSION_HEAD = WeightFile(
    _VADER,
    "assets/compression_reward.pt",
    revision="adaf2ef",
    sha256="4834909306ec3fd210805ad9eed6506338417ecf898aab7fa2d13f9c32ea2b2d",
    size=1857371,
    note=_VADER_NOTE.format(name="compression"),
)

#: Parameters of the CLIP model that HPS and PickScore were tuned from.
_CLIP_H14 = 986_109_441
HPS = {
    version: WeightFile(
        "xswu/HPSv2", file, numbers=_CLIP_H14, licence="apache-2.0", when=(("version", (version,)),)
    )
    for version, file in (("v2.0", "HPS_v2_compressed.pt"), ("v2.1", "HPS_v2.1_compressed.pt"))
}
PICK_SCORE = WeightFile("yuvalkirstain/PickScore_v1", "model.safetensors", numbers=_CLIP_H14)

_VIDEOMAE = "MCG-NJU/videomae-base-finetuned-kinetics"
ACTPRED = WeightFile(_VIDEOMAE, "model.safetensors", numbers=86_534_800, licence="cc-by-nc-4.0")
ACTPRED_CONFIG = WeightFile(_VIDEOMAE, "config.json", licence="cc-by-nc-4.0")

_DETECTOR_REPOSITORIES = {
    "yolos_base": "hustvl/yolos-base",
    "yolos_tiny": "hustvl/yolos-tiny",
    "grounding_dino_base": "IDEA-Research/grounding-dino-base",
    "grounding_dino_tiny": "IDEA-Research/grounding-dino-tiny",
}
DETECTORS = {
    name: WeightFile(place, "model.safetensors", licence="apache-2.0", when=(("detector", (name,)),))
    for name, place in _DETECTOR_REPOSITORIES.items()
}
DETECTOR_CONFIGS = {
    name: WeightFile(place, "config.json", licence="apache-2.0", when=(("detector", (name,)),))
    for name, place in _DETECTOR_REPOSITORIES.items()
}
DETECTOR_VOCABULARIES = {
    name: WeightFile(place, "vocab.txt", licence="apache-2.0", when=(("detector", (name,)),))
    for name, place in _DETECTOR_REPOSITORIES.items()
    if "dino" in name
}

VJEPA = WeightFile(
    "facebook/vjepa2-vitl-fpc64-256",
    "model.safetensors",
    numbers=325_971_328,
    note="ViT-L; larger siblings fit too",
)
VJEPA_CONFIG = WeightFile("facebook/vjepa2-vitl-fpc64-256", "config.json")
VICLIP = WeightFile(
    "OpenGVLab/ViCLIP-L-14-hf",
    "model.safetensors",
    revision="1652361522e1cb41c28cdfae870f690d00e7456b",
    note="the tensors of ViClip-InternVid-10M-FLT.pth (OpenGVLab/ViCLIP, mit), which is taken too",
)

DINO_B16 = WeightFile("facebook/dino-vitb16", "model.safetensors", licence="apache-2.0")
CLIP_B32 = WeightFile("openai/clip-vit-base-patch32", "model.safetensors", numbers=151_277_313)
RAFT = WeightFile(
    "github.com/pytorch/vision",
    "raft_large_C_T_V1-22a6c225.pth",
    revision="main",
    note="not on the hub: https://download.pytorch.org/models/raft_large_C_T_V1-22a6c225.pth (RAFT-things, "
    "bsd-3-clause); then give reward.dynamic_degree.weights=PATH",
)

QWEN2_VL = (
    WeightFile(
        "Qwen/Qwen2-VL-2B-Instruct",
        "model.safetensors",
        licence="apache-2.0",
        note="published in two shards: download the repository and give reward.vqa_yes.weights=FOLDER",
    ),
    WeightFile("Qwen/Qwen2-VL-2B-Instruct", "config.json"),
    WeightFile("Qwen/Qwen2-VL-2B-Instruct", "tokenizer.json"),
)

VIDEO_REWARD = WeightFile(
    "KlingTeam/VideoReward",
    "checkpoint-11352/model.pth",
    revision="b8e421fe21aec3dde5f61fdd1dc44e1d603b9727",
    sha256="48375908e6112de9f0248402db156a23b480709a6960b091c598c6f4c88d21b9",
    size=5031072529,
    licence="apache-2.0",
)
VIDEO_REWARD_CONFIG = WeightFile(
    "KlingTeam/VideoReward", "model_config.json", revision="b8e421fe21aec3dde5f61fdd1dc44e1d603b9727"
)
VIDEO_REWARD_TOKENISER = WeightFile("Qwen/Qwen2-VL-2B-Instruct", "tokenizer.json", licence="apache-2.0")
HPS_V3 = WeightFile("MizzenAI/HPSv3", "HPSv3.safetensors", licence="apache-2.0")
HPS_V3_TOKENISER = WeightFile("Qwen/Qwen2-VL-7B-Instruct", "tokenizer.json", licence="apache-2.0")
MPS = WeightFile(
    "RE-N-Y/mpsv1",
    "model.safetensors",
    note="the tensors of MPS_overall_checkpoint.pth (github.com/Kwai-Kolors/MPS), a pickled module, which is "
    "not read",
)

IMAGE_REWARD = WeightFile("THUDM/ImageReward", "ImageReward.pt", licence="apache-2.0")
IMAGE_REWARD_VOCABULARY = WeightFile("google-bert/bert-base-uncased", "vocab.txt", licence="apache-2.0")

_OF_HEAD = (("head_weights", (None, "pretrained")),)


def _with_head(head: WeightFile) -> tuple[WeightFile, ...]:
    return CLIP_L14, replace(head, when=_OF_HEAD)


def _inner(part: str, files: Iterable[WeightFile]) -> tuple[WeightFile, ...]:
    """The files of a part whose options lie in an option of that name."""
    inner = []
    for file in files:
        own = (*(() if file.when == _OF_HEAD else (("weights", ("pretrained",)),)), *file.when)
        inner.append(replace(file, when=tuple((f"{part}.{name}", values) for name, values in own)))
    return tuple(inner)


#: What ``vader weights`` lists, by reward.
BY_REWARD: dict[str, tuple[WeightFile, ...]] = {
    "aesthetic": _with_head(AESTHETIC_HEAD),
    "hps": tuple(HPS.values()),
    "pick_score": (PICK_SCORE,),
    "aesthetic_hps": (*_inner("aesthetic", _with_head(AESTHETIC_HEAD)), *_inner("hps", HPS.values())),
    "actpred": (ACTPRED, ACTPRED_CONFIG),
    "object_detection": (*DETECTORS.values(), *DETECTOR_CONFIGS.values(), *DETECTOR_VOCABULARIES.values()),
    "compression": _with_head(COMPRESSION_HEAD),
    "rainy": _with_head(RAINY_HEAD),
    "snowy": _with_head(SNOWY_HEAD),
    "vjepa": (VJEPA, VJEPA_CONFIG),
    "viclip": (VICLIP,),
    "jpeg_size": (),
    "clip_score": (CLIP_L14,),
    "subject_consistency": (DINO_B16,),
    "background_consistency": (CLIP_B32,),
    "temporal_flickering": (),
    "dynamic_degree": (RAFT,),
    "http": (),
    "vqa_yes": QWEN2_VL,
    "video_reward": (VIDEO_REWARD, VIDEO_REWARD_CONFIG, VIDEO_REWARD_TOKENISER),
    "hps_v3": (HPS_V3, HPS_V3_TOKENISER),
    "mps": (MPS,),
    "image_reward": (IMAGE_REWARD, IMAGE_REWARD_VOCABULARY),
}
