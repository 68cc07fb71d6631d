"""``object_detection``: an object to remove from a video, or to bring into it."""

from __future__ import annotations

import zlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from vader_core.errors import VaderError
from vader_core.prompts import Prompt
from vader_core.randomness import Randomness
from vader_core.reward import ImageReward, RewardOutput

from .coco import COCO_LABELS
from .labels import label_index, labels_of
from .loading import companion, load_model, published_architecture
from .options import ObjectDetectionOptions
from .precision import differentiated
from .preprocessing import detector_pixels
from .weight_files import DETECTOR_CONFIGS, DETECTOR_VOCABULARIES, DETECTORS

#: Least confidence of a detection in VADER.
YOLOS_THRESHOLD = 0.2
GROUNDING_DINO_THRESHOLD = 0.4

_COCO = {"id2label": COCO_LABELS}
_YOLOS: dict[str, dict[str, Any]] = {
    "yolos_base": {**_COCO, "image_size": [800, 1344], "use_mid_position_embeddings": True},
    "yolos_tiny": {
        **_COCO,
        "hidden_size": 192,
        "num_attention_heads": 3,
        "intermediate_size": 768,
        "image_size": [800, 1333],
        "use_mid_position_embeddings": False,
    },
}
_YOLOS_TINY_LAYOUT: dict[str, Any] = {
    **_COCO,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "image_size": [512, 512],
    "patch_size": 64,
    "num_detection_tokens": 10,
    "use_mid_position_embeddings": False,
}
_SWIN_TINY = {"embed_dim": 96, "depths": [2, 2, 6, 2], "num_heads": [3, 6, 12, 24], "window_size": 7}
_SWIN_BASE = {"embed_dim": 128, "depths": [2, 2, 18, 2], "num_heads": [4, 8, 16, 32], "window_size": 12}
_DINO: dict[str, dict[str, Any]] = {
    "grounding_dino_tiny": {"backbone_config": {**_SWIN_TINY, "image_size": 224}},
    "grounding_dino_base": {"backbone_config": {**_SWIN_BASE, "image_size": 384}},
}
_DINO_TINY_LAYOUT: dict[str, Any] = {
    "backbone_config": {"embed_dim": 8, "depths": [1, 1, 1, 1], "num_heads": [1, 2, 2, 2], "window_size": 4},
    "text_config": {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 32,
    },
    "d_model": 32,
    "encoder_layers": 1,
    "encoder_ffn_dim": 32,
    "encoder_attention_heads": 4,
    "decoder_layers": 2,
    "decoder_ffn_dim": 32,
    "decoder_attention_heads": 4,
    "num_queries": 10,
    "max_text_len": 32,
}


def presets(detector: str) -> dict[str, dict[str, Any]]:
    """The architectures of a detector by name."""
    if detector in _YOLOS:
        return {"full": _YOLOS[detector], "tiny": _YOLOS_TINY_LAYOUT}
    return {"full": _DINO[detector], "tiny": _DINO_TINY_LAYOUT}


def build_yolos(layout: Mapping[str, Any]) -> Any:
    """A YOLOS detector."""
    from transformers import YolosConfig, YolosForObjectDetection

    return YolosForObjectDetection(YolosConfig(**layout))


def build_grounding_dino(layout: Mapping[str, Any]) -> Any:
    """A Grounding DINO detector with a Swin backbone and a BERT text encoder."""
    from transformers import GroundingDinoConfig, GroundingDinoForObjectDetection

    entries = dict(layout)
    backbone = {"model_type": "swin", "out_indices": [2, 3, 4], **entries.pop("backbone_config")}
    text = {"model_type": "bert", **entries.pop("text_config", {})}
    config = GroundingDinoConfig(backbone_config=backbone, text_config=text, **entries)
    return GroundingDinoForObjectDetection(config)


class Detector(ABC):
    """Confidences of the boxes that show an object."""

    model: nn.Module

    @abstractmethod
    def __call__(
        self, pixels: Float[Tensor, "n 3 h w"], objects: Sequence[str], threshold: float
    ) -> tuple[Float[Tensor, "n q"], Tensor, Float[Tensor, "n q"]]:
        """Of every box: its confidence, whether it is a detection of the object, confidence of the object."""


