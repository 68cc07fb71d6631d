"""STDiT2, the denoiser of Open-Sora 1.1, under its official key names."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn

from vader_core.precision import without_autocast
from vader_opensora.attention import CrossAttention, SelfAttention
from vader_opensora.blocks import FinalLayer
from vader_opensora.embeddings import (
    CaptionEmbedder,
    FeedForward,
    PatchEmbedder,
    RotaryFrequencies,
    ScalarEmbedder,
)
from vader_opensora.kernels import added_and_modulated, gated, modulated
from vader_opensora.latent_transformer import LatentTransformer
from vader_opensora.v11.architecture import STDiT2Config


@dataclass(frozen=True)
class Told:
    """What the model is told of a clip beside its text: [b or a divisor of it] each.

    Args:
        height: Pixels.
        width: Pixels.
        ratio: Aspect ratio, height over width (width over height in 1.1's own training).
        num_frames: Video frames.
        fps: Frames per second; 120 for a single picture.
    """

    height: Tensor
    width: Tensor
    ratio: Tensor
    num_frames: Tensor
    fps: Tensor

    def repeated(self, batch: int) -> Told:
        """The same for ``batch`` samples: fewer rows are repeated in order."""
        values = (getattr(self, one.name) for one in fields(self))
        return Told(*(value.repeat(batch // len(value)) for value in values))


@dataclass(frozen=True)
class _Modulations:
    """What time and conditions say: per sample, or per frame where some frames are given."""

    spatial: Tensor  # [b, t or 1, 6, width]
    temporal: Tensor  # [b, t or 1, 3, width]
    time: Tensor  # [b, width], for the last layer's generated frames
    given: Tensor | None  # [b, width], for its given ones


class STDiT2Block(nn.Module):
    """Attention within frames, attention across them, cross-attention to the text, feed-forward.

    Args:
        config: Sizes of the model.
    """

    def __init__(self, config: STDiT2Config) -> None:
        super().__init__()
        width, heads, normed = config.hidden_size, config.num_heads, config.qk_norm
        self.scale_shift_table = nn.Parameter(torch.randn(6, width) / width**0.5)
        self.scale_shift_table_temporal = nn.Parameter(torch.randn(3, width) / width**0.5)
        self.attn = SelfAttention(width, heads, temporal=False, qk_norm=normed)
        self.attn_temp = SelfAttention(width, heads, temporal=True, qk_norm=normed, turn_first=True)
        self.cross_attn = CrossAttention(width, heads)
        self.mlp = FeedForward(width, int(width * config.mlp_ratio), width)

    def forward(
        self,
        x: Tensor,
        text: Tensor,
        spatial: Tensor,
        temporal: Tensor,
        text_mask: Tensor | None,
        rotation: tuple[Tensor, Tensor],
    ) -> Tensor:
        """[b, t, s, width] → the same.

        Args:
            x: Latent tokens.
            text: [b, l, width].
            spatial: [b, t or 1, 6, width]: shift, scale and gate of attention within frames, then of
                feed-forward.
            temporal: [b, t or 1, 3, width]: shift, scale and gate of attention across frames.
            text_mask: [b, 1, 1, l] bool or ``None``.
            rotation: Rotary angles along the frames.
        """
        table = (self.scale_shift_table + spatial).to(x.dtype)[:, :, None]
        shift_attn, scale_attn, gate_attn, shift_mlp, scale_mlp, gate_mlp = table.unbind(3)
        table = (self.scale_shift_table_temporal + temporal).to(x.dtype)[:, :, None]
        shift_temp, scale_temp, gate_temp = table.unbind(3)
        x = gated(x, gate_attn, self.attn(modulated(x, shift_attn, scale_attn), None))
        x = gated(x, gate_temp, self.attn_temp(modulated(x, shift_temp, scale_temp), rotation))
        x, normed = added_and_modulated(x, self.cross_attn(x, text, text_mask), shift_mlp, scale_mlp)
        return gated(x, gate_mlp, self.mlp(normed))


class STDiT2(LatentTransformer):
    """A spatial-temporal diffusion transformer for frame latents of any size and length.

    Args:
        config: Sizes.
    """

    def __init__(self, config: STDiT2Config) -> None:
        super().__init__(config.patch_size, 2 * config.in_channels, config.input_sq_size)
        self.config = config
        width = config.hidden_size

        self.x_embedder = PatchEmbedder(config.in_channels, width, self.patch)
        self.t_embedder = ScalarEmbedder(width)
        self.t_block = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))
        self.t_block_temp = nn.Sequential(nn.SiLU(), nn.Linear(width, 3 * width))
        self.y_embedder = CaptionEmbedder(config.caption_channels, width, config.model_max_length)
        self.rope = RotaryFrequencies(width // config.num_heads)
        self.blocks = nn.ModuleList(STDiT2Block(config) for _ in range(config.depth))
        self.final_layer = FinalLayer(width, self.patch, self.out_channels)
        # Height, width and ratio share the width between them.
        self.csize_embedder = ScalarEmbedder(width // 3)
        self.ar_embedder = ScalarEmbedder(width // 3)
        self.fl_embedder = ScalarEmbedder(width)
        self.fps_embedder = ScalarEmbedder(width)

    def keep_time_wide(self, dtype: torch.dtype) -> STDiT2:
        """Hold what time, place and conditions pass through in ``dtype``, whatever the other weights have."""
        for module in (
            self.rope,
            self.t_embedder,
            self.t_block,
            self.t_block_temp,
            self.csize_embedder,
            self.ar_embedder,
            self.fl_embedder,
            self.fps_embedder,
        ):
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
        told: Told,
        size: tuple[float, float],
        recompute: bool = False,
    ) -> Tensor:
        """Predict the noise, and behind it the share f of the learned variance as v = 2 f - 1.

        Args:
            latents: [b, c, t, h, w], any sizes: padded to the patch and cropped back.
            timesteps: [b] in 0 … 999.
            text: [b, l, caption_channels].
            text_mask: [b or a divisor of it, l], nonzero where a token counts; ``None`` counts all. Fewer
                rows are repeated in order until the batch is full.
            frame_mask: [b, t] bool, True where a frame is being generated, False where it is given (told
                timestep 0).
            told: The conditions.
            size: Height and width in pixels that set the scale of positions, for the whole batch.
            recompute: Keep each block's input alone and compute the rest again in the backward pass.

        Returns:
            [b, 2 c, t, h, w] in float32 (float64 for a float64 model).
        """
        dtype = self.x_embedder.proj.weight.dtype
        tokens = self.x_embedder(self.padded(latents).to(dtype))
        grid = tokens.shape[1:4]
        tokens = tokens.flatten(2, 3) + self.position(grid[1], grid[2], size, tokens)

        said = self._modulations(timesteps, told.repeated(len(latents)), frame_mask)
        mask = self.text_mask(text_mask, len(latents))
        caption = self.y_embedder(text.to(dtype))
        shared = (caption, said.spatial, said.temporal, mask, self.rope(grid[0]))
        blocks = [(block, shared) for block in self.blocks]
        tokens = self.through_blocks(tokens, blocks, recompute=recompute)
        tokens = self.final_layer(tokens, said.time, said.given, frame_mask)
        return self.unpatched(tokens, grid, latents.shape[2:])

    def _modulations(self, timesteps: Tensor, told: Told, frame_mask: Tensor | None) -> _Modulations:
        # Autocast would round timesteps and conditions on their way in.
        with without_autocast(timesteps.device):
            lengths = self.csize_embedder(told.height), self.csize_embedder(told.width)
            size = torch.cat([*lengths, self.ar_embedder(told.ratio)], dim=-1)
            pace = self.fl_embedder(told.num_frames) + self.fps_embedder(told.fps)
            time = self.t_embedder(timesteps)
            spatial, temporal = self._blocks_told(time + size, time + pace)
            if frame_mask is None:
                return _Modulations(spatial, temporal, time, None)
            zero = self.t_embedder(torch.zeros_like(timesteps))
            given = self._blocks_told(zero + size, zero + pace)
        generated = frame_mask[:, :, None, None]
        return _Modulations(
            torch.where(generated, spatial, given[0]),
            torch.where(generated, temporal, given[1]),
            time,
            # The official last layer knows the size for given frames alone.
            zero + size,
        )

    def _blocks_told(self, spatial: Tensor, temporal: Tensor) -> tuple[Tensor, Tensor]:
        return (
            self.t_block(spatial).unflatten(-1, (6, -1))[:, None],
            self.t_block_temp(temporal).unflatten(-1, (3, -1))[:, None],
        )
