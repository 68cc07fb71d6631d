"""The encoder and the decoder of the video autoencoder."""

from __future__ import annotations

from torch import Tensor, nn

from vader_easyanimate.architecture import AutoencoderConfig
from vader_easyanimate.vae_layers import DownBlock, Frames, MidBlock, Normed, UpBlock, VideoConv


def _levels(config: AutoencoderConfig) -> list[bool | None]:
    """What each level's change of size does to the frames; the last level changes nothing."""
    return [*map(bool, config.temporal_levels[:-1]), None]


class Encoder(nn.Module):
    """Pixels to the moments of the latents.

    Args:
        config: Sizes.
    """

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        widths, groups = config.widths, config.norm_num_groups
        self.conv_in = VideoConv(config.in_channels, widths[0])
        self.down_blocks = nn.ModuleList(
            DownBlock(before, width, config.layers_per_block, groups, down)
            for before, width, down in zip([widths[0], *widths], widths, _levels(config), strict=False)
        )
        self.mid_block = MidBlock(widths[-1], groups)
        self.conv_norm_out = Normed(groups, widths[-1])
        self.conv_out = VideoConv(widths[-1], 2 * config.latent_channels)

    def forward(self, video: Tensor, frames: Frames) -> Tensor:
        """[b, 3, f, H, W] → [b, 2 c, t, H / 8, W / 8]."""
        x = self.conv_in(video, frames)
        for block in self.down_blocks:
            x = block(x, frames)
        return self.conv_out(self.conv_norm_out(self.mid_block(x, frames)), frames)


class Decoder(nn.Module):
    """Latents to pixels, in two parts: the first looks at neighbouring slices, the second does not.

    Args:
        config: Sizes.
    """

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        widths, groups = config.widths[::-1], config.norm_num_groups
        self.conv_in = VideoConv(config.latent_channels, widths[0])
        self.mid_block = MidBlock(widths[0], groups)
        self.up_blocks = nn.ModuleList(
            UpBlock(before, width, config.layers_per_block + 1, groups, up)
            for before, width, up in zip([widths[0], *widths], widths, _levels(config), strict=False)
        )
        self.conv_norm_out = Normed(groups, widths[-1])
        self.conv_out = VideoConv(widths[-1], config.out_channels)

    def features(self, latents: Tensor, frames: Frames) -> Tensor:
        """The first part: [b, c, t, h, w] → [b, d, t, h, w]."""
        return self.mid_block(self.conv_in(latents, frames), frames)

    def pixels(self, features: Tensor, frames: Frames) -> Tensor:
        """The second part: [b, d, t, h, w] → [b, 3, f, 8 h, 8 w]."""
        x = features
        for block in self.up_blocks:
            x = block(x, frames)
        return self.conv_out(self.conv_norm_out(x), frames)
