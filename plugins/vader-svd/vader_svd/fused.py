"""The U-Net's parts on the core's fused kernels; every number stays the same to rounding."""

from __future__ import annotations

from typing import Any

from diffusers.models.activations import GEGLU
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from diffusers.models.resnet import SpatioTemporalResBlock
from diffusers.models.transformers.transformer_temporal import TransformerSpatioTemporalModel
from torch import Tensor, nn

from vader_core import kernels
from vader_core.fused import fuse_norms, keep_innermost, swap_forward


def _gated(self: Any, hidden_states: Tensor) -> Tensor:
    return kernels.gated_gelu(self.proj(hidden_states))


class FusedAttention(AttnProcessor2_0):  # type: ignore[misc]
    """Attention without mask or own norms through the core's kernel; anything else as diffusers does."""

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> Tensor:
        """[b, n, width] → the same."""
        norms = (attn.spatial_norm, attn.group_norm, attn.norm_cross, attn.norm_q, attn.norm_k)
        plain = all(norm is None for norm in norms) and not attn.residual_connection
        if attention_mask is not None or not plain or attn.rescale_output_factor != 1.0:
            return super().__call__(
                attn, hidden_states, encoder_hidden_states, attention_mask, *args, **kwargs
            )
        source = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        parts = attn.to_q(hidden_states), attn.to_k(source), attn.to_v(source)
        q, k, v = (part.unflatten(-1, (attn.heads, -1)).transpose(1, 2) for part in parts)
        out: Tensor = attn.to_out[0](kernels.attention(q, k, v).transpose(1, 2).flatten(2))
        return out


def recomputed_blocks() -> tuple[type[nn.Module], ...]:
    """The units of gradient checkpointing, in the U-Net and in the decoder.

    Smaller than diffusers' own: those leave the temporal transformers' activations, and those of three
    blocks of the decoder at full size, in memory together.
    """
    return SpatioTemporalResBlock, TransformerSpatioTemporalModel


def fuse(denoiser: nn.Module) -> None:
    """Change a U-Net of diffusers in place."""
    fuse_norms(denoiser)
    swap_forward(denoiser, GEGLU, _gated)
    keep_innermost(denoiser, (TransformerSpatioTemporalModel,))
    for part in denoiser.modules():
        if isinstance(part, Attention):
            part.set_processor(FusedAttention())
