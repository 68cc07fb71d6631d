"""Residual blocks, the temporal convolutions inside them, and the resampling layers."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from vader_core.nn import functional as kernels
from vader_videocrafter.norm import GroupNormSiLU
from vader_videocrafter.transformer import fold_frames, unfold_frames


class FrameConv(nn.Conv3d):
    """Convolution along the frames only: kernel (3, 1, 1), padding (1, 0, 0).

    Computed as a two-dimensional convolution over (frame, pixel): the same sums, and much better kernels.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Any = (3, 1, 1),
        stride: Any = 1,
        padding: Any = None,
        **others: Any,
    ) -> None:
        # the whole signature of a convolution: the halves of a LoRA are made by the layer's own class
        if padding is None:
            padding = (1, 0, 0) if kernel_size == (3, 1, 1) else 0
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, **others)

    def forward(self, x: Tensor) -> Tensor:
        """`[b, c, t, h, w]` to `[b, c', t, h, w]`."""
        out = F.conv2d(x.flatten(3), self.weight.squeeze(-1), self.bias, padding=(1, 0))
        return out.unflatten(3, x.shape[3:])


def _frame_layers(channels: int, gap: int) -> nn.Sequential:
    # The gap keeps the official index of the convolution, which follows a dropout in three of four layers.
    idle = [nn.Identity() for _ in range(gap)]
    return nn.Sequential(GroupNormSiLU(32, channels), nn.Identity(), *idle, FrameConv(channels, channels))


class TemporalConvBlock(nn.Module):
    """Four normalised convolutions along the frames; a residual around all four."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = _frame_layers(channels, gap=0)
        self.conv2 = _frame_layers(channels, gap=1)
        self.conv3 = _frame_layers(channels, gap=1)
        self.conv4 = _frame_layers(channels, gap=1)

    def forward(self, x: Tensor) -> Tensor:
        """`[b, c, t, h, w]` to the same."""
        h, bias = x, None
        for layers in (self.conv1, self.conv2, self.conv3, self.conv4):
            # a bias is added by whatever follows
            h = layers[0](h, None if bias is None else bias[None])
            h, bias = kernels.convolve(layers[-1], h)
        return kernels.merge(h, x, bias)


class ResidualBlock(nn.Module):
    """Two convolutions per frame with the time embedding added between, then the temporal convolutions."""

    def __init__(
        self, in_channels: int, out_channels: int, embedding_width: int, *, temporal_conv: bool
    ) -> None:
        super().__init__()
        self.in_layers = nn.Sequential(
            GroupNormSiLU(32, in_channels), nn.Identity(), nn.Conv2d(in_channels, out_channels, 3, padding=1)
        )
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(embedding_width, out_channels))
        self.out_layers = nn.Sequential(
            GroupNormSiLU(32, out_channels),
            nn.Identity(),
            nn.Identity(),
            nn.Conv2d(out_channels, out_channels, 3, padding=1),
        )
        same = in_channels == out_channels
        self.skip_connection = nn.Identity() if same else nn.Conv2d(in_channels, out_channels, 1)
        # The checkpoint's own spelling.
        self.temopral_conv = TemporalConvBlock(out_channels) if temporal_conv else None

    def forward(self, x: Tensor, embedding: Tensor, num_frames: int) -> Tensor:
        """`x` `[b*t, c, h, w]`, `embedding` `[b, e]`; `[b*t, c', h, w]` out."""
        h, bias = kernels.convolve(self.in_layers[-1], self.in_layers[0](x))
        shift = self.emb_layers(embedding)
        h = self.out_layers[0](h, shift if bias is None else shift + bias)
        h, bias = kernels.convolve(self.out_layers[-1], h)
        kept, more = kernels.convolve(self.skip_connection, x)
        h = kernels.merge(h, kept, kernels.added(bias, more))
        if self.temopral_conv is None:
            return h
        return fold_frames(self.temopral_conv(unfold_frames(h, num_frames)))


class Downsample(nn.Module):
    """Halves the resolution of each frame with a strided convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.op = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """`[b*t, c, h, w]` to `[b*t, c, h/2, w/2]`."""
        return kernels.convolve_with_bias(self.op, x)


class Upsample(nn.Module):
    """Doubles the resolution of each frame: nearest neighbour, then a convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """`[b*t, c, h, w]` to `[b*t, c, 2h, 2w]`."""
        return kernels.convolve_with_bias(self.conv, kernels.doubled(x))
