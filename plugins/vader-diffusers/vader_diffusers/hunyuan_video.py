"""HunyuanVideo, text to video (Kong et al. 2024, arXiv 2412.03603)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from vader_core.backbone import Defaults
from vader_core.conditioning import Conditioning
from vader_core.geometry import Geometry
from vader_diffusers.backbone import PipelineBackbone
from vader_diffusers.published_models import DEFAULT


class HunyuanVideo(PipelineBackbone):
    """HunyuanVideo, which is told how strongly it is guided and decodes in overlapping tiles of 16 frames."""

    name = "hunyuan_video"
    pipelines = ("HunyuanVideoPipeline",)
    model = DEFAULT["hunyuan_video"]
    block_lists = ("transformer_blocks", "single_transformer_blocks")
    cheap_frames = "first"

    @property
    def compression(self) -> tuple[int, int]:
        """As the autoencoder's configuration says."""
        vae = self.autoencoder
        return int(vae["temporal_compression_ratio"]), int(vae["spatial_compression_ratio"])

    @property
    def latent_channels(self) -> int:
        """The denoiser's."""
        return int(self.network["in_channels"])

    @property
    def lora_targets(self) -> tuple[str, ...]:
        """The projections of every attention, the text's own among them."""
        return (*super().lora_targets, "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")

    @property
    def defaults(self) -> Defaults:
        """`--guidance-scale` is what the model is told, unless `embedded_guidance` says that already."""
        found = super().defaults
        if not self.network["guidance_embeds"] or self.config.embedded_guidance is not None:
            return replace(found, guidance_scale=1.0)
        told = float(self.published_defaults.get("embedded_guidance", 6.0))
        return replace(found, guidance="embedded", guidance_scale=told)

    def told_guidance(self, conditioning: Conditioning) -> float:
        """What the model is told: the option, else `--guidance-scale`, else the published 6."""
        if self.config.embedded_guidance is not None:
            return float(self.config.embedded_guidance)
        published = self.published_defaults.get("embedded_guidance", 6.0)
        return float(conditioning.shared.get("guidance", published))

    def text_shapes(self) -> dict[str, tuple[int, ...]]:
        """Llama's third last layer behind the template, its mask, and CLIP's pooled vector."""
        length, network = self.text_length(256), self.network
        pooled = (int(network["pooled_projection_dim"]),)
        return {"text": (length, int(network["text_embed_dim"])), "mask": (length,), "pooled": pooled}

    def embed(self, texts: list[str]) -> dict[str, Tensor]:
        """Llama's third last layer behind the template, its mask, and CLIP's pooled vector."""
        text, pooled, mask = self.pipe.encode_prompt(
            texts, max_sequence_length=self.text_length(256), device=self.device
        )
        return {"text": text, "mask": mask, "pooled": pooled}

    def call(self, network: Any, latents: Tensor, timestep: Tensor, conditioning: Conditioning) -> Tensor:
        """The velocity."""
        given = conditioning.tensors
        told = None
        if self.network["guidance_embeds"]:
            told = latents.new_full((len(latents),), self.told_guidance(conditioning)) * 1000.0
        out: Tensor = network(
            latents,
            timestep,
            given["text"],
            given["mask"].to(latents.dtype),
            given["pooled"],
            guidance=told,
            return_dict=False,
        )[0]
        return out

    def unscaled(self, latents: Tensor) -> Tensor:
        """Over the autoencoder's factor."""
        return latents / self.autoencoder["scaling_factor"]

    def scaled(self, latents: Tensor) -> Tensor:
        """Times the autoencoder's factor."""
        return latents * self.autoencoder["scaling_factor"]

    def decoded(self, latents: Tensor, wanted: list[int], geometry: Geometry) -> Tensor:
        """The wanted frames, each from its tile and, where two overlap, from the one before too."""
        vae = self.vae
        times = vae.temporal_compression_ratio
        longest, stride = vae.tile_sample_min_num_frames, vae.tile_sample_stride_num_frames
        if not vae.use_framewise_decoding or latents.shape[2] <= longest // times:
            return self._tile(latents, several=False)[:, :, wanted]
        tiles: dict[int, Tensor] = {}

        def tile(number: int) -> Tensor:
            if number not in tiles:
                start = number * (stride // times)
                part = latents[:, :, start : start + longest // times + 1]
                frames = self._tile(part, several=max(wanted) > stride)
                # the first tile alone begins with a frame of its own
                tiles[number] = frames[:, :, 1:] if number else frames
            return tiles[number]

        found = []
        for frame in wanted:
            if frame <= stride:
                found.append(tile(0)[:, :, frame])
                continue
            number, place = (frame - 1) // stride, (frame - 1) % stride
            here, overlap = tile(number)[:, :, place], longest - stride
            if place < overlap:
                share = place / overlap
                here = tile(number - 1)[:, :, place - overlap] * (1 - share) + here * share
            found.append(here)
        return torch.stack(found, dim=2)

    def _tile(self, latents: Tensor, *, several: bool) -> Tensor:
        """The autoencoder checkpoints its own blocks; of several tiles each is a checkpoint around them."""

        def run(latents: Tensor) -> Tensor:
            frames: Tensor = self.vae.decoder(self.vae.post_quant_conv(latents))
            return frames

        if several and self.gradient_checkpointing and torch.is_grad_enabled():
            out: Tensor = checkpoint(run, latents, use_reentrant=False)
            return out
        return run(latents)
