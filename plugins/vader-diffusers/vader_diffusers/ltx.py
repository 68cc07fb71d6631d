"""LTX-Video 2B and 13B, text to video (HaCohen et al. 2024, arXiv 2501.00103)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from einops import rearrange
from torch import Tensor

from vader_core.backbone import Mixing
from vader_core.conditioning import Conditioning
from vader_core.errors import VaderError
from vader_core.geometry import Geometry
from vader_core.prediction import Prediction
from vader_core.prompts import Prompt
from vader_core.randomness import Randomness
from vader_core.schedule import RectifiedFlow
from vader_core.text import Text
from vader_diffusers.backbone import PipelineBackbone
from vader_diffusers.published_models import DEFAULT
from vader_diffusers.scheduling import Scheduling

#: What the authors decode with from 0.9.1 on, where a folder is like no published one: time and noise.
_DECODER = {"decode_timestep": 0.05, "decode_noise_scale": 0.025, "guidance_rescale": 0.0}


class LTX(PipelineBackbone):
    """LTX-Video; from 0.9.1 on its decoder is told a time and takes noise away itself."""

    name = "ltx"
    pipelines = ("LTXPipeline", "LTXConditionPipeline")
    model = DEFAULT["ltx"]

    @property
    def conditioned(self) -> bool:
        """Whether the folder is of the later pipeline, whose times and places differ."""
        return self.source.index.get("_class_name") == "LTXConditionPipeline"

    def _read_scheduling(self) -> Scheduling:
        found = super()._read_scheduling()
        if not self.conditioned or not isinstance(found.schedule, RectifiedFlow):
            return found
        return replace(found, schedule=replace(found.schedule, spacing="linear_quadratic"))

    @property
    def compression(self) -> tuple[int, int]:
        """As the autoencoder's configuration says, or as its blocks make it."""
        vae = self.autoencoder
        halvings = sum(vae["spatio_temporal_scaling"])
        times = vae.get("temporal_compression_ratio") or vae["patch_size_t"] * 2**halvings
        return int(times), int(vae.get("spatial_compression_ratio") or vae["patch_size"] * 2**halvings)

    @property
    def latent_channels(self) -> int:
        """The denoiser's."""
        return int(self.network["in_channels"])

    def setting(self, name: str) -> float:
        """An option, else the published model's, else the authors' usual value."""
        given = getattr(self.config, name)
        return float({**_DECODER, **self.published_defaults}[name] if given is None else given)

    @property
    def _length(self) -> int:
        return self.text_length(256 if self.conditioned else 128)

    def text_shapes(self) -> dict[str, tuple[int, ...]]:
        """T5's last layer, and which tokens are no padding."""
        length = self._length
        return {"text": (length, int(self.network["caption_channels"])), "mask": (length,)}

    def embed(self, texts: list[str]) -> dict[str, Tensor]:
        """T5's last layer, and which tokens are no padding."""
        text, mask, *_ = self.pipe.encode_prompt(
            texts,
            do_classifier_free_guidance=False,
            max_sequence_length=self._length,
            device=self.device,
        )
        return {"text": text, "mask": mask}

    def condition(
        self,
        text: Text,
        prompts: Sequence[Prompt],
        geometry: Geometry,
        rng: Randomness,
        *,
        image: Tensor | None = None,
    ) -> Conditioning:
        """The texts, and the noise that a decoder with a time is given."""
        found = super().condition(text, prompts, geometry, rng, image=image)
        if not self.autoencoder.get("timestep_conditioning"):
            return found
        wide = torch.float64 if self.dtype == torch.float64 else torch.float32
        shape = self.latent_shape(geometry)
        noise = {"decoder_noise": rng.normal("decoder noise", shape, device=self.device, dtype=wide)}
        return Conditioning(
            {**found.tensors, **noise}, {**(found.unconditional or {}), **noise}, found.shared
        )

    def call(self, network: Any, latents: Tensor, timestep: Tensor, conditioning: Conditioning) -> Tensor:
        """The velocity; latents go in as tokens, and places are told in seconds and pixels."""
        frames, height, width = latents.shape[2:]
        (times, pixels), fps = self.compression, conditioning.shared["geometry"].fps
        places: dict[str, Any] = {"num_frames": frames, "height": height, "width": width}
        places["rope_interpolation_scale"] = (times / fps, pixels, pixels)
        if self.conditioned:
            places = {"video_coords": self._places(latents, fps)}
        out = network(
            rearrange(latents, "b c t h w -> b (t h w) c"),
            conditioning.tensors["text"],
            timestep,
            conditioning.tensors["mask"],
            **places,
            return_dict=False,
        )[0]
        return rearrange(out, "b (t h w) c -> b c t h w", t=frames, h=height)

    def _places(self, latents: Tensor, fps: float) -> Tensor:
        """Seconds and pixels of every token [B, 3, T h w]: a latent frame starts with its first own frame."""
        times, pixels = self.compression
        device = latents.device
        steps = [torch.arange(count, device=device, dtype=torch.float32) for count in latents.shape[2:]]
        seconds = (steps[0] * times + 1 - times).clamp(min=0) / fps
        grid = torch.meshgrid(seconds, steps[1] * pixels, steps[2] * pixels, indexing="ij")
        return torch.stack(grid).flatten(1).expand(len(latents), -1, -1)

    def unscaled(self, latents: Tensor) -> Tensor:
        """Times the deviations over the factor, plus the means, which lie among the autoencoder's weights."""
        mean, std = channel_statistics(self.vae, latents)
        return latents * std / self.autoencoder["scaling_factor"] + mean

    def scaled(self, latents: Tensor) -> Tensor:
        """Minus the means, times the factor over the deviations."""
        mean, std = channel_statistics(self.vae, latents)
        return (latents - mean) * self.autoencoder["scaling_factor"] / std

    def decoded(self, latents: Tensor, wanted: list[int], geometry: Geometry) -> Tensor:
        """All frames, of which some are kept: no part of them can be decoded alone, exactly."""
        timestep = None
        if self.autoencoder.get("timestep_conditioning"):
            timestep = latents.new_full((len(latents),), self.setting("decode_timestep"))
        video: Tensor = self.vae.decode(latents, timestep, return_dict=False)[0]
        return video[:, :, wanted]

    def before_decode(self, latents: Tensor, conditioning: Conditioning) -> Tensor:
        """With the noise mixed in that a decoder with a time takes away again."""
        noise = conditioning.tensors.get("decoder_noise")
        if noise is None:
            return latents
        share = self.setting("decode_noise_scale")
        mixed = (1 - share) * self.unscaled(latents) + share * noise.to(latents.dtype)
        return self.scaled(mixed)

    def check_sequence(self, parts: int, geometry: Geometry) -> None:
        """Not with a rescaled guidance, whose gradient at one token comes from all others."""
        if self.setting("guidance_rescale"):
            raise VaderError(
                f"{self.asks}: guidance_rescale needs the whole clip's gradient, so it does not go with "
                "parallel.context: leave one out"
            )
        super().check_sequence(parts, geometry)

    def combine(
        self,
        conditional: Prediction,
        unconditional: Prediction,
        mixing: Mixing,
        latents: Tensor,
        timestep: Tensor,
        **further: Prediction,
    ) -> Prediction:
        """The usual mixture, partly brought back to the text branch's spread (Lin et al. 2023, eq. 15)."""
        mixed = mixing.combine(conditional, unconditional)
        value = rescaled(mixed.value, conditional.value, self.setting("guidance_rescale"))
        return replace(mixed, value=value)


def channel_statistics(vae: Any, like: Tensor) -> tuple[Tensor, Tensor]:
    """Means and deviations per channel, which lie among the autoencoder's weights, as [1, C, 1, 1, 1]."""
    held = (vae.latents_mean, vae.latents_std)
    mean, std = (value.to(like.dtype).view(1, -1, 1, 1, 1) for value in held)
    return mean, std


def rescaled(mixed: Tensor, text: Tensor, share: float) -> Tensor:
    """``mixed``, to that share with the spread of ``text`` per sample (Lin et al. 2023, eq. 15 and 16)."""
    if share == 0.0:
        return mixed
    whole = tuple(range(1, mixed.ndim))
    spread = text.std(dim=whole, keepdim=True) / mixed.std(dim=whole, keepdim=True)
    return share * (mixed * spread) + (1 - share) * mixed
