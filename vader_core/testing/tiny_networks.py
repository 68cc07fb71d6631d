"""The networks of the tiny backbone."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

import torch
from einops import rearrange, repeat
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

#: Latent channels, as in Stable Diffusion's autoencoder.
CHANNELS = 4
#: Pixels a side that one latent pixel stands for.
SPATIAL = 4
#: Tokens of every text.
TOKENS = 8


def sinusoids(positions: Tensor, width: int) -> Tensor:
    """Sines and cosines of ``positions`` [...] at ``width / 2`` octaves: [..., width], same dtype."""
    octaves = 2.0 ** torch.arange(width // 2, device=positions.device, dtype=positions.dtype)
    angles = positions[..., None] * octaves
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


class Attention(nn.Module):
    """One attention head; ``context`` [B, l, d] defaults to the tokens themselves."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.to_q = nn.Linear(width, width, bias=False)
        self.to_k = nn.Linear(width, width, bias=False)
        self.to_v = nn.Linear(width, width, bias=False)
        self.to_out = nn.Linear(width, width)

    def forward(self, tokens: Tensor, context: Tensor | None = None) -> Tensor:
        """Tokens [B, n, d] plus what they attend to."""
        inner = self.norm(tokens)
        other = inner if context is None else context
        mixed = F.scaled_dot_product_attention(self.to_q(inner), self.to_k(other), self.to_v(other))
        out: Tensor = tokens + self.to_out(mixed)
        return out


class Block(nn.Module):
    """Attention among all latent pixels, attention to the text, and a small feed-forward net."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.attention = Attention(width)
        self.text_attention = Attention(width)
        self.norm = nn.LayerNorm(width)
        self.feed_forward = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, tokens: Tensor, text: Tensor) -> Tensor:
        """Tokens [B, n, d] and text [B, l, d] to tokens [B, n, d]."""
        tokens = self.text_attention(self.attention(tokens), text)
        out: Tensor = tokens + self.feed_forward(self.norm(tokens))
        return out


class TinyDenoiser(nn.Module):
    """A transformer over latent pixels.

    Args:
        width: Of its tokens.
        depth: Number of blocks.
        skip: Share of the input that is added to the output.
    """

    def __init__(self, width: int, depth: int, skip: float) -> None:
        super().__init__()
        self.width = width
        self.skip = skip
        self.proj_in = nn.Linear(2 * CHANNELS, width)
        self.time_embedding = nn.Sequential(nn.Linear(2 * width, width), nn.SiLU(), nn.Linear(width, width))
        self.blocks = nn.ModuleList(Block(width) for _ in range(depth))
        self.norm_out = nn.LayerNorm(width)
        self.proj_out = nn.Linear(width, CHANNELS)

    def forward(
        self,
        latents: Tensor,
        time: Tensor,
        fps: Tensor,
        text: Tensor,
        image: Tensor,
        *,
        checkpointing: bool = False,
    ) -> Tensor:
        """One call.

        Args:
            latents: [B, C, T, h, w].
            time: [B], about [-2, 2].
            fps: [B], frames per second.
            text: [B, l, d].
            image: [B, C, h, w], latents of the first frame; zeros where there is none.
            checkpointing: Recompute the blocks in the backward pass.

        Returns:
            [B, C, T, h, w].
        """
        frames, height, width = latents.shape[2:]
        pictures = repeat(image, "b c h w -> b c t h w", t=frames)
        tokens = rearrange(torch.cat([latents, pictures], dim=1), "b c t h w -> b (t h w) c")
        tokens = self.proj_in(tokens) + self._places(frames, height, width, latents)
        moment = torch.cat([sinusoids(time, self.width), sinusoids(fps / 32, self.width)], dim=-1)
        tokens = tokens + self.time_embedding(moment.to(latents.dtype))[:, None]
        for block in self.blocks:
            if checkpointing and torch.is_grad_enabled():
                tokens = checkpoint(block, tokens, text, use_reentrant=False)
            else:
                tokens = block(tokens, text)
        out = self.proj_out(self.norm_out(tokens))
        shaped = rearrange(out, "b (t h w) c -> b c t h w", t=frames, h=height, w=width)
        return self.skip * latents + shaped

    def _places(self, frames: int, height: int, width: int, like: Tensor) -> Tensor:
        axes = [
            sinusoids(torch.arange(size, device=like.device, dtype=like.dtype) / 8, self.width)
            for size in (frames, height, width)
        ]
        grid = axes[0][:, None, None] + axes[1][None, :, None] + axes[2][None, None, :]
        return 0.3 * rearrange(grid, "t h w d -> 1 (t h w) d")


class TinyAutoencoder(nn.Module):
    """Latent frames to pixels and back, each latent frame on its own.

    Args:
        frames: Video frames that one latent frame holds, r.
    """

    def __init__(self, frames: int) -> None:
        super().__init__()
        self.frames = frames
        self.conv_in = nn.Conv2d(CHANNELS, 8, 3, padding=1)
        self.conv_out = nn.Conv2d(8, 3 * frames * SPATIAL**2, 1)
        self.encoder = nn.Conv2d(3 * SPATIAL**2, CHANNELS, 1)

    def decode(self, latents: Tensor) -> Tensor:
        """[N, C, h, w] to [N, r, 3, H, W], about 0.5 ± 0.25, unclamped."""
        inner = self.conv_out(torch.tanh(self.conv_in(latents)))
        pixels = F.pixel_shuffle(inner, SPATIAL)
        return 0.5 + 0.25 * rearrange(pixels, "n (r c) H W -> n r c H W", r=self.frames)

    def encode(self, frames: Tensor) -> Tensor:
        """[N, 3, H, W] in [0, 1] to [N, C, h, w]."""
        out: Tensor = self.encoder(F.pixel_unshuffle(2 * frames - 1, SPATIAL))
        return out


class TinyTextEncoder(nn.Module):
    """Characters, hashed into a table and summed by position."""

    def __init__(self, width: int, size: int = 128) -> None:
        super().__init__()
        self.characters = nn.Embedding(size, width)
        self.positions = nn.Embedding(TOKENS, width)

    def forward(self, texts: Sequence[str]) -> Tensor:
        """Texts to [N, l, d]."""
        return torch.stack([self._one(text) for text in texts])

    def _one(self, text: str) -> Tensor:
        rows = [self.positions.weight]
        for index, character in enumerate(text):
            place = F.one_hot(torch.tensor(index % TOKENS), TOKENS).to(self.positions.weight)
            row = _hashed(character, len(self.characters.weight))
            rows.append(place[:, None] * self.characters.weight[row])
        return torch.stack(rows).sum(dim=0) / math.sqrt(1 + len(text) / TOKENS)


def _hashed(character: str, size: int) -> int:
    return hashlib.blake2b(character.encode(), digest_size=2).digest()[0] % size
