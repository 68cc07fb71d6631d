"""Every reward against numbers that the official code wrote: pixels, score, loss, gradient at the pixels.

Tolerances: preprocessed pixels 1e-5 absolute, score and loss 1e-4 relative, gradient 1e-3 relative norm.
Everything is float32 on the CPU; what is left comes from other kernels' order of summation.
"""

from __future__ import annotations

import json
import re
import sys
from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path

import pytest
import torch
from goldens import golden_paths
from reward_classes import reward_class
from safetensors import safe_open
from safetensors.torch import load_file
from vader_rewards import options
from vader_rewards.clip_towers import CLIP_H14, CLIP_L14, build_clip, build_clip_vision, clip_tokens
from vader_rewards.heads import aesthetic_head, compression_head
from vader_rewards.hps import VIT_H_14, build_open_clip
from vader_rewards.plugin import REWARDS

from vader_core.prompts import Prompt
from vader_core.randomness import Randomness
from vader_core.reward import RewardOutput
from vader_core.weights import load_tensors

PIXELS, SCORE, GRADIENT = 1e-5, 1e-4, 1e-3
#: Kind of golden: (reward, weights that it runs on, head).
KINDS = {
    "aesthetic_hps": ("aesthetic_hps", ("clip_l14", "hps_openclip"), "aesthetic"),
    "aesthetic": ("aesthetic", ("clip_l14",), "aesthetic"),
    "pick_score": ("pick_score", ("clip_h14",), None),
    "hps": ("hps", ("hps_openclip",), None),
    "weather_rainy": ("rainy", ("clip_l14",), "rainy"),
    "weather_snowy": ("snowy", ("clip_l14",), "snowy"),
    "compression": ("compression", ("clip_l14",), "compression"),
    "actpred": ("actpred", ("videomae",), None),
    "yolos": ("object_detection", ("yolos",), None),
}


@dataclass(frozen=True)
class Case:
    path: Path
    kind: str

    @property
    def id(self):
        return self.path.stem


def kind_of(stem: str) -> str | None:
    fitting = [kind for kind in KINDS if stem == kind or stem.startswith(f"{kind}_")]
    return max(fitting, key=len, default=None)


def single(pattern: str) -> Path | None:
    return next(iter(golden_paths("rewards", pattern)), None)


def weight_sets(prefix: str) -> list[dict[str, str]]:
    """Weights with their configuration beside them, as options of the public factory."""
    found = []
    for config in golden_paths("rewards", f"{prefix}*.config.json"):
        weights = config.with_name(config.name.replace(".config.json", ".safetensors"))
        if weights.is_file():
            found.append({"weights": str(weights), "architecture": str(config)})
    return found


def names_in(path: Path) -> set[str]:
    with safe_open(path, "pt") as stored:
        return set(stored.keys())


def collect() -> tuple[list[Case], list[str]]:
    cases, without_head = [], []
    for path in golden_paths("rewards", "*.safetensors"):
        kind = kind_of(path.stem)
        if kind is None or "grad_video" not in names_in(path):
            continue
        head = KINDS[kind][2]
        if head is not None and single(f"heads/{head}.safetensors") is None:
            without_head.append(path.stem)
        else:
            cases.append(Case(path, kind))
    return cases, without_head


CASES, WITHOUT_HEAD = collect()


def recorded(stem: str) -> dict:
    """What values.json says of a golden, from any of the folders."""
    known = {}
    for path in golden_paths("rewards", "values*.json"):
        known.update(json.loads(path.read_text()))
    return known.get(stem, {})


def video_of(tensors: dict[str, torch.Tensor]) -> torch.Tensor:
    """Frames in [0, 1] nominal; files without a video share the one of `aesthetic`."""
    if "video" not in tensors:
        tensors = load_file(single("aesthetic.safetensors"))
    return tensors["video"]


def make(name: str, given: dict):
    module, cls, config, _ = REWARDS[name]
    return reward_class(module, cls)(config(**given), device=torch.device("cpu"), dtype=torch.float32)


def given_options(case: Case, sets: tuple[dict, ...], *, upstream: bool) -> dict:
    reward, _, head = KINDS[case.kind]
    given = dict(sets[0])
    if head is not None:
        given["head_weights"] = str(single(f"heads/{head}.safetensors"))
    values = recorded(case.id)
    if case.kind == "aesthetic":
        if "target" in values:
            given |= {"target": values["target"], "grad_scale": values["grad_scale"]}
        elif "no_target" in case.id:
            given["target"] = None
    if reward == "aesthetic_hps":
        return {"aesthetic": given, "hps": {**sets[1], "upstream": upstream}}
    return given | ({"upstream": upstream} if "upstream" in REWARDS[reward][2].model_fields else {})


