"""The demo model's text encoder: a word embedding and one transformer layer, trained with the denoiser."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from vader_demo.captions import CAPTION_TOKENS, WORDS


class TextEncoder(nn.Module):
    """Token ids to features; padding is an ordinary token, so no mask is needed.

    Args:
        width: channels of a feature.
        heads: attention heads.
    """

    def __init__(self, width: int = 128, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.word_embedding = nn.Embedding(len(WORDS), width)
        self.position_embedding = nn.Parameter(torch.randn(CAPTION_TOKENS, width) * 0.1)
        self.norm1 = nn.LayerNorm(width)
        self.to_qkv = nn.Linear(width, 3 * width)
        self.to_out = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.expand = nn.Linear(width, 2 * width)
        self.contract = nn.Linear(2 * width, width)
        self.norm_out = nn.LayerNorm(width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map token ids (b, 12), int64, to features (b, 12, width)."""
        x = self.word_embedding(tokens) + self.position_embedding
        batch, length, width = x.shape
        qkv = self.to_qkv(self.norm1(x)).view(batch, length, 3, self.heads, width // self.heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        attended = functional.scaled_dot_product_attention(query, key, value)
        x = x + self.to_out(attended.transpose(1, 2).reshape(batch, length, width))
        x = x + self.contract(functional.silu(self.expand(self.norm2(x))))
        return self.norm_out(x)
