"""Announces the rewards; each is imported when it is made."""

from __future__ import annotations

from pydantic import BaseModel

from vader_core.hookspecs import Register, hookimpl

from . import options
from .weight_files import BY_REWARD

#: Name: (module, class, options, summary).
REWARDS: dict[str, tuple[str, str, type[BaseModel], str]] = {
    "aesthetic": (
        "aesthetic",
        "Aesthetic",
        options.AestheticOptions,
        "LAION aesthetic predictor, about 1 to 10",
    ),
    "hps": ("hps", "Hps", options.HpsOptions, "Human Preference Score v2.1 or v2.0 of frame and prompt"),
    "pick_score": ("pick_score", "PickScore", options.PickScoreOptions, "PickScore v1 of frame and prompt"),
    "aesthetic_hps": (
        "aesthetic_hps",
        "AestheticHps",
        options.AestheticHpsOptions,
        "VADER's mix of aesthetic and HPS",
    ),
    "actpred": (
        "actpred",
        "Actpred",
        options.ActpredOptions,
        "probability of an action, VideoMAE on Kinetics-400",
    ),
    "object_detection": (
        "object_detection",
        "ObjectDetection",
        options.ObjectDetectionOptions,
        "removes or encourages an object, YOLOS or Grounding DINO",
    ),
    "compression": (
        "compression",
        "Compression",
        options.CompressionOptions,
        "minus the predicted JPEG size in kB",
    ),
    "rainy": ("weather", "Rainy", options.WeatherOptions, "how rainy a frame looks, 0 to 1"),
    "snowy": ("weather", "Snowy", options.WeatherOptions, "how snowy a frame looks, 0 to 1"),
    "vjepa": (
        "vjepa",
        "Vjepa",
        options.VjepaOptions,
        "long-horizon consistency: minus V-JEPA 2's masked prediction loss",
    ),
    "viclip": ("viclip", "Viclip", options.ViclipOptions, "cosine of video and prompt, ViCLIP"),
    "jpeg_size": (
        "jpeg_size",
        "JpegSize",
        options.JpegSizeOptions,
        "minus the real JPEG size in kB; no gradient",
    ),
    "clip_score": ("clip_score", "ClipScore", options.ClipScoreOptions, "CLIPScore of frame and prompt"),
    "subject_consistency": (
        "consistency",
        "SubjectConsistency",
        options.SubjectConsistencyOptions,
        "VBench: how alike the frames are to DINO, 0 to 1",
    ),
    "background_consistency": (
        "consistency",
        "BackgroundConsistency",
        options.BackgroundConsistencyOptions,
        "VBench: how alike the frames are to CLIP, 0 to 1",
    ),
    "temporal_flickering": (
        "consistency",
        "TemporalFlickering",
        options.FlickeringOptions,
        "VBench: one minus the mean difference of neighbouring frames",
    ),
    "dynamic_degree": (
        "dynamic_degree",
        "DynamicDegree",
        options.DynamicDegreeOptions,
        "VBench: how much moves, by RAFT; no gradient",
    ),
    "image_reward": (
        "image_reward",
        "ImageRewardModel",
        options.ImageRewardOptions,
        "ImageReward v1.0 of frame and prompt, on BLIP",
    ),
    "vqa_yes": (
        "vqa_yes",
        "VqaYes",
        options.VqaYesOptions,
        "probability that Qwen2-VL says yes to a question about the video",
    ),
    "video_reward": (
        "video_reward",
        "VideoReward",
        options.VideoRewardOptions,
        "human preference for a clip's look, motion and text: VideoReward on Qwen2-VL",
    ),
    "hps_v3": (
        "hps_v3",
        "HpsV3",
        options.HpsV3Options,
        "Human Preference Score v3 of frame and prompt, on Qwen2-VL-7B",
    ),
    "mps": ("mps", "Mps", options.MpsOptions, "Multi-dimensional Preference Score of frame and prompt"),
    "http": ("http", "Http", options.HttpOptions, "any scorer behind an HTTP endpoint; no gradient"),
}


@hookimpl
def register_rewards(register: Register) -> None:
    """Announces every reward with its options and the files it wants."""
    for name, (module, cls, config, summary) in REWARDS.items():
        place = f"{__package__}.{module}:{cls}"
        register(name, place, config=config, summary=summary, weights=BY_REWARD[name])
