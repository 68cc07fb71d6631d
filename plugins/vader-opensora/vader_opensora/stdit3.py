"""STDiT3, the denoiser of Open-Sora 1.2, under its official key names."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from vader_core.nn import feature_cache
from vader_core.nn.precision import wide, widened, without_autocast
from vader_opensora.architecture import STDiT3Config
from vader_opensora.blocks import FinalLayer, STDiT3Block
from vader_opensora.embeddings import (
    CaptionEmbedder,
    PatchEmbedder,
    RotaryFrequencies,
    ScalarEmbedder,
    position_embedding,
)


class STDiT3(nn.Module):
    """A spatial-temporal diffusion transformer for video latents.

    Args:
        config: Sizes.
    """

    def __init__(self, config: STDiT3Config) -> None:
        super().__init__()
        self.config = config
        width = config.hidden_size
        patch = (config.patch_size[0], config.patch_size[1], config.patch_size[2])
        self.patch = patch
        self.out_channels = config.in_channels * (2 if config.pred_sigma else 1)

        self.rope = RotaryFrequencies(width // config.num_heads)
        self.x_embedder = PatchEmbedder(config.in_channels, width, patch)
        self.t_embedder = ScalarEmbedder(width)
        self.fps_embedder = ScalarEmbedder(width)
        self.t_block = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))
        self.y_embedder = CaptionEmbedder(config.caption_channels, width, config.model_max_length)
        self.spatial_blocks = nn.ModuleList(STDiT3Block(config, temporal=False) for _ in range(config.depth))
        self.temporal_blocks = nn.ModuleList(STDiT3Block(config, temporal=True) for _ in range(config.depth))
        self.final_layer = FinalLayer(width, patch, self.out_channels)
        self._positions: dict[tuple[Any, ...], Tensor] = {}

    def keep_time_wide(self, dtype: torch.dtype) -> STDiT3:
        """Hold what time and place pass through in ``dtype``, whatever the other weights have.

        Timesteps rounded to bfloat16 move the prediction by about a tenth; these modules are 1 % of the
        weights.
        """
        for module in (self.rope, self.t_embedder, self.fps_embedder, self.t_block):
            module.to(dtype)
        return self

    def forward(
        self,
        latents: Tensor,
        timesteps: Tensor,
        text: Tensor,
        text_mask: Tensor | None = None,
        frame_mask: Tensor | None = None,
        *,
        fps: Tensor,
        size: tuple[float, float],
        recompute: bool = False,
    ) -> Tensor:
        """Predict the velocity x0 - noise in the first half of the channels.

        Args:
            latents: [b, c, t, h, w], any sizes: padded to the patch and cropped back.
            timesteps: [b] in 0 … 1000.
            text: [b, l, caption_channels].
            text_mask: [b or a divisor of it, l], nonzero where a token counts; ``None`` counts all. Fewer
                rows are repeated in order until the batch is full.
            frame_mask: [b, t] bool, True where a frame is being generated, False where it is given (told
                timestep 0).
            fps: [b or a divisor of it].
            size: Height and width in pixels, as told to the model.
            recompute: Keep each block's input alone and compute the rest again in the backward pass.

        Returns:
            [b, 2 c, t, h, w] (c without ``pred_sigma``) in float32 (float64 for a float64 model).
        """
        latent_size = latents.shape[2:]
        dtype = self.x_embedder.proj.weight.dtype
        tokens = self.x_embedder(self._padded(latents).to(dtype))
        grid = tokens.shape[1:4]
        tokens = tokens.flatten(2, 3) + self._position(grid[1], grid[2], size, tokens)

        time, modulation, time_zero = self._time(timesteps, fps, frame_mask)
        mask = self._text_mask(text_mask, len(latents))
        caption = self.y_embedder(text.to(dtype))
        rotation = self.rope(grid[0])
        recompute = recompute and torch.is_grad_enabled()
        shared = (caption, modulation, mask)

        def through(block: nn.Module, *arguments: object) -> Tensor:
            out: Tensor = (
                checkpoint(block, *arguments, use_reentrant=False) if recompute else block(*arguments)
            )
            return out

        pairs = zip(self.spatial_blocks, self.temporal_blocks, strict=True)
        blocks = [block for pair in pairs for block in pair]

        def run(tokens: Tensor, first: int, last: int) -> Tensor:
            for index in range(first, last):
                temporal = index % 2 == 1
                tokens = through(blocks[index], tokens, *shared, rotation if temporal else None)
            return tokens

        last = len(blocks) - 1
        tokens = run(tokens, 0, 1)
        tokens = feature_cache.residual(tokens, lambda tokens: run(tokens, 1, last))
        tokens = run(tokens, last, len(blocks))
        tokens = self.final_layer(tokens, time, time_zero, frame_mask)
        return self._unpatched(tokens, grid, latent_size)

    # -- parts of the forward pass -----------------------------------------------------------------------

    def _padded(self, latents: Tensor) -> Tensor:
        t, h, w = (-size % patch for size, patch in zip(latents.shape[2:], self.patch, strict=True))
        return F.pad(latents, (0, w, 0, h, 0, t)) if t or h or w else latents

    def _position(self, rows: int, columns: int, size: tuple[float, float], like: Tensor) -> Tensor:
        scale = math.sqrt(size[0] * size[1]) / self.config.input_sq_size
        key = (rows, columns, scale, like.device, like.dtype)
        if key not in self._positions:
            width, dtype = self.config.hidden_size, wide(like.dtype)
            self._positions[key] = position_embedding(
                rows, columns, width, scale=scale, device=like.device, dtype=dtype
            ).to(like.dtype)
        return self._positions[key]

    def _time(
        self, timesteps: Tensor, fps: Tensor, frame_mask: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        batch = len(timesteps)
        # Autocast would round the timestep on its way in.
        with without_autocast(timesteps.device):
            rate = self.fps_embedder(fps.repeat(batch // len(fps)))
            time = self.t_embedder(timesteps) + rate
            modulation = self.t_block(time).unflatten(-1, (6, -1))[:, None]
            if frame_mask is None:
                return time, modulation, None
            time_zero = self.t_embedder(torch.zeros_like(timesteps)) + rate
            kept = self.t_block(time_zero).unflatten(-1, (6, -1))[:, None]
        return time, torch.where(frame_mask[:, :, None, None], modulation, kept), time_zero

    @staticmethod
    def _text_mask(mask: Tensor | None, batch: int) -> Tensor | None:
        if mask is None:
            return None
        return mask.bool().repeat(batch // len(mask), 1)[:, None, None]

    def _unpatched(self, tokens: Tensor, grid: Sequence[int], size: Sequence[int]) -> Tensor:
        # [b, t, s, pt * ph * pw * c] → [b, c, t * pt, h * ph, w * pw], cropped
        x = tokens.unflatten(2, (grid[1], grid[2])).unflatten(-1, (*self.patch, self.out_channels))
        x = x.permute(0, 7, 1, 4, 2, 5, 3, 6).flatten(6, 7).flatten(4, 5).flatten(2, 3)
        x = x[:, :, : size[0], : size[1], : size[2]]
        return widened(x)