def target_class(tensors: dict[str, torch.Tensor]) -> int:
    """The class that the stored loss is the cross entropy of."""
    losses = -tensors["logits"][0].log_softmax(-1)
    return int((losses - tensors["loss"]).abs().argmin())


def batched(video: torch.Tensor, prompts: int) -> torch.Tensor:
    """Frames as B videos of F frames, B being the number of prompts."""
    return video.view(prompts, -1, *video.shape[1:])


def run(case: Case, reward, video: torch.Tensor, tensors: dict[str, torch.Tensor]) -> RewardOutput:
    if case.kind in ("hps", "aesthetic_hps"):
        text = (reward if case.kind == "hps" else reward.hps).encode_tokens(tensors["tokens"])
        return reward.compare(batched(video, len(text)), text)
    if case.kind == "pick_score":
        text = reward.encode_tokens(tensors["input_ids"], tensors["attention_mask"])
        return reward.compare(batched(video, len(text)), text)
    metadata = {"label": target_class(tensors)} if case.kind == "actpred" else {}
    return reward(video[None], [Prompt("", metadata=metadata)], Randomness(0))


@dataclass
class Errors:
    score: float
    loss: float
    gradient: float

    @property
    def fine(self):
        return self.score <= SCORE and self.loss <= SCORE and self.gradient <= GRADIENT


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).detach().norm() / expected.norm().clamp(min=1e-12))


def measure(case: Case, reward) -> tuple[Errors, RewardOutput]:
    tensors = load_file(case.path)
    # Official videos are in [-1, 1]; ours in [0, 1].
    video = video_of(tensors).clone().requires_grad_()
    output = run(case, reward, video / 2 + 0.5, tensors)
    (gradient,) = torch.autograd.grad(output.loss.mean(), video)
    return (
        Errors(
            relative(output.score.mean().detach(), tensors["score"].mean()),
            relative(output.loss.mean().detach(), tensors["loss"].mean()),
            relative(gradient, tensors["grad_video"]),
        ),
        output,
    )


@cache
def weights_of(case: Case) -> tuple[dict, ...]:
    """The weights in the golden folders that come nearest: a file does not say which it was made with."""
    reward_name, prefixes, _ = KINDS[case.kind]
    nearest: dict[float, tuple[dict, ...]] = {}
    for sets in product(*(weight_sets(prefix) for prefix in prefixes)):
        errors, _ = measure(case, make(reward_name, given_options(case, sets, upstream=True)))
        nearest[errors.score] = sets
        if errors.fine:
            break
    assert nearest, f"no weights beside {case.path} for {prefixes}"
    return nearest[min(nearest)]


def reproduced(case: Case, *, upstream: bool) -> tuple[Errors, RewardOutput, object]:
    reward = make(KINDS[case.kind][0], given_options(case, weights_of(case), upstream=upstream))
    return (*measure(case, reward), reward)


@pytest.mark.golden
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_upstream_numbers(case):
    errors, _, _ = reproduced(case, upstream=True)
    assert errors.fine, errors


def has_upstream_bug(case: Case, reward) -> bool:
    """Where the official numbers are known to be wrong, and this input shows it."""
    tensors = load_file(case.path)
    frames = len(video_of(tensors))
    if case.kind in ("hps", "aesthetic_hps"):
        return len(tensors["tokens"]) < frames
    if case.kind == "pick_score":
        return len(tensors["input_ids"]) > 1
    if case.kind == "yolos":
        present = target_detections(tensors, reward)[1].any(dim=1).tolist()
        first = present.index(True) if True in present else frames
        return False in present[first:]
    return case.kind == "compression"


def target_detections(tensors, reward):
    book = next(index for index, name in reward.detector.labels.items() if name == reward.object)
    confidence, best = tensors["logits"].softmax(-1)[..., :-1].max(-1)
    return confidence, (best == book) & (confidence > 0.2)


def correct_output(case: Case, reward, tensors) -> RewardOutput:
    """What the score and the loss should have been, from what the golden stores or by one call a frame."""
    video = video_of(tensors) / 2 + 0.5
    if case.kind == "compression":
        return RewardOutput(score=-tensors["score"], loss=tensors["loss"])
    if case.kind == "yolos":
        confidence, detected = target_detections(tensors, reward)
        loss = ((confidence * detected).sum(1) / detected.sum(1).clamp(min=1)).mean()
        return RewardOutput(score=1 - loss, loss=loss)
    if case.kind == "pick_score":
        frames = len(video) // len(tensors["input_ids"])
        own = [
            tensors["score_matrix"][row, row * frames : (row + 1) * frames].mean()
            for row in range(len(tensors["input_ids"]))
        ]
        return RewardOutput(score=torch.stack(own), loss=(1 - torch.stack(own) / 100).abs())
    text = (reward if case.kind == "hps" else reward.hps).encode_tokens(tensors["tokens"])
    alone = [
        reward.compare(frame[None, None], text[row : row + 1])
        for row, clip in enumerate(batched(video, len(text)))
        for frame in clip
    ]
    return RewardOutput(
        score=torch.cat([one.score for one in alone]), loss=torch.cat([one.loss for one in alone])
    )


