"""A transformer block of STDiT3 and its last layer."""

from __future__ import annotations

from math import prod

import torch
from torch import Tensor, nn

from vader_opensora.architecture import STDiT3Config
from vader_opensora.attention import CrossAttention, SelfAttention
from vader_opensora.embeddings import FeedForward
from vader_opensora.kernels import added_and_modulated, gated, modulated


class STDiT3Block(nn.Module):
    """Self-attention (within frames, or across them), cross-attention to the text, feed-forward.

    Args:
        config: Sizes of the model.
        temporal: Whether the self-attention runs across frames.
    """

    def __init__(self, config: STDiT3Config, *, temporal: bool) -> None:
        super().__init__()
        width, heads = config.hidden_size, config.num_heads
        self.scale_shift_table = nn.Parameter(torch.randn(6, width) / width**0.5)
        self.attn = SelfAttention(width, heads, temporal=temporal, qk_norm=config.qk_norm)
        self.cross_attn = CrossAttention(width, heads)
        self.mlp = FeedForward(width, int(width * config.mlp_ratio), width)

    def forward(
        self,
        x: Tensor,
        text: Tensor,
        modulation: Tensor,
        text_mask: Tensor | None,
        rotation: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """[b, t, s, width] → the same.

        Args:
            x: Latent tokens.
            text: [b, l, width].
            modulation: [b, t or 1, 6, width], what the time says; shift, scale and gate of attention, then of
                feed-forward.
            text_mask: [b, 1, 1, l] bool or ``None``.
            rotation: Rotary angles where the block is temporal.
        """
        table = (self.scale_shift_table + modulation).to(x.dtype)[:, :, None]
        shift_attn, scale_attn, gate_attn, shift_mlp, scale_mlp, gate_mlp = table.unbind(3)
        x = gated(x, gate_attn, self.attn(modulated(x, shift_attn, scale_attn), rotation))
        x, normed = added_and_modulated(x, self.cross_attn(x, text, text_mask), shift_mlp, scale_mlp)
        return gated(x, gate_mlp, self.mlp(normed))


class FinalLayer(nn.Module):
    """Tokens to patches of the prediction.

    Args:
        width: Channels.
        patch: Patch size along (t, h, w).
        channels: Channels of the prediction.
    """

    def __init__(self, width: int, patch: tuple[int, int, int], channels: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, prod(patch) * channels)
        self.scale_shift_table = nn.Parameter(torch.randn(2, width) / width**0.5)

    def forward(self, x: Tensor, time: Tensor, time_zero: Tensor | None, frame_mask: Tensor | None) -> Tensor:
        """[b, t, s, width] → [b, t, s, patch * channels].

        Args:
            x: Latent tokens.
            time: [b, width].
            time_zero: The same at timestep 0; only with ``frame_mask``.
            frame_mask: [b, t] bool, True where a frame is being generated.
        """
        x = modulated(x, *self._modulation(time, x.dtype))
        if frame_mask is not None and time_zero is not None:
            # Frames that are kept are modulated on top of the first modulation: what the official weights
            # were trained with.
            kept = modulated(x, *self._modulation(time_zero, x.dtype))
            x = torch.where(frame_mask[:, :, None, None], x, kept)
        return self.linear(x)

    def _modulation(self, time: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        table = (self.scale_shift_table + time[:, None]).to(dtype)[:, None, None]
        return table[..., 0, :], table[..., 1, :]
