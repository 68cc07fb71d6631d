"""Wan 2.1 and 2.2, text to video (Wan team 2025, arXiv 2503.20314)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from vader_core.backbone import Mixing
from vader_core.conditioning import Conditioning
from vader_core.geometry import Geometry
from vader_core.prediction import Prediction
from vader_diffusers.backbone import PipelineBackbone
from vader_diffusers.parts import bare
from vader_diffusers.published_models import DEFAULT
from vader_diffusers.wan_decoder import decode_frames

#: The two experts of Wan 2.2 A14B, of high and of low noise.
EXPERTS = {"high": ("transformer",), "low": ("transformer_2",), "both": ("transformer", "transformer_2")}


class Wan(PipelineBackbone):
    """Wan 2.1 1.3B and 14B, Wan 2.2 A14B with its two experts, and TI2V 5B from text alone."""

    name = "wan"
    pipelines: ClassVar[tuple[str, ...]] = ("WanPipeline",)
    model = DEFAULT["wan"]
    block_lists = ("blocks",)
    own_times = True
    cheap_frames = "first"
    zeros_behind_text = True
    #: The timestep that all samples have, where the host knows it.
    _time: float | None = None

    @property
    def compression(self) -> tuple[int, int]:
        """As the autoencoder's configuration says."""
        vae = self.autoencoder
        return int(vae.get("scale_factor_temporal") or 4), int(vae.get("scale_factor_spatial") or 8)

    @property
    def latent_channels(self) -> int:
        """The autoencoder's."""
        return int(self.autoencoder["z_dim"])

    @property
    def two(self) -> bool:
        """Whether there are two denoisers, by noise level."""
        return "transformer_2" in self.source.folder

    def experts(self) -> list[nn.Module]:
        """Both denoisers, of which the idle one may rest."""
        return list(self.networks) if self.two else []

    @property
    def boundary(self) -> float:
        """The timestep from which on, downwards, the second expert predicts."""
        ratio = float(self.source.index.get("boundary_ratio") or 0.0)
        return ratio * int(self.source.config("scheduler").get("num_train_timesteps", 1000))

    @property
    def lora_targets(self) -> tuple[str, ...]:
        """The projections of every attention; of two experts, those of the one that learns."""
        plain = super().lora_targets
        if not self.two:
            return plain
        return tuple(f"{expert}.*.{end}" for expert in EXPERTS[self.config.expert] for end in plain)

    def build_denoiser(self) -> nn.Module:
        """The transformer, or both experts by name."""
        if not self.two:
            return super().build_denoiser()
        with torch.random.fork_rng(devices=[]):
            return nn.ModuleDict(
                {name: bare(self.source, name, needed_for=self.asks) for name in EXPERTS["both"]}
            )

    def _pipeline_words(self) -> dict[str, Any]:
        return {name: self.source.index.get(name) or None for name in ("boundary_ratio",)} | {
            "expand_timesteps": bool(self.source.index.get("expand_timesteps", False))
        }

    def _denoiser(self) -> nn.Module:
        if not self.two:
            return super()._denoiser()
        return nn.ModuleDict({name: getattr(self.pipe, name) for name in EXPERTS["both"]}).eval()

    @property
    def network_names(self) -> tuple[str, ...]:
        """One, or both experts'."""
        return EXPERTS["both"] if self.two else super().network_names

    @property
    def networks(self) -> tuple[Any, ...]:
        """One, or both experts."""
        return tuple(self.denoiser.values()) if self.two else (self.denoiser,)

    @contextmanager
    def at_timestep(self, timestep: float) -> Iterator[None]:
        """The host knows the time, so that choosing an expert waits for no device."""
        before, self._time = self._time, timestep
        try:
            yield
        finally:
            self._time = before

    def predict(self, latents: Tensor, timestep: Tensor, conditioning: Conditioning) -> Prediction:
        """Each sample by the expert of its noise level; as a rule all have one."""
        if not self.two:
            return super().predict(latents, timestep, conditioning)
        high = self.is_high(timestep)
        if all(high) or not any(high):
            return self.predict_by(self.expert(high[0]), latents, timestep, conditioning)
        found: list[Tensor] = []
        for row, above in enumerate(high):
            one = slice(row, row + 1)
            part = (latents[one], timestep[one], conditioning[one])
            found.append(self.predict_by(self.expert(above), *part).value)
        return Prediction(torch.cat(found))

    def expert(self, high: bool) -> Any:
        """The network of high or of low noise."""
        return self.denoiser["transformer" if high else "transformer_2"]

    def is_high(self, timestep: Tensor) -> list[bool]:
        """Whether each sample's noise is high: the first expert's."""
        if self._time is not None:
            return [self._time >= self.boundary] * len(timestep)
        return [time >= self.boundary for time in timestep.tolist()]

    def combine(
        self,
        conditional: Prediction,
        unconditional: Prediction,
        mixing: Mixing,
        latents: Tensor,
        timestep: Tensor,
        **further: Prediction,
    ) -> Prediction:
        """The low-noise expert has a scale of its own."""
        low = self.low_scale(mixing.scale) if self.two else None
        if low is None or all(high := self.is_high(timestep)):
            return mixing.combine(conditional, unconditional)
        below = mixing.combine(conditional, unconditional, low)
        if not any(high):
            return below
        above = mixing.combine(conditional, unconditional)
        chosen = torch.tensor(high, device=latents.device).view(-1, 1, 1, 1, 1)
        return replace(above, value=torch.where(chosen, above.value, below.value))

    def low_scale(self, scale: float | tuple[float, float]) -> float | None:
        """The low-noise expert's: the option; the published pair's beside its other half; else the same."""
        if self.config.guidance_scale_low is not None:
            return float(self.config.guidance_scale_low)
        known = self.published_defaults
        low = known.get("guidance_scale_low")
        return float(low) if low is not None and scale == known["guidance_scale"] else None

    def text_shapes(self) -> dict[str, tuple[int, ...]]:
        """UMT5's last layer."""
        return {"text": (self.text_length(512), int(self.network["text_dim"]))}

    def embed(self, texts: list[str]) -> dict[str, Tensor]:
        """UMT5's last layer, zero behind the text."""
        length = self.text_length(512)
        found, _ = self.pipe.encode_prompt(
            texts, do_classifier_free_guidance=False, max_sequence_length=length, device=self.device
        )
        return {"text": found}

    def call(self, network: Any, latents: Tensor, timestep: Tensor, conditioning: Conditioning) -> Tensor:
        """The velocity; TI2V 5B is told the time of every token."""
        if self.source.index.get("expand_timesteps"):
            tokens = latents.shape[2] * (latents.shape[3] // 2) * (latents.shape[4] // 2)
            timestep = timestep[:, None].expand(-1, tokens)
        text = conditioning.tensors["text"]
        return network(latents, timestep, text, return_dict=False)[0]

    def unscaled(self, latents: Tensor) -> Tensor:
        """Times the deviations, plus the means."""
        std = self.per_channel(self.autoencoder["latents_std"], latents)
        return latents * std + self.per_channel(self.autoencoder["latents_mean"], latents)

    def scaled(self, latents: Tensor) -> Tensor:
        """Minus the means, over the deviations."""
        std = self.per_channel(self.autoencoder["latents_std"], latents)
        return (latents - self.per_channel(self.autoencoder["latents_mean"], latents)) / std

    def decoded(self, latents: Tensor, wanted: list[int], geometry: Geometry) -> Tensor:
        """The wanted frames, from the latents up to the last of them."""
        return decode_frames(self.vae, latents, wanted, recompute=self.gradient_checkpointing)
