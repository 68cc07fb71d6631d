"""ViCLIP's two towers, with the key names of the published checkpoint.

A CLIP ViT whose image tower sees all patches of all frames at once: each patch gets its frame's spatial
position and its frame's temporal position; one class token stands for the clip.
"""

from __future__ import annotations

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F


class QuickGelu(nn.Module):
    """``x * sigmoid(1.702 x)``, CLIP's activation."""

    def forward(self, values: Tensor) -> Tensor:
        """The activation."""
        return values * torch.sigmoid(1.702 * values)


class Block(nn.Module):
    """Pre-norm self attention and feed-forward, tokens first: [n, b, d]."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(width, heads)
        self.ln_1 = nn.LayerNorm(width)
        self.mlp = nn.Sequential()
        self.mlp.add_module("c_fc", nn.Linear(width, 4 * width))
        self.mlp.add_module("gelu", QuickGelu())
        self.mlp.add_module("c_proj", nn.Linear(4 * width, width))
        self.ln_2 = nn.LayerNorm(width)

    def forward(self, tokens: Float[Tensor, "n b d"], mask: Tensor | None = None) -> Float[Tensor, "n b d"]:
        """One layer."""
        inner = self.ln_1(tokens)
        tokens = tokens + self.attn(inner, inner, inner, need_weights=False, attn_mask=mask)[0]
        return tokens + self.mlp(self.ln_2(tokens))


class Transformer(nn.Module):
    """Blocks under the name ``resblocks``."""

    def __init__(self, width: int, layers: int, heads: int) -> None:
        super().__init__()
        self.resblocks = nn.ModuleList(Block(width, heads) for _ in range(layers))

    def forward(self, tokens: Float[Tensor, "n b d"], mask: Tensor | None = None) -> Float[Tensor, "n b d"]:
        """All layers."""
        for block in self.resblocks:
            tokens = block(tokens, mask)
        return tokens


class VideoTower(nn.Module):
    """Pixels of a clip to one embedding."""

    def __init__(
        self,
        *,
        image_size: int,
        patch_size: int,
        width: int,
        layers: int,
        heads: int,
        num_frames: int,
        embed_dim: int,
    ) -> None:
        super().__init__()
        patch = (1, patch_size, patch_size)
        self.conv1 = nn.Conv3d(3, width, patch, stride=patch, bias=False)
        scale = width**-0.5
        self.class_embedding = nn.Parameter(scale * torch.randn(width))
        self.positional_embedding = nn.Parameter(
            scale * torch.randn((image_size // patch_size) ** 2 + 1, width)
        )
        self.temporal_positional_embedding = nn.Parameter(torch.zeros(1, num_frames, width))
        self.ln_pre = nn.LayerNorm(width)
        self.transformer = Transformer(width, layers, heads)
        self.ln_post = nn.LayerNorm(width)
        self.proj = nn.Parameter(scale * torch.randn(width, embed_dim))

    def forward(self, pixels: Float[Tensor, "b f 3 H W"]) -> Float[Tensor, "b d"]:
        """The class token's projection."""
        patches = self.conv1(rearrange(pixels, "b f c H W -> b c f H W"))
        patches = rearrange(patches, "b d f h w -> b f (h w) d")
        patches = patches + self.positional_embedding[1:]
        patches = patches + self._temporal(patches.shape[1])[:, :, None]
        first = (self.class_embedding + self.positional_embedding[0]).expand(len(patches), 1, -1)
        # The published model goes through the patches place by place, each place through all frames; the
        # order of tokens is of no consequence to attention.
        tokens = torch.cat([first.to(patches.dtype), rearrange(patches, "b f n d -> b (f n) d")], dim=1)
        tokens = self.transformer(rearrange(self.ln_pre(tokens), "b n d -> n b d"))
        return self.ln_post(tokens[0]) @ self.proj

    def _temporal(self, num_frames: int) -> Float[Tensor, "1 f d"]:
        table = self.temporal_positional_embedding
        if table.shape[1] == num_frames:
            return table
        resized = F.interpolate(rearrange(table, "1 f d -> 1 d f").float(), num_frames, mode="linear")
        return rearrange(resized, "1 d f -> 1 f d").to(table.dtype)


class TextTower(nn.Module):
    """Tokens to one embedding, read at the end token."""

    def __init__(
        self, *, vocab_size: int, context_length: int, width: int, layers: int, heads: int, embed_dim: int
    ) -> None:
        super().__init__()
        self.token_embedding = nn.Embedding(vocab_size, width)
        self.positional_embedding = nn.Parameter(0.01 * torch.randn(context_length, width))
        self.transformer = Transformer(width, layers, heads)
        self.ln_final = nn.LayerNorm(width)
        self.text_projection = nn.Parameter(width**-0.5 * torch.randn(width, embed_dim))

    def forward(self, tokens: Int[Tensor, "b l"]) -> Float[Tensor, "b d"]:
        """The end token's projection; the end token has the highest number."""
        length = tokens.shape[1]
        hidden = self.token_embedding(tokens) + self.positional_embedding[:length]
        mask = torch.full((length, length), float("-inf"), device=tokens.device, dtype=hidden.dtype).triu(1)
        hidden = rearrange(self.transformer(rearrange(hidden, "b l d -> l b d"), mask), "l b d -> b l d")
        ends = tokens.argmax(dim=-1)
        return (
            self.ln_final(hidden)[torch.arange(len(tokens), device=tokens.device), ends]
            @ self.text_projection
        )


class ViClip(nn.Module):
    """Both towers, and the temperature that training used (not needed for the cosine)."""

    def __init__(self, *, embed_dim: int, vision: dict[str, int], text: dict[str, int]) -> None:
        super().__init__()
        self.vision_encoder = VideoTower(embed_dim=embed_dim, **vision)
        self.text_encoder = TextTower(embed_dim=embed_dim, **text)
        self.temp = nn.Parameter(torch.tensor(0.01))
