"""What Open-Sora's transformers share around their blocks: patches, positions, text masks, recomputation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from vader_core.nn import feature_cache
from vader_core.precision import wide, widened
from vader_opensora.embeddings import position_embedding


class LatentTransformer(nn.Module):
    """Latents to tokens and back; the blocks between are the subclass's.

    Args:
        patch: Patch size along (t, h, w).
        out_channels: Channels of the prediction.
        input_sq_size: Side in pixels of the square at which positions have their natural scale.
    """

    def __init__(self, patch: Sequence[int], out_channels: int, input_sq_size: int) -> None:
        super().__init__()
        self.patch = (int(patch[0]), int(patch[1]), int(patch[2]))
        self.out_channels = out_channels
        self.input_sq_size = input_sq_size
        self._positions: dict[tuple[Any, ...], Tensor] = {}

    def padded(self, latents: Tensor) -> Tensor:
        """[b, c, t, h, w] with zeros at the end of each axis up to a whole patch."""
        t, h, w = (-size % patch for size, patch in zip(latents.shape[2:], self.patch, strict=True))
        return F.pad(latents, (0, w, 0, h, 0, t)) if t or h or w else latents

    def unpatched(self, tokens: Tensor, grid: Sequence[int], size: Sequence[int]) -> Tensor:
        """Tokens to latents [b, c, t * pt, h * ph, w * pw], cropped to ``size``, in float32 or float64.

        Args:
            tokens: [b, t, s, pt * ph * pw * c], of the last layer.
            grid: Tokens along (t, h, w).
            size: Of the latents along (t, h, w).
        """
        x = tokens.unflatten(2, (grid[1], grid[2])).unflatten(-1, (*self.patch, self.out_channels))
        x = x.permute(0, 7, 1, 4, 2, 5, 3, 6).flatten(6, 7).flatten(4, 5).flatten(2, 3)
        x = x[:, :, : size[0], : size[1], : size[2]]
        return widened(x)

    def position(self, rows: int, columns: int, size: tuple[float, float], like: Tensor) -> Tensor:
        """Position of each token of a frame, [rows * columns, width of ``like``], in the dtype of ``like``.

        Args:
            rows: Tokens along the height.
            columns: Tokens along the width.
            size: Height and width in pixels, as told to the model.
            like: Tokens.
        """
        scale = math.sqrt(size[0] * size[1]) / self.input_sq_size
        key = (rows, columns, scale, like.device, like.dtype)
        if key not in self._positions:
            self._positions[key] = position_embedding(
                rows, columns, like.shape[-1], scale=scale, device=like.device, dtype=wide(like.dtype)
            ).to(like.dtype)
        return self._positions[key]

    @staticmethod
    def text_mask(mask: Tensor | None, batch: int) -> Tensor | None:
        """[b or a divisor of it, l] → [b, 1, 1, l] bool; fewer rows are repeated in order."""
        if mask is None:
            return None
        return mask.bool().repeat(batch // len(mask), 1)[:, None, None]

    def through_blocks(
        self, tokens: Tensor, blocks: Sequence[tuple[nn.Module, tuple[object, ...]]], *, recompute: bool
    ) -> Tensor:
        """``tokens`` through blocks, each with its further arguments.

        Args:
            tokens: [b, t, s, width].
            blocks: In order.
            recompute: Keep each block's input alone and compute the rest again in the backward pass.
        """
        recompute = recompute and torch.is_grad_enabled()

        def run(tokens: Tensor, first: int, last: int) -> Tensor:
            for block, arguments in blocks[first:last]:
                tokens = (
                    checkpoint(block, tokens, *arguments, use_reentrant=False)
                    if recompute
                    else block(tokens, *arguments)
                )
            return tokens

        last = len(blocks) - 1
        tokens = run(tokens, 0, 1)
        tokens = feature_cache.residual(tokens, lambda tokens: run(tokens, 1, last))
        return run(tokens, last, len(blocks))
