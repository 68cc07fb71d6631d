"""Clips as vectors, for near duplicates that a hash does not see."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from vader_core.paths import entered

from .contracts import Clip, Embedder
from .options import ClipEmbedderOptions, ThumbnailOptions
from .sampling import at_points


def unit(vectors: np.ndarray) -> np.ndarray:
    """Rows of length 1, float32; a row of zeros stays."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return (vectors / np.maximum(lengths, 1e-12)).astype(np.float32)


class Thumbnail(Embedder):
    """Three frames shrunk to tiny pictures, each with its mean taken out."""

    def __init__(self, options: ThumbnailOptions) -> None:
        self.options = options

    def indices(self, num_frames: int, fps: float) -> list[int]:
        """At 10, 50 and 90 % of the length."""
        return at_points(num_frames)

    def embed(self, clips: Sequence[Clip]) -> np.ndarray:
        """[N, 3 * side * side * 3]."""
        import cv2

        size = (self.options.side, self.options.side)
        found = []
        for clip in clips:
            small = np.stack([cv2.resize(frame, size, interpolation=cv2.INTER_AREA) for frame in clip.frames])
            found.append((small - small.mean(axis=(1, 2), keepdims=True)).ravel())
        return unit(np.stack(found).astype(np.float64))


class ClipEmbedder(Embedder):
    """The mean of three frames' image features."""

    def __init__(self, options: ClipEmbedderOptions) -> None:
        from transformers import AutoImageProcessor, AutoModel

        from vader_core.errors import VaderError
        from vader_core.model_folder import from_folder

        from .device import chosen_device

        folder = entered(options.weights)
        if not folder.is_dir():
            raise VaderError(
                f"embedder 'clip': weights {folder}: no such folder; give a CLIP, SigLIP or DINOv2 model's"
            )
        self.batch_size = options.batch_size
        self.device = chosen_device(options.device)
        self.processor: Any = from_folder(AutoImageProcessor, folder, what="embedder 'clip'")
        model: Any = from_folder(AutoModel, folder, what="embedder 'clip'")
        self.model = model.eval().requires_grad_(False).to(self.device)

    def indices(self, num_frames: int, fps: float) -> list[int]:
        """At 10, 50 and 90 % of the length."""
        return at_points(num_frames)

    def embed(self, clips: Sequence[Clip]) -> np.ndarray:
        """[N, width of the model's features]."""
        import torch

        frames = [frame for clip in clips for frame in clip.frames]
        inputs = self.processor(images=frames, return_tensors="pt").to(self.device)
        with torch.no_grad():
            if hasattr(self.model, "get_image_features"):
                features = self.model.get_image_features(**inputs)
                features = getattr(features, "pooler_output", features)
            else:
                features = self.model(**inputs).pooler_output
        features = torch.nn.functional.normalize(features.float(), dim=1)
        means = features.view(len(clips), -1, features.shape[1]).mean(dim=1)
        return unit(means.cpu().numpy())