@pytest.mark.golden
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_default_numbers(case):
    """The default gives the official numbers, except where those are a bug: there it gives the right ones."""
    errors, output, reward = reproduced(case, upstream=False)
    if not has_upstream_bug(case, reward):
        assert errors.fine, errors
        return
    tensors = load_file(case.path)
    right = correct_output(case, reward, tensors)
    assert relative(output.score.mean(), right.score.mean()) <= SCORE
    assert relative(output.loss.mean(), right.loss.mean()) <= SCORE
    assert not errors.score <= SCORE


@pytest.mark.golden
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_intermediate_numbers(case):
    """Preprocessed pixels, embeddings, logits and frame scores, where the golden stores them."""
    tensors = load_file(case.path)
    _, _, reward = reproduced(case, upstream=True)
    part = reward.aesthetic if case.kind == "aesthetic_hps" else reward
    video = video_of(tensors) / 2 + 0.5
    pixels = part.pixels(video[None] if case.kind == "actpred" else video)
    for name, expected in tensors.items():
        if match := re.fullmatch(r"pixel_values(?:_every_(\d+)\w\w)?", name):
            stride = int(match[1] or 1)
            found = pixels[..., ::stride, ::stride]
            assert float((found - expected).abs().max()) <= PIXELS, name
    if case.kind == "hps":
        text = reward.encode_tokens(tensors["tokens"])
        if "text_features" in tensors:
            assert relative(text, torch.nn.functional.normalize(tensors["text_features"], dim=-1)) <= SCORE
        if "frame_scores" in tensors and len(tensors["frame_scores"]) == len(text):
            assert relative(reward.cosines(pixels[: len(text)], text), tensors["frame_scores"]) <= SCORE
    if case.kind == "aesthetic" and "frame_scores" in tensors:
        assert relative(reward.head_values(pixels), tensors["frame_scores"]) <= SCORE
    if case.kind == "actpred":
        assert relative(reward.logits(pixels), tensors["logits"]) <= SCORE


MANIFESTS = {
    "clip_vit_l_14_transformers_manifest.json": lambda: build_clip(CLIP_L14),
    "clip_vit_h_14_transformers_manifest.json": lambda: build_clip(CLIP_H14),
    "openclip_vit_h_14_manifest.json": lambda: build_open_clip(VIT_H_14),
}


@pytest.mark.golden
@pytest.mark.parametrize("path", golden_paths("rewards", "*_manifest.json"), ids=lambda path: path.stem)
def test_full_size_tree_equals_the_manifest(path):
    if path.name not in MANIFESTS:
        assert path.name == "prompt_files_manifest.json"
        return
    expected = json.loads(path.read_text())
    with torch.device("meta"):
        model = MANIFESTS[path.name]()
    assert {name: list(value.shape) for name, value in model.state_dict().items()} == expected


@pytest.mark.golden
def test_the_vision_tower_is_a_part_of_the_manifest():
    expected = json.loads(single("clip_vit_l_14_transformers_manifest.json").read_text())
    with torch.device("meta"):
        tower = build_clip_vision(CLIP_L14)
    vision = {name: shape for name, shape in expected.items() if name.startswith(("vision_model", "visual_"))}
    assert {name: list(value.shape) for name, value in tower.state_dict().items()} == vision


@pytest.mark.golden
def test_tokens():
    for path in golden_paths("rewards", "clip_tokens*.json"):
        for entry in json.loads(path.read_text()):
            assert clip_tokens([entry["prompt"]])[0].tolist() == entry["tokens"], entry["prompt"]


@pytest.mark.golden
def test_what_was_compared(capsys):
    """Says how many goldens ran and which wait for a real head; every head found fits its module."""
    makers = {
        "aesthetic": aesthetic_head,
        "rainy": aesthetic_head,
        "snowy": aesthetic_head,
        "compression": compression_head,
    }
    heads = golden_paths("rewards", "heads/*.safetensors")
    for path in heads:
        shapes = {name: value.shape for name, value in load_tensors(path).items()}
        assert shapes == {name: value.shape for name, value in makers[path.stem]().state_dict().items()}
    assert CASES, "no golden of any kind was found"
    left_out = f"; left out for want of a head: {', '.join(WITHOUT_HEAD)}" if WITHOUT_HEAD else ""
    with capsys.disabled():
        sys.stdout.write(
            f"\nrewards: {len(CASES)} goldens compared, {len(heads)} real heads found{left_out}\n"
        )


def test_every_kind_has_a_reward():
    assert {reward for reward, _, _ in KINDS.values()} <= set(REWARDS)
    assert issubclass(options.HpsOptions, options.ModelOptions)
