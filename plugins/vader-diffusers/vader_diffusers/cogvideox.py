"""CogVideoX 2B, 5B and 1.5, text to video (Yang et al. 2024, arXiv 2408.06072)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from vader_core.conditioning import Conditioning
from vader_core.errors import VaderError
from vader_core.geometry import Geometry
from vader_core.randomness import Randomness
from vader_diffusers.backbone import PipelineBackbone
from vader_diffusers.published_models import DEFAULT


class CogVideoX(PipelineBackbone):
    """CogVideoX, whose decoder takes two latent frames at a time, three at the start."""

    name = "cogvideox"
    pipelines = ("CogVideoXPipeline",)
    model = DEFAULT["cogvideox"]
    cheap_frames = "first"

    @property
    def compression(self) -> tuple[int, int]:
        """Four frames, and a halving between the autoencoder's blocks."""
        vae = self.autoencoder
        return int(vae["temporal_compression_ratio"]), 2 ** (len(vae["block_out_channels"]) - 1)

    @property
    def latent_channels(self) -> int:
        """The denoiser's."""
        return int(self.network["in_channels"])

    def validate(self, geometry: Geometry) -> None:
        """An odd number of latent frames too: of an even one the decoder makes other frames."""
        super().validate(geometry)
        times = self.compression[0]
        if (geometry.num_frames - 1) // times % 2:
            nearest = max(1, geometry.num_frames - times), geometry.num_frames + times
            raise VaderError(
                f"{self.asks}: {geometry.num_frames} frames are not {2 * times} k + 1 (nearest "
                f"{nearest[0]} and {nearest[1]})"
            )

    def added_frames(self, geometry: Geometry) -> int:
        """Latent frames put in front so that the denoiser's temporal patch divides them (1.5)."""
        patch = self.network.get("patch_size_t")
        frames = (geometry.num_frames - 1) // self.compression[0] + 1
        return 0 if patch is None else -frames % int(patch)

    def latent_shape(self, geometry: Geometry) -> tuple[int, int, int, int]:
        """With the latent frames that are put in front."""
        channels, frames, height, width = super().latent_shape(geometry)
        return channels, frames + self.added_frames(geometry), height, width

    def text_shapes(self) -> dict[str, tuple[int, ...]]:
        """T5's last layer."""
        length = self.text_length(226)
        return {"text": (length, int(self.network["text_embed_dim"]))}

    def embed(self, texts: list[str]) -> dict[str, Tensor]:
        """T5's last layer."""
        length = self.text_length(226)
        found, _ = self.pipe.encode_prompt(
            texts, do_classifier_free_guidance=False, max_sequence_length=length, device=self.device
        )
        return {"text": found}

    def call(self, network: Any, latents: Tensor, timestep: Tensor, conditioning: Conditioning) -> Tensor:
        """The v prediction; frames come before channels here."""
        turns = None
        if self.network["use_rotary_positional_embeddings"]:
            pixels = self.compression[1]
            turns = self.pipe._prepare_rotary_positional_embeddings(
                latents.shape[3] * pixels, latents.shape[4] * pixels, latents.shape[2], latents.device
            )
        text = conditioning.tensors["text"]
        given = latents.transpose(1, 2)
        out: Tensor = network(given, text, timestep, image_rotary_emb=turns, return_dict=False)[0]
        return out.transpose(1, 2)

    def unscaled(self, latents: Tensor) -> Tensor:
        """Over the autoencoder's factor."""
        return 1 / self.autoencoder["scaling_factor"] * latents

    def scaled(self, latents: Tensor) -> Tensor:
        """Times the autoencoder's factor."""
        return latents * self.autoencoder["scaling_factor"]

    @torch.no_grad()
    def encode_video(self, video: Tensor, rng: Randomness) -> Tensor:
        """As the base does, the first latent frames repeated in front where the denoiser's patch wants it."""
        latents = super().encode_video(video, rng)
        wanted = latents.shape[2]
        patch = self.network.get("patch_size_t")
        added = 0 if patch is None else -wanted % int(patch)
        return torch.cat([latents[:, :, :added], latents], dim=2)

    def decoded(self, latents: Tensor, wanted: list[int], geometry: Geometry) -> Tensor:
        """The wanted frames, chunk by chunk up to the last of them: what is behind changes nothing."""
        given = latents[:, :, self.added_frames(geometry) :]
        chosen: dict[int, Tensor] = {}
        start, kept = 0, None
        parts = self._chunks(given, max(wanted, default=-1))
        for part in parts:
            frames, kept = self._chunk(part, kept, several=len(parts) > 1)
            stop = start + frames.shape[2]
            chosen |= {frame: frames[:, :, frame - start] for frame in wanted if start <= frame < stop}
            start = stop
        return torch.stack([chosen[frame] for frame in wanted], dim=2)

    def _chunks(self, latents: Tensor, last: int) -> list[Tensor]:
        """The latent frames that are decoded together, up to those of the frame ``last``."""
        size, count = self.vae.num_latent_frames_batch_size, latents.shape[2]
        rest, times = count % size, self.compression[0]
        ends = [size * (chunk + 1) + rest for chunk in range(max(count // size, 1))]
        needed = next((i for i, end in enumerate(ends) if last <= (end - 1) * times), len(ends) - 1)
        starts = [0, *ends[:-1]]
        return [latents[:, :, a:b] for a, b in zip(starts, ends, strict=True)][: needed + 1]

    def _chunk(self, latents: Tensor, kept: Any, *, several: bool) -> tuple[Tensor, Any]:
        """A chunk's frames, and what its convolutions keep for the next: nothing is changed in place.

        The autoencoder checkpoints its own blocks; of several chunks each is a checkpoint around them.
        """

        def run(latents: Tensor, kept: Any) -> tuple[Tensor, Any]:
            if self.vae.post_quant_conv is not None:
                latents = self.vae.post_quant_conv(latents)
            frames, kept = self.vae.decoder(latents, conv_cache=kept)
            return frames, kept

        if several and self.gradient_checkpointing and torch.is_grad_enabled():
            found: tuple[Tensor, Any] = checkpoint(run, latents, kept, use_reentrant=False)
            return found
        return run(latents, kept)
