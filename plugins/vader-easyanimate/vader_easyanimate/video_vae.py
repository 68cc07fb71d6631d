"""EasyAnimate's video autoencoders: MagViT in chunks of 9 frames, and the slice variant in slices of 8."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vader_easyanimate.architecture import SPATIAL, AutoencoderConfig
from vader_easyanimate.tile_size import Tiling
from vader_easyanimate.tiling import tiled
from vader_easyanimate.vae_halves import Decoder, Encoder
from vader_easyanimate.vae_layers import Frames

#: What latents are multiplied by for the denoiser. The official class has another default, which the official
#: code never reads.
LATENT_SCALE = 0.18215
#: Bounds of the log variance, as in every autoencoder of this family.
LOG_VARIANCE = (-30.0, 20.0)

#: Draws standard normal numbers of a shape: the autoencoder's only randomness.
Draw = Callable[[Sequence[int]], Tensor]


@dataclass(frozen=True)
class Piece:
    """A run of frames that is encoded or decoded on its own.

    Args:
        frames: First frame, and the one behind the last.
        latents: First latent frame, and the one behind the last.
        alone: Whether it is the single first frame of the slice variant.
    """

    frames: tuple[int, int]
    latents: tuple[int, int]
    alone: bool = False


class VideoVAE(nn.Module):
    """The autoencoder under its official key names; MagViT's and the slice variant's are the same.

    Pieces of a video do not see each other, but for the slice decoder, whose first part also sees the latents
    of the slices before and after.

    Args:
        config: Sizes.
    """

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        self.config = config
        channels = config.latent_channels
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        self.quant_conv = nn.Conv3d(2 * channels, 2 * channels, 1)
        self.post_quant_conv = nn.Conv3d(channels, channels, 1)
        #: Cut large frames into tiles; ``None`` does not.
        self.tiling: Tiling | None = None
        #: Recompute pieces in the backward pass where there is more than one.
        self.gradient_checkpointing = False

    # -- pieces ------------------------------------------------------------------------------------------

    def pieces(self, *, num_frames: int | None = None, num_latents: int | None = None) -> list[Piece]:
        """How a video is cut, from its frames or from its latents.

        >>> vae = VideoVAE(AutoencoderConfig(ch=32))
        >>> [piece.latents for piece in vae.pieces(num_frames=27)]
        [(0, 3), (3, 6), (6, 9)]
        """
        sizes = self.config
        total = num_frames if num_frames is not None else num_latents
        assert total is not None
        frames, latents = sizes.mini_batch_encoder, sizes.mini_batch_decoder
        unit = frames if num_frames is not None else latents
        found: list[Piece] = []
        start = frame = latent = 0
        if sizes.slice_compression_vae and total % 2:
            found.append(Piece((0, 1), (0, 1), alone=True))
            start = frame = latent = 1
        while start < total:
            held = min(unit, total - start)
            if num_frames is not None:
                held_frames, held_latents = held, self._latents_of(held)
            else:
                held_frames, held_latents = self._frames_of(held), held
            found.append(Piece((frame, frame + held_frames), (latent, latent + held_latents)))
            start, frame, latent = start + held, frame + held_frames, latent + held_latents
        return found

    @property
    def _halvings(self) -> int:
        return sum(bool(one) for one in self.config.temporal_levels[:-1])

    def _latents_of(self, frames: int) -> int:
        """Latent frames of one piece."""
        for _ in range(self._halvings):
            frames = frames // 2 if self.config.slice_compression_vae else (frames + 1) // 2
        return frames

    def _frames_of(self, latents: int) -> int:
        """Frames of one piece."""
        factor = 2**self._halvings
        return latents * factor if self.config.slice_compression_vae else (latents - 1) * factor + 1

    def _mode(self, piece: Piece) -> Frames:
        if not self.config.slice_compression_vae:
            return Frames.CAUSAL
        return Frames.ALONE if piece.alone else Frames.SLICE

    # -- encode ------------------------------------------------------------------------------------------

    def moments(self, video: Tensor) -> Tensor:
        """Mean and log variance, one behind the other: [b, 3, f, H, W] in [-1, 1] → [b, 2 c, t, h, w]."""
        parts = self.pieces(num_frames=video.shape[2])
        return torch.cat(
            [self._moments(video[:, :, slice(*one.frames)], one, len(parts)) for one in parts], 2
        )

    def _moments(self, video: Tensor, piece: Piece, pieces: int) -> Tensor:
        mode = self._mode(piece)

        def run(tile: Tensor) -> Tensor:
            return self.quant_conv(self.encoder(tile, mode))

        def whole(video: Tensor) -> Tensor:
            tiling = self.tiling
            if tiling is None or max(video.shape[-2:]) <= tiling.pixels:
                return run(video)
            side = tiling.pixels
            return tiled(
                run, video, side=side, out_side=side // SPATIAL, overlap=tiling.overlap, least=SPATIAL
            )

        return self._run(whole, video, pieces)

    def encode(self, video: Tensor, noise: Tensor | None = None) -> Tensor:
        """Latents, not scaled: [b, 3, f, H, W] in [-1, 1] → [b, c, t, h, w].

        Args:
            video: Pixels.
            noise: Standard normal numbers in the shape of the latents, by which the posterior is drawn from;
                ``None`` takes the means.
        """
        return _drawn(self.moments(video), noise)

    # -- decode ------------------------------------------------------------------------------------------

    def decode(self, latents: Tensor, frames: Sequence[int] | None = None) -> Tensor:
        """Frames of a video, nominally in [-1, 1]; pieces that hold none of them are left out.

        Args:
            latents: [b, c, t, h, w], not scaled.
            frames: Frame indices, in this order; ``None`` is all.

        Returns:
            [b, 3, f, 8 h, 8 w], the values of the full decode.
        """
        parts = self.pieces(num_latents=latents.shape[2])
        if frames is not None:
            wanted = [one for one in parts if any(one.frames[0] <= f < one.frames[1] for f in frames)]
        else:
            wanted = parts
        z = self.post_quant_conv(latents)
        decoded = {one.frames[0]: self._decoded(z, one, parts, len(wanted)) for one in wanted}
        if frames is None:
            return torch.cat(list(decoded.values()), dim=2)
        place = {start + i: part[:, :, i] for start, part in decoded.items() for i in range(part.shape[2])}
        return torch.stack([place[frame] for frame in frames], dim=2)

    def _decoded(self, z: Tensor, piece: Piece, parts: Sequence[Piece], pieces: int) -> Tensor:
        mode, (low, high) = self._mode(piece), self._context(piece, parts)
        before, own = piece.latents[0] - low, piece.latents[1] - piece.latents[0]

        def run(tile: Tensor) -> Tensor:
            features = self.decoder.features(tile, mode)
            return self.decoder.pixels(features[:, :, before : before + own], mode)

        def whole(z: Tensor) -> Tensor:
            tiling = self.tiling
            side = 0 if tiling is None else tiling.pixels // SPATIAL
            if tiling is None or max(z.shape[-2:]) <= side:
                return run(z)
            return tiled(run, z, side=side, out_side=tiling.pixels, overlap=tiling.overlap, least=1)

        return self._run(whole, z[:, :, low:high], pieces)

    def _context(self, piece: Piece, parts: Sequence[Piece]) -> tuple[int, int]:
        """The latents that the decoder's first part sees."""
        if not self.config.slice_compression_vae or piece.alone:
            return piece.latents
        index = parts.index(piece)
        low, high = piece.latents
        if index > 0 and not parts[index - 1].alone:
            low = parts[index - 1].latents[0]
        if index + 1 < len(parts):
            high = parts[index + 1].latents[1]
        return low, high

    def _run(self, function: Callable[[Tensor], Tensor], x: Tensor, pieces: int) -> Tensor:
        if self.gradient_checkpointing and torch.is_grad_enabled() and pieces > 1:
            out: Tensor = checkpoint(function, x, use_reentrant=False)
            return out
        return function(x)

    # -- seams -------------------------------------------------------------------------------------------

    @torch.no_grad()
    def smoothed(self, video: Tensor, draw: Draw) -> Tensor:
        """The video with the seams of its chunks averaged away: a second encode and decode, without gradient.

        All but half a chunk at either end is encoded (drawn, not the mean) and decoded in chunks that lie
        across the seams, and averaged with what it was. A video of one chunk is left as it is.

        Args:
            video: [b, 3, f, H, W] in [-1, 1].
            draw: Gives standard normal numbers of a shape; called once.
        """
        chunk = self.config.mini_batch_encoder
        if video.shape[2] <= chunk:
            return video
        front = chunk // 2
        middle = slice(front, video.shape[2] - (chunk - front))
        moments = self.moments(video[:, :, middle])
        again = self.decode(_drawn(moments, draw(moments.chunk(2, dim=1)[0].shape)))
        out = video.clone()
        out[:, :, middle] = (video[:, :, middle] + again) / 2
        return out


def _drawn(moments: Tensor, noise: Tensor | None) -> Tensor:
    mean, log_variance = moments.chunk(2, dim=1)
    if noise is None:
        return mean
    return mean + torch.exp(0.5 * log_variance.clamp(*LOG_VARIANCE)) * noise.to(mean)
