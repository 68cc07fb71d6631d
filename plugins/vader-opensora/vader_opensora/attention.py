"""The two attentions of an Open-Sora block, through fused kernels."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vader_core.precision import without_autocast
from vader_opensora import kernels
from vader_opensora.embeddings import rotate


class HeadNorm(nn.Module):
    """Root-mean-square norm over the channels of a head, statistics in float32 or wider."""

    def __init__(self, head_dim: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(head_dim))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """[…, head_dim] → the same."""
        return F.rms_norm(x, self.weight.shape, self.weight.to(x.dtype), self.eps)


class SelfAttention(nn.Module):
    """Attention among the tokens of a frame, or among the frames of a place.

    Args:
        width: Channels.
        num_heads: Heads.
        temporal: Whether the sequence runs along the frames; then positions are rotary.
        qk_norm: Whether queries and keys are normalised.
        turn_first: Turn queries and keys by their position before the norms (1.1) instead of after them
            (1.2). The norms' statistics do not change, but their weights then meet other channels.
    """

    def __init__(
        self,
        width: int,
        num_heads: int,
        *,
        temporal: bool,
        qk_norm: bool = True,
        turn_first: bool = False,
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.temporal = temporal
        self.turn_first = turn_first
        head_dim = width // num_heads
        self.qkv = nn.Linear(width, 3 * width)
        self.q_norm = HeadNorm(head_dim) if qk_norm else nn.Identity()
        self.k_norm = HeadNorm(head_dim) if qk_norm else nn.Identity()
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, rotation: tuple[Tensor, Tensor] | None) -> Tensor:
        """[b, t, s, width] → the same."""
        qkv = self.qkv(x)
        if kernels.self_attention_fits(qkv, self.num_heads):
            return self.proj(self._fused(qkv, rotation))
        if self.temporal:
            qkv = qkv.transpose(1, 2)
        # Each [b, outer, heads, sequence, head_dim], the sequence being frames or places.
        q, k, v = qkv.unflatten(-1, (3, self.num_heads, -1)).permute(3, 0, 1, 4, 2, 5).unbind(0)
        if rotation is not None and self.turn_first:
            q, k = rotate(q, rotation), rotate(k, rotation)
        with without_autocast(x.device):  # as in the blocks' norms
            q, k = self.q_norm(q), self.k_norm(k)
        if rotation is not None and not self.turn_first:
            q, k = rotate(q, rotation), rotate(k, rotation)
        out = F.scaled_dot_product_attention(q.flatten(0, 1), k.flatten(0, 1), v.flatten(0, 1))
        out = out.transpose(1, 2).flatten(2).unflatten(0, (len(x), -1))
        if self.temporal:
            out = out.transpose(1, 2)
        return self.proj(out)

    def _fused(self, qkv: Tensor, rotation: tuple[Tensor, Tensor] | None) -> Tensor:
        norms, eps = None, 0.0
        if isinstance(self.q_norm, HeadNorm) and isinstance(self.k_norm, HeadNorm):
            norms, eps = (self.q_norm.weight, self.k_norm.weight), self.q_norm.eps
        if self.temporal:
            return kernels.across_frames(
                qkv, self.num_heads, norms, rotation, eps, turn_first=self.turn_first
            )
        return kernels.within_frames(qkv, self.num_heads, norms, eps)


class CrossAttention(nn.Module):
    """Attention of every latent token to its own sample's text."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.q_linear = nn.Linear(width, width)
        self.kv_linear = nn.Linear(width, 2 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, text: Tensor, text_mask: Tensor | None) -> Tensor:
        """[b, t, s, width] → the same.

        Args:
            x: Latent tokens.
            text: [b, l, width].
            text_mask: [b, 1, 1, l] bool, True where a token counts; ``None`` where all do, which lets the
                fastest kernel run.
        """
        q = self.q_linear(x).flatten(1, 2).unflatten(-1, (self.num_heads, -1))
        k, v = self.kv_linear(text).unflatten(-1, (2, self.num_heads, -1)).unbind(2)
        return self.proj(kernels.attention(q, k, v, text_mask).reshape(x.shape))