class Yolos(Detector):
    """A box counts where its best class, the empty one aside, is the object with enough probability."""

    def __init__(self, model: nn.Module, device: torch.device, dtype: torch.dtype) -> None:
        self.model, self.device, self.dtype = model, device, dtype
        self.labels = labels_of(model.config)

    def __call__(
        self, pixels: Float[Tensor, "n 3 h w"], objects: Sequence[str], threshold: float
    ) -> tuple[Float[Tensor, "n q"], Tensor, Float[Tensor, "n q"]]:
        """See :class:`Detector`."""
        what = "reward 'object_detection'"
        classes = torch.tensor(
            [label_index(name.removesuffix("."), self.labels, needed_for=what) for name in objects],
            device=self.device,
        )
        logits = differentiated(
            lambda inputs: self.model(pixel_values=inputs).logits,
            pixels,
            device=self.device,
            dtype=self.dtype,
        )
        probabilities = logits.softmax(dim=-1)[..., :-1]
        confidence, best = probabilities.max(dim=-1)
        detected = (best == classes[:, None]) & (confidence > threshold)
        index = classes[:, None, None].expand(-1, probabilities.shape[1], 1)
        return confidence, detected, probabilities.gather(2, index).squeeze(2)


class GroundingDino(Detector):
    """A box counts where the sigmoid of its best text token is above the threshold."""

    def __init__(
        self, model: nn.Module, vocabulary: Path | None, device: torch.device, dtype: torch.dtype
    ) -> None:
        self.model, self.device, self.dtype = model, device, dtype
        self.words = None if vocabulary is None else _read_vocabulary(vocabulary)

    def tokens(self, text: str) -> list[int]:
        """BERT's word pieces of a lower-cased phrase that ends with a full stop."""
        phrase = text.lower().strip().rstrip(".")
        words = [self._word(word) for word in phrase.split()]
        return [101, *(piece for pieces in words for piece in pieces), 1012, 102]

    def _word(self, word: str) -> list[int]:
        if self.words is None:
            # Random weights know no vocabulary: any stable id above BERT's special ones will do.
            return [2000 + zlib.crc32(word.encode()) % 20000]
        pieces, start = [], 0
        while start < len(word):
            prefix = "##" if start else ""
            ends = range(len(word), start, -1)
            end = next((end for end in ends if prefix + word[start:end] in self.words), None)
            if end is None:
                raise VaderError(
                    f"reward 'object_detection': the detector's vocabulary cannot spell {word!r}"
                )
            pieces.append(self.words[prefix + word[start:end]])
            start = end
        return pieces

    def __call__(
        self, pixels: Float[Tensor, "n 3 h w"], objects: Sequence[str], threshold: float
    ) -> tuple[Float[Tensor, "n q"], Tensor, Float[Tensor, "n q"]]:
        """See :class:`Detector`."""
        rows = [self.tokens(name) for name in objects]
        longest = max(len(row) for row in rows)
        ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows], device=self.device)
        text = {
            "input_ids": ids,
            "attention_mask": (ids != 0).long(),
            "token_type_ids": torch.zeros_like(ids),
        }
        logits = differentiated(
            lambda inputs: self.model(pixel_values=inputs, **text).logits,
            pixels,
            device=self.device,
            dtype=self.dtype,
        )
        confidence = logits.sigmoid().amax(dim=-1)
        return confidence, confidence > threshold, confidence


def _read_vocabulary(path: Path) -> dict[str, int]:
    return {word: index for index, word in enumerate(path.read_text(encoding="utf-8").splitlines())}


