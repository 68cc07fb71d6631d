"""The temporal half of Open-Sora's video autoencoder: four image latents to one, and back."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vader_opensora.architecture import TemporalVAEConfig

#: Log-variances are clamped to this range before a sample is drawn.
LOG_VARIANCE_RANGE = (-30.0, 20.0)


class CausalConv3d(nn.Module):
    """A 3-D convolution that pads time only at the front (zeros) and space on both sides.

    Args:
        channels_in: Channels of the input.
        channels_out: Channels of the output.
        kernel: Kernel size on all three axes.
        time_stride: Stride along time.
        bias: Whether it has one.
    """

    def __init__(
        self, channels_in: int, channels_out: int, kernel: int, *, time_stride: int = 1, bias: bool = True
    ) -> None:
        super().__init__()
        self.conv = nn.Conv3d(channels_in, channels_out, kernel, stride=(time_stride, 1, 1), bias=bias)
        side = (kernel - 1) // 2
        self.padding = (side, side, side, side, kernel - time_stride if kernel > 1 else 0, 0)

    def forward(self, x: Tensor) -> Tensor:
        """[b, c, t, h, w] → [b, channels_out, t / time_stride, h, w]."""
        return self.conv(F.pad(x, self.padding) if any(self.padding) else x)


class ResBlock(nn.Module):
    """Norm, SiLU, convolution, twice, around a shortcut.

    Args:
        channels_in: Channels of the input.
        channels_out: Channels of the output.
        num_groups: Of the norms.
    """

    def __init__(self, channels_in: int, channels_out: int, num_groups: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(num_groups, channels_in)
        self.conv1 = CausalConv3d(channels_in, channels_out, 3, bias=False)
        self.norm2 = nn.GroupNorm(num_groups, channels_out)
        self.conv2 = CausalConv3d(channels_out, channels_out, 3, bias=False)
        self.conv3 = (
            CausalConv3d(channels_in, channels_out, 1, bias=False) if channels_in != channels_out else None
        )

    def forward(self, x: Tensor) -> Tensor:
        """[b, c, t, h, w] → [b, channels_out, t, h, w]."""
        hidden = self.conv1(F.silu(self.norm1(x)))
        hidden = self.conv2(F.silu(self.norm2(hidden)))
        return hidden + (x if self.conv3 is None else self.conv3(x))


def _stage(channels_in: int, channels_out: int, config: TemporalVAEConfig) -> nn.Sequential:
    inputs = [channels_in] + [channels_out] * (config.num_res_blocks - 1)
    return nn.Sequential(*(ResBlock(width, channels_out, config.num_groups) for width in inputs))


class Encoder(nn.Module):
    """Image latents of a chunk to moments."""

    def __init__(self, config: TemporalVAEConfig) -> None:
        super().__init__()
        widths = config.widths
        self.conv_in = CausalConv3d(config.in_out_channels, config.filters, 3, bias=False)
        self.block_res_blocks = nn.ModuleList(
            _stage(before, after, config)
            for before, after in zip([config.filters, *widths], widths, strict=False)
        )
        self.conv_blocks = nn.ModuleList(
            CausalConv3d(width, width, 3, time_stride=2) if halved else nn.Identity()
            for width, halved in zip(widths, config.temporal_downsample, strict=False)
        )
        self.res_blocks = _stage(widths[-1], widths[-1], config)
        self.norm1 = nn.GroupNorm(config.num_groups, widths[-1])
        self.conv2 = CausalConv3d(widths[-1], 2 * config.latent_embed_dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[b, c, t, h, w], t a multiple of the time factor → [b, 2 latent, t / factor, h, w]."""
        x = self.conv_in(x)
        for index, stage in enumerate(self.block_res_blocks):
            x = stage(x)
            if index < len(self.conv_blocks):
                x = self.conv_blocks[index](x)
        x = self.res_blocks(x)
        return self.conv2(F.silu(self.norm1(x)))


class Decoder(nn.Module):
    """Video latents of a chunk to image latents."""

    def __init__(self, config: TemporalVAEConfig) -> None:
        super().__init__()
        widths = config.widths
        self.conv1 = CausalConv3d(config.embed_dim, widths[-1], 3)
        self.res_blocks = _stage(widths[-1], widths[-1], config)
        self.block_res_blocks = nn.ModuleList(
            _stage(before, after, config)
            for before, after in zip([*widths[1:], widths[-1]], widths, strict=True)
        )
        # conv_blocks[i] stands between stage i + 1 and stage i, so its width is that of stage i + 1.
        self.conv_blocks = nn.ModuleList(
            CausalConv3d(width, 2 * width, 3) if doubled else nn.Identity()
            for width, doubled in zip(widths[1:], config.temporal_downsample, strict=True)
        )
        self.norm1 = nn.GroupNorm(config.num_groups, widths[0])
        self.conv_out = CausalConv3d(widths[0], config.in_out_channels, 3)

    def forward(self, z: Tensor) -> Tensor:
        """[b, latent, t, h, w] → [b, c, t * factor, h, w]."""
        x = self.conv1(z)
        x = self.res_blocks(x)
        for index in reversed(range(len(self.block_res_blocks))):
            x = self.block_res_blocks[index](x)
            if index > 0:
                x = self._double(x, self.conv_blocks[index - 1])
        return self.conv_out(F.silu(self.norm1(x)))

    @staticmethod
    def _double(x: Tensor, conv: nn.Module) -> Tensor:
        if isinstance(conv, nn.Identity):
            return x
        # [b, (c 2), t, h, w] → [b, c, (t 2), h, w]
        return conv(x).unflatten(1, (-1, 2)).movedim(2, 3).flatten(2, 3)


class TemporalVAE(nn.Module):
    """The temporal autoencoder; one call is one chunk, over which group norms take their statistics.

    Args:
        config: Sizes.
    """

    def __init__(self, config: TemporalVAEConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.quant_conv = CausalConv3d(2 * config.latent_embed_dim, 2 * config.embed_dim, 1)
        self.post_quant_conv = CausalConv3d(config.embed_dim, config.embed_dim, 1)
        self.decoder = Decoder(config)

    def latent_frames(self, num_frames: int) -> int:
        """Latent frames of a chunk of ``num_frames``."""
        return -(-num_frames // self.config.time_factor)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the latents of a chunk.

        Args:
            x: [b, c, t, h, w], any t; zeros are put in front up to a multiple of the time factor.
        """
        missing = -x.shape[2] % self.config.time_factor
        moments = self.quant_conv(self.encoder(F.pad(x, (0, 0, 0, 0, missing, 0)) if missing else x))
        mean, log_variance = moments.chunk(2, dim=1)
        return mean, torch.exp(0.5 * log_variance.clamp(*LOG_VARIANCE_RANGE))

    def decode(self, z: Tensor, num_frames: int) -> Tensor:
        """Image latents of a chunk: [b, latent, t, h, w] → [b, c, num_frames, h, w]."""
        decoded = self.decoder(self.post_quant_conv(z))
        return decoded[:, :, decoded.shape[2] - num_frames :]
