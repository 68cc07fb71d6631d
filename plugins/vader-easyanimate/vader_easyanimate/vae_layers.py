"""Layers of the video autoencoder, under the official key names.

Every layer that looks along the frames is told how (:class:`Frames`), because the two autoencoders share
their weights' names and differ in nothing else.
"""

from __future__ import annotations

from enum import Enum
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

EPS = 1e-6


class Frames(Enum):
    """How convolutions pad the frames, and what up-sampling does to them."""

    #: MagViT: the first frame stands for the two before it; up-sampling keeps it and doubles the others.
    CAUSAL = "causal"
    #: Slice autoencoder: zeros on both sides; up-sampling doubles every frame.
    SLICE = "slice"
    #: Slice autoencoder, the first of an odd number of frames: zeros on both sides, nothing doubled.
    ALONE = "alone"


class VideoConv(nn.Conv3d):
    """A convolution over frames, rows and columns; rows and columns are padded with zeros.

    Args:
        channels_in: Channels that come in.
        channels_out: Channels that go out.
        size: Of the kernel, along all three axes.
        stride: Along (frames, rows, columns); more than 1 pads rows and columns at their far ends alone.
    """

    def __init__(
        self, channels_in: int, channels_out: int, size: int = 3, stride: tuple[int, int, int] = (1, 1, 1)
    ) -> None:
        super().__init__(channels_in, channels_out, size, stride=stride)

    def forward(self, x: Tensor, frames: Frames) -> Tensor:  # type: ignore[override]  # one argument more
        """[b, c, f, h, w] → [b, c', f', h', w']."""
        reach = self.kernel_size[0] - 1
        if reach == 0:
            return super().forward(x)
        sides = (0, reach // 2) * 2 if self.stride[1] > 1 else (reach // 2,) * 4
        if frames is Frames.CAUSAL:
            x = torch.cat([x[:, :, :1].expand(-1, -1, reach, -1, -1), x], dim=2)
            return super().forward(F.pad(x, sides))
        return super().forward(F.pad(x, (*sides, reach // 2, reach // 2)))


class Normed(nn.GroupNorm):
    """Group norm whose statistics run over the frames too, then SiLU."""

    def __init__(self, groups: int, channels: int) -> None:
        super().__init__(groups, channels, eps=EPS)

    def forward(self, x: Tensor) -> Tensor:
        """[b, c, f, h, w] → the same."""
        return F.silu(super().forward(x))


class ResidualBlock(nn.Module):
    """Two convolutions, each behind a norm and SiLU, and the input.

    Args:
        channels_in: Channels that come in.
        channels_out: Channels that go out; where they differ the input passes a pointwise convolution.
        groups: Of the norms.
    """

    def __init__(self, channels_in: int, channels_out: int, groups: int) -> None:
        super().__init__()
        self.norm1 = Normed(groups, channels_in)
        self.conv1 = VideoConv(channels_in, channels_out)
        self.norm2 = Normed(groups, channels_out)
        self.conv2 = VideoConv(channels_out, channels_out)
        self.shortcut = VideoConv(channels_in, channels_out, 1) if channels_in != channels_out else None

    def forward(self, x: Tensor, frames: Frames) -> Tensor:
        """[b, c, f, h, w] → [b, c', f, h, w]."""
        hidden = self.conv1(self.norm1(x), frames)
        hidden = self.conv2(self.norm2(hidden), frames)
        return hidden + (x if self.shortcut is None else self.shortcut(x, frames))


class AttentionOverAll(nn.Module):
    """One head of attention over every place of every frame.

    Args:
        channels: Channels.
        groups: Of the norm.
    """

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.group_norm = nn.GroupNorm(groups, channels, eps=EPS)
        self.to_q = nn.Linear(channels, channels)
        self.to_k = nn.Linear(channels, channels)
        self.to_v = nn.Linear(channels, channels)
        self.to_out = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """[b, c, f, h, w] → the same."""
        places = self.group_norm(x).flatten(2).transpose(1, 2)
        q, k, v = (one(places)[:, None] for one in (self.to_q, self.to_k, self.to_v))
        out = self.to_out(F.scaled_dot_product_attention(q, k, v)[:, 0])
        return x + out.transpose(1, 2).reshape(x.shape)


class MidBlock(nn.Module):
    """Residual block, attention over everything, residual block."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(ResidualBlock(channels, channels, groups) for _ in range(2))
        self.attentions = nn.ModuleList([AttentionOverAll(channels, groups)])

    def forward(self, x: Tensor, frames: Frames) -> Tensor:
        """[b, c, f, h, w] → the same."""
        return self.convs[1](self.attentions[0](self.convs[0](x, frames)), frames)


class Downsampler(nn.Module):
    """Half of each side, and half of the frames where ``temporal``."""

    def __init__(self, channels: int, *, temporal: bool) -> None:
        super().__init__()
        self.conv = VideoConv(channels, channels, stride=(2 if temporal else 1, 2, 2))

    def forward(self, x: Tensor, frames: Frames) -> Tensor:
        """[b, c, f, h, w] → [b, c, f', h / 2, w / 2]."""
        return self.conv(x, frames)


class Upsampler(nn.Module):
    """Twice each side, and twice the frames where ``temporal``: see :class:`Frames`."""

    def __init__(self, channels: int, *, temporal: bool) -> None:
        super().__init__()
        self.conv = VideoConv(channels, channels)
        self.temporal = temporal

    def forward(self, x: Tensor, frames: Frames) -> Tensor:
        """[b, c, f, h, w] → [b, c, f', 2 h, 2 w]."""
        x = self.conv(F.interpolate(x, scale_factor=(1.0, 2.0, 2.0), mode="nearest"), frames)
        if not self.temporal or frames is Frames.ALONE:
            return x
        if frames is Frames.SLICE:
            return _doubled(x)
        return torch.cat([x[:, :, :1], _doubled(x[:, :, 1:])], dim=2) if x.shape[2] > 1 else x


def _doubled(x: Tensor) -> Tensor:
    """Twice the frames, linear between them."""
    return F.interpolate(x, scale_factor=(2.0, 1.0, 1.0), mode="trilinear")


def _residual_blocks(channels_in: int, channels_out: int, layers: int, groups: int) -> nn.ModuleList:
    widths = [channels_in] + [channels_out] * layers
    return nn.ModuleList(ResidualBlock(a, b, groups) for a, b in pairwise(widths))


class DownBlock(nn.Module):
    """A level of the encoder.

    Args:
        channels_in: Channels that come in.
        channels_out: Channels that go out.
        layers: Residual blocks.
        groups: Of the norms.
        down: ``None`` for the last level; otherwise whether frames are halved too.
    """

    def __init__(
        self, channels_in: int, channels_out: int, layers: int, groups: int, down: bool | None
    ) -> None:
        super().__init__()
        self.convs = _residual_blocks(channels_in, channels_out, layers, groups)
        self.downsampler = None if down is None else Downsampler(channels_out, temporal=down)

    def forward(self, x: Tensor, frames: Frames) -> Tensor:
        """[b, c, f, h, w] → [b, c', f', h', w']."""
        for conv in self.convs:
            x = conv(x, frames)
        return x if self.downsampler is None else self.downsampler(x, frames)


class UpBlock(nn.Module):
    """A level of the decoder; arguments as in :class:`DownBlock`."""

    def __init__(
        self, channels_in: int, channels_out: int, layers: int, groups: int, up: bool | None
    ) -> None:
        super().__init__()
        self.convs = _residual_blocks(channels_in, channels_out, layers, groups)
        self.upsampler = None if up is None else Upsampler(channels_out, temporal=up)

    def forward(self, x: Tensor, frames: Frames) -> Tensor:
        """[b, c, f, h, w] → [b, c', f', h', w']."""
        for conv in self.convs:
            x = conv(x, frames)
        return x if self.upsampler is None else self.upsampler(x, frames)