def make_detector(options: ObjectDetectionOptions, device: torch.device, dtype: torch.dtype) -> Detector:
    """The detector that the options name, frozen."""
    name, what = options.detector, "reward 'object_detection'"
    layout = published_architecture(
        options.architecture, options.weights, presets(name), DETECTOR_CONFIGS[name], needed_for=what
    )
    build = build_yolos if name in _YOLOS else build_grounding_dino
    model = load_model(
        lambda: build(layout),
        options.weights,
        DETECTORS[name],
        device=device,
        dtype=dtype,
        needed_for=what,
        option="-o reward.object_detection.weights=PATH",
    )
    if name in _YOLOS:
        return Yolos(model, device, dtype)
    vocabulary = None
    if options.weights != "random":
        hint = "put BERT's vocab.txt there"
        vocabulary = companion(options.weights, DETECTOR_VOCABULARIES[name], needed_for=what, hint=hint)
    return GroundingDino(model, vocabulary, device, dtype)


class ObjectDetection(ImageReward):
    """How little (or, with ``mode=encourage``, how surely) a frame shows an object, 0 to 1.

    The loss is one minus the score.

    Removing, a frame's loss is the mean confidence of the detections of the object, zero where there are
    none. The original forgets the frames before one without the object; ``upstream=true`` does too.
    """

    name: ClassVar[str] = "object_detection"

    def __init__(self, options: ObjectDetectionOptions, *, device: torch.device, dtype: torch.dtype) -> None:
        if options.upstream and options.mode == "encourage":
            raise VaderError(
                "reward 'object_detection': upstream=true knows mode=remove only; drop one of the two"
            )
        self.detector = make_detector(options, device, dtype)
        self.model = self.detector.model
        self.device = device
        self.object, self.mode, self.upstream = options.object, options.mode, options.upstream
        default = YOLOS_THRESHOLD if options.detector in _YOLOS else GROUNDING_DINO_THRESHOLD
        self.threshold = default if options.threshold is None else options.threshold
        if isinstance(self.detector, Yolos):
            label_index(
                self.object.removesuffix("."), self.detector.labels, needed_for="reward 'object_detection'"
            )

    def pixels(self, frames: Float[Tensor, "n 3 H W"]) -> Float[Tensor, "n 3 h w"]:
        """Frames as the detector wants them."""
        return detector_pixels(frames.to(self.device))

    def _confidences(
        self, frames: Float[Tensor, "n 3 H W"], prompts: Sequence[Prompt]
    ) -> tuple[Float[Tensor, "n q"], Tensor, Float[Tensor, "n q"]]:
        objects = [str(prompt.metadata.get("object", self.object)) for prompt in prompts]
        return self.detector(self.pixels(frames), objects, self.threshold)

    def score_frames(
        self, frames: Float[Tensor, "n 3 H W"], prompts: Sequence[Prompt]
    ) -> Float[Tensor, " n"]:
        """One minus the mean confidence of the detections, or the object's highest confidence."""
        confidence, detected, of_object = self._confidences(frames, prompts)
        if self.mode == "encourage":
            return of_object.amax(dim=1)
        return 1.0 - _mean_detected(confidence, detected)

    def loss_frames(self, scores: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        """One minus the score."""
        return 1.0 - scores

    def __call__(
        self, video: Float[Tensor, "b f 3 H W"], prompts: Sequence[Prompt], rng: Randomness
    ) -> RewardOutput:
        """Score and loss; with ``upstream`` only the frames after the last one without the object count."""
        if not self.upstream:
            return super().__call__(video, prompts, rng)
        batch, count = video.shape[:2]
        repeated = [prompt for prompt in prompts for _ in range(count)]
        confidence, detected, _ = self._confidences(rearrange(video, "b f c H W -> (b f) c H W"), repeated)
        losses = _mean_detected(confidence, detected).view(batch, count)
        present = detected.any(dim=1).view(batch, count)
        counted = present.flip(1).int().cumprod(dim=1).flip(1)
        loss = (losses * counted).sum(dim=1) / count
        return RewardOutput(score=1.0 - loss, loss=loss)


def _mean_detected(confidence: Float[Tensor, "n q"], detected: Tensor) -> Float[Tensor, " n"]:
    return (confidence * detected).sum(dim=1) / detected.sum(dim=1).clamp(min=1)
