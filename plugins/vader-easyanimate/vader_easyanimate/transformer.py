"""EasyAnimate's denoiser: PixArt-alpha with motion modules and U-ViT skips, under its official key names."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vader_core.errors import VaderError
from vader_core.nn import feature_cache
from vader_core.precision import without_autocast
from vader_easyanimate.architecture import TransformerConfig
from vader_easyanimate.attention import FramePositions, text_bias
from vader_easyanimate.blocks import Block, modulated
from vader_easyanimate.embeddings import (
    AdaLayerNormSingle,
    PatchEmbedder,
    TwoLinears,
    frame_table,
    position_embedding,
)


class EasyAnimateTransformer(nn.Module):
    """A diffusion transformer for video latents (V2; V1 with ``motion.block_size`` 2).

    Args:
        config: Sizes.
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.pos_embed = PatchEmbedder(config.in_channels, width, config.patch_size)
        table = frame_table(config.motion.max_frames, width // config.motion.dim_div)
        self.transformer_blocks = nn.ModuleList(Block(config, table) for _ in range(config.num_layers))
        if config.skips:
            self.long_connect_fc = nn.ModuleList(nn.Linear(width, width) for _ in range(config.skips))
        self.adaln_single = AdaLayerNormSingle(width, sizes=config.tells_size)
        self.caption_projection = TwoLinears(config.caption_channels, width, silu=False)
        self.scale_shift_table = nn.Parameter(torch.randn(2, width) / width**0.5)
        self.proj_out = nn.Linear(width, config.patch_size**2 * config.out_channels)
        self._positions: dict[tuple[Any, ...], Tensor] = {}

    def keep_time_wide(self, dtype: torch.dtype) -> EasyAnimateTransformer:
        """Hold what time and size pass through in ``dtype``, whatever the other weights have."""
        self.adaln_single.to(dtype)
        return self

    def share_position_tables(self) -> None:
        """Let the position tables be one tensor: the 56 of the full model are a sixth of its numbers.

        The state dict keeps every name. Only for tables that hold the same, as all are made.
        """
        holders = [module for module in self.modules() if isinstance(module, FramePositions)]
        for holder in holders:
            holder.pe = holders[0].pe

    def forward(
        self,
        latents: Tensor,
        timestep: Tensor,
        text: Tensor,
        text_mask: Tensor | None = None,
        *,
        resolution: Tensor | None = None,
        aspect_ratio: Tensor | None = None,
        recompute: bool = False,
    ) -> Tensor:
        """Predict the noise, and the learned variance in the second half of the channels.

        Args:
            latents: [b, c, t, h, w]; h and w are multiples of the patch (times ``motion.block_size``).
            timestep: [b] in 0 … 999.
            text: [b, l, caption_channels].
            text_mask: [b, l], nonzero where a token counts; ``None`` counts all.
            resolution: [b, 2], height and width in pixels; needed where ``sample_size`` is 128, else refused.
            aspect_ratio: [b, 1], height over width; likewise.
            recompute: Keep each block's input alone and compute the rest again in the backward pass.

        Returns:
            [b, 2 c, t, h, w] in float32 (float64 for a float64 model).

        Raises:
            VaderError: Sizes that do not fit.
        """
        grid = self._grid(latents)
        self._check_told(resolution, aspect_ratio)
        dtype = self.pos_embed.proj.weight.dtype
        frames = latents.transpose(1, 2).flatten(0, 1).to(dtype)
        tokens = self.pos_embed(frames) + self._position(grid, latents.device, dtype)
        tokens = tokens.unflatten(0, (len(latents), -1))

        modulation, told = self._time(timestep, resolution, aspect_ratio)
        caption = self.caption_projection(text.to(dtype))
        bias = None if text_mask is None else text_bias(text_mask, dtype)
        given = (caption, bias, modulation, grid)
        tokens = self._through_blocks(tokens, given, recompute=recompute and torch.is_grad_enabled())

        shift, scale = (self.scale_shift_table + told[:, None]).to(dtype).unbind(1)
        out = self.proj_out(modulated(tokens, shift, scale, self.config.norm_eps))
        return self._unpatched(out, grid)

    # -- parts of the forward pass -----------------------------------------------------------------------

    def _through_blocks(self, tokens: Tensor, given: tuple[Any, ...], *, recompute: bool) -> Tensor:
        skips: list[Tensor] = []
        count, total = self.config.skips, len(self.transformer_blocks)

        def run(tokens: Tensor, first: int, last: int) -> Tensor:
            for index in range(first, last):
                block = self.transformer_blocks[index]
                if index >= total - count:
                    tokens = tokens + self.long_connect_fc[index - total + count](skips[total - 1 - index])
                if recompute:
                    tokens = checkpoint(block, tokens, *given, use_reentrant=False)
                else:
                    tokens = block(tokens, *given)
                if index < count:
                    skips.append(tokens)
            return tokens

        # The first block's skip reaches the last block, so what lies between can be left out.
        tokens = run(tokens, 0, 1)
        tokens = feature_cache.residual(tokens, lambda tokens: run(tokens, 1, total - 1))
        return run(tokens, total - 1, total)

    def _time(
        self, timestep: Tensor, resolution: Tensor | None, aspect_ratio: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        # Autocast would round the timestep on its way in.
        with without_autocast(timestep.device):
            modulation, told = self.adaln_single(timestep, resolution, aspect_ratio)
        return modulation.unflatten(-1, (6, -1)), told

    def _grid(self, latents: Tensor) -> tuple[int, int]:
        """Rows and columns of tokens."""
        patch, square = self.config.patch_size, self.config.motion.block_size
        height, width = latents.shape[-2:]
        if height % (patch * square) or width % (patch * square):
            raise VaderError(
                f"EasyAnimate's transformer: latents of {height} x {width} are not multiples of "
                f"{patch * square}"
            )
        if latents.shape[2] > self.config.motion.max_frames:
            raise VaderError(
                f"EasyAnimate's transformer: {latents.shape[2]} latent frames, but the position "
                f"table ends at {self.config.motion.max_frames}"
            )
        return height // patch, width // patch

    def _check_told(self, resolution: Tensor | None, aspect_ratio: Tensor | None) -> None:
        given = resolution is not None and aspect_ratio is not None
        if given != self.config.tells_size:
            wanted = "needs" if self.config.tells_size else "does not take"
            raise VaderError(f"EasyAnimate's transformer: this one {wanted} resolution and aspect_ratio")

    def _position(self, grid: tuple[int, int], device: torch.device, dtype: torch.dtype) -> Tensor:
        key = (grid, device, dtype)
        if key not in self._positions:
            self._positions[key] = position_embedding(
                *grid,
                self.config.width,
                base=self.config.base_size,
                scale=self.config.position_scale,
                device=device,
                dtype=dtype,
            )
        return self._positions[key]

    def _unpatched(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        # [b, t, s, p * p * c] → [b, c, t, h * p, w * p]
        patch = self.config.patch_size
        x = tokens.unflatten(-1, (patch, patch, -1)).unflatten(2, grid)
        x = x.permute(0, 6, 1, 2, 4, 3, 5).flatten(5, 6).flatten(3, 4)
        return x if x.dtype == torch.float64 else x.float()
