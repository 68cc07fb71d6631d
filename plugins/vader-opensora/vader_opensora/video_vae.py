"""Open-Sora's video autoencoder: an image one on each frame, a temporal one on chunks of them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vader_core.nn.recompute import RecomputeSwitch, recompute_blocks
from vader_opensora.architecture import VideoVAEConfig
from vader_opensora.image_vae import Draw, ImageVAE
from vader_opensora.temporal_vae import ResBlock, TemporalVAE

#: Per-channel normalisation of the video latents; also stored in the official checkpoint.
LATENT_SHIFT = (-0.10, 0.34, 0.27, 0.98)
LATENT_SCALE = (3.85, 2.32, 2.33, 3.06)


class VideoVAE(nn.Module):
    """The autoencoder of Open-Sora 1.2 under its official key names.

    Args:
        config: Sizes.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, config: VideoVAEConfig) -> None:
        super().__init__()
        self.config = config
        self.spatial_vae = ImageVAE(config.spatial, config.image_batch)
        self.temporal_vae = TemporalVAE(config.temporal)
        self.register_buffer("scale", torch.tensor(LATENT_SCALE)[None, :, None, None, None])
        self.register_buffer("shift", torch.tensor(LATENT_SHIFT)[None, :, None, None, None])
        #: Recompute chunks and image batches in the backward pass where there is more than one.
        self.gradient_checkpointing = False

    def keep_constants_wide(self, dtype: torch.dtype) -> VideoVAE:
        """Hold the normalisation of the latents in ``dtype``, whatever the weights have."""
        self.shift, self.scale = self.shift.to(dtype), self.scale.to(dtype)
        return self

    def lighten(self, switch: RecomputeSwitch) -> None:
        """Keep fewer activations for the backward pass; values and parameters stay as they are.

        Args:
            switch: While on, both halves recompute block by block.
        """
        self.spatial_vae.lighten(switch)
        recompute_blocks(self.temporal_vae, (ResBlock,), switch)

    # -- encode ------------------------------------------------------------------------------------------

    def encode_images(self, images: Tensor, draw: Draw | None = None) -> Tensor:
        """Scaled image latents [n, 4, H / 8, W / 8] of [n, 3, H, W] in [-1, 1]; means without ``draw``."""
        return self.spatial_vae.encode(images, draw)

    def encode(self, video: Tensor, draw: Draw | None = None) -> Tensor:
        """Normalised latents of a video.

        Args:
            video: [b, 3, f, H, W] in [-1, 1].
            draw: Source of standard normal numbers, called once an image batch and then once a chunk;
                ``None`` takes the means of both posteriors.

        Returns:
            [b, 4, t, H / 8, W / 8].
        """
        images = self.encode_images(rearrange(video, "b c f h w -> (b f) c h w"), draw)
        latents = rearrange(images, "(b f) c h w -> b c f h w", b=len(video))
        chunks = []
        for part in latents.split(self.config.chunk_frames, dim=2):
            mean, deviation = self.temporal_vae.encode(part)
            chunks.append(mean if draw is None else mean + deviation * draw(mean.shape))
        return (torch.cat(chunks, dim=2) - self.shift) / self.scale

    # -- decode ------------------------------------------------------------------------------------------

    def decode(self, latents: Tensor, num_frames: int, frames: Sequence[int] | None = None) -> Tensor:
        """Frames of a video, nominally in [-1, 1].

        Chunks are independent of each other, and frames are once they are image latents. So only the chunks
        that hold ``frames`` go through the temporal half and only ``frames`` through the image autoencoder,
        with the values of a full decode.

        Args:
            latents: [b, 4, t, h, w], normalised.
            num_frames: Frames of the whole clip, which latents alone do not tell.
            frames: Frame indices, in this order; ``None`` is all.

        Returns:
            [b, 3, f, 8 h, 8 w].
        """
        wanted = range(num_frames) if frames is None else frames
        chunks = sorted({frame // self.config.chunk_frames for frame in wanted})
        recompute = self.gradient_checkpointing and torch.is_grad_enabled() and len(chunks) > 1
        size, step = self.config.chunk_frames, self.config.chunk_latents
        images: dict[int, Tensor] = {}
        for chunk in chunks:
            z = latents[:, :, chunk * step : (chunk + 1) * step] * self.scale + self.shift
            held = min(size, num_frames - chunk * size)
            decoded = self._decode_chunk(z.to(self._dtype), held, recompute=recompute)
            images |= {chunk * size + place: decoded[:, :, place] for place in range(held)}
        chosen = torch.stack([images[frame] for frame in wanted], dim=1)
        video = self.decode_images(chosen.flatten(0, 1))
        return rearrange(video, "(b f) c h w -> b c f h w", b=len(latents))

    def _decode_chunk(self, latents: Tensor, num_frames: int, *, recompute: bool) -> Tensor:
        if recompute:
            decoded: Tensor = checkpoint(self.temporal_vae.decode, latents, num_frames, use_reentrant=False)
            return decoded
        return self.temporal_vae.decode(latents, num_frames)

    def decode_images(self, latents: Tensor) -> Tensor:
        """[n, 4, h, w] scaled image latents → [n, 3, 8 h, 8 w]."""
        self.spatial_vae.gradient_checkpointing = self.gradient_checkpointing
        return self.spatial_vae.decode(latents)

    @property
    def _dtype(self) -> torch.dtype:
        return self.temporal_vae.post_quant_conv.conv.weight.dtype
