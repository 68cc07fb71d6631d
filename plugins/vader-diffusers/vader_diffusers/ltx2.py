"""LTX-2, picture and sound from text (HaCohen et al. 2026, arXiv 2601.03233)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F

from vader_core.backbone import Backbone, Mixing
from vader_core.conditioning import Conditioning
from vader_core.errors import VaderError
from vader_core.geometry import Geometry
from vader_core.prediction import Prediction
from vader_core.prompts import Prompt
from vader_core.randomness import Randomness
from vader_core.schedule import RectifiedFlow, Schedule
from vader_core.text import Text
from vader_diffusers.backbone import PipelineBackbone
from vader_diffusers.ltx import channel_statistics, rescaled
from vader_diffusers.parts import autocast_for
from vader_diffusers.published_models import DEFAULT

#: What the pipeline takes where nothing is said.
_USUAL = {
    "perturbed_scale": 1.0,
    "modality_scale": 3.0,
    "guidance_rescale": 0.7,
    "sound_guidance_scale": 7.0,
    "sound_perturbed_scale": 1.0,
    "sound_modality_scale": 3.0,
    "sound_guidance_rescale": 0.7,
    "decode_timestep": 0.0,
}


class LTX2(PipelineBackbone):
    """LTX-2, whose denoiser makes the sound along with the picture.

    Latents are the tokens of both, picture first, [B, C, 1, 1, tokens]: so noise, steps and gradients treat
    them alike. Decoding takes the picture; :meth:`decode_sound` the rest.
    """

    name = "ltx2"
    pipelines = ("LTX2Pipeline",)
    model = DEFAULT["ltx2"]
    encodes_video = False
    left_out_at_random = ("connectors", "vocoder")
    #: Of the videos of the last call: where the picture's tokens end, for the mixture of its branches.
    _geometry: Geometry

    # -- sizes ---------------------------------------------------------------------------------------------

    @property
    def compression(self) -> tuple[int, int]:
        """As the autoencoder's configuration says, or as its blocks make it."""
        vae = self.autoencoder
        scaling = vae["spatio_temporal_scaling"]
        halvings = len(vae["layers_per_block"]) - 1 if scaling is True else sum(scaling or ())
        times = vae.get("temporal_compression_ratio") or vae["patch_size_t"] * 2**halvings
        return int(times), int(vae.get("spatial_compression_ratio") or vae["patch_size"] * 2**halvings)

    @property
    def latent_channels(self) -> int:
        """Features of a token: the wider stream's."""
        return max(int(self.network["in_channels"]), int(self.network["audio_in_channels"]))

    def picture_shape(self, geometry: Geometry) -> tuple[int, int, int]:
        """(T, h, w) of the picture's tokens."""
        return super().latent_shape(geometry)[1:]

    def sound_tokens(self, geometry: Geometry) -> int:
        """Tokens of the sound, as many as fit the video's seconds."""
        sound = self.source.config("audio_vae")
        per_second = sound["sample_rate"] / sound["mel_hop_length"] / 4.0  # its autoencoder halves twice
        return round(geometry.num_frames / geometry.fps * per_second)

    def picture_tokens(self, geometry: Geometry) -> int:
        """Tokens of the picture."""
        frames, height, width = self.picture_shape(geometry)
        return frames * height * width

    def latent_shape(self, geometry: Geometry) -> tuple[int, int, int, int]:
        """(C, 1, 1, tokens of picture and sound)."""
        return self.latent_channels, 1, 1, self.picture_tokens(geometry) + self.sound_tokens(geometry)

    def schedule_for(self, geometry: Geometry) -> Schedule:
        """Shifted for the number of the picture's tokens; the sound follows."""
        return self.scheduling.at(self.picture_tokens(geometry))

    def setting(self, name: str) -> float:
        """An option, else the published model's, else the pipeline's own value."""
        given = getattr(self.config, name)
        return float({**_USUAL, **self.published_defaults}[name] if given is None else given)

    # -- text ----------------------------------------------------------------------------------------------

    def text_shapes(self) -> dict[str, tuple[int, ...]]:
        """What the connectors make of Gemma's layers, for picture and sound, and which tokens count."""
        length, network = self.text_length(1024), self.network
        if network.get("use_prompt_embeddings", True):
            widths = (network["caption_channels"],) * 2
        else:
            widths = (network["cross_attention_dim"], network["audio_cross_attention_dim"])
        return {"text": (length, int(widths[0])), "text_sound": (length, int(widths[1])), "mask": (length,)}

    def embed(self, texts: list[str]) -> dict[str, Tensor]:
        """Gemma's layers through the connectors, which are frozen."""
        layers, mask, *_ = self.pipe.encode_prompt(
            texts,
            do_classifier_free_guidance=False,
            max_sequence_length=self.text_length(1024),
            device=self.device,
        )
        side = getattr(self.pipe.tokenizer, "padding_side", "left")
        text, sound, mask = self.pipe.connectors(layers, mask, padding_side=side)
        return {"text": text, "text_sound": sound, "mask": mask}

    def _text_encoders(self) -> list[str]:
        return [*super()._text_encoders(), "connectors"]

    # -- the model -----------------------------------------------------------------------------------------

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
        if not self.noise_share:
            return found
        wide = torch.float64 if self.dtype == torch.float64 else torch.float32
        shape = self.latent_shape(geometry)
        noise = {"decoder_noise": rng.normal("decoder noise", shape, device=self.device, dtype=wide)}
        return Conditioning(
            {**found.tensors, **noise}, {**(found.unconditional or {}), **noise}, found.shared
        )

    @property
    def noise_share(self) -> float:
        """How much noise is mixed into the latents before a decoder with a time."""
        if not self.autoencoder.get("timestep_conditioning"):
            return 0.0
        given = self.config.decode_noise_scale
        return self.setting("decode_timestep") if given is None else float(given)

    def call(self, network: Any, latents: Tensor, timestep: Tensor, conditioning: Conditioning) -> Tensor:
        """The velocities of picture and sound."""
        given, geometry = conditioning.tensors, conditioning.shared["geometry"]
        branch, self._geometry = conditioning.shared.get("branch"), geometry
        picture, sound = self.split(latents, geometry)
        frames, height, width = self.picture_shape(geometry)
        found = network(
            hidden_states=picture,
            audio_hidden_states=sound,
            encoder_hidden_states=given["text"],
            audio_encoder_hidden_states=given["text_sound"],
            timestep=timestep,
            sigma=timestep,
            encoder_attention_mask=given["mask"],
            audio_encoder_attention_mask=given["mask"],
            num_frames=frames,
            height=height,
            width=width,
            fps=geometry.fps,
            audio_num_frames=sound.shape[1],
            isolate_modalities=branch == "isolated",
            spatio_temporal_guidance_blocks=self.perturbed_blocks if branch == "perturbed" else None,
            use_cross_timestep=self.config.cross_timestep,
            return_dict=False,
        )
        return self.joined(*found)

    def check_sequence(self, parts: int, geometry: Geometry) -> None:
        """Refused: picture and sound attend to each other, and diffusers' plan splits the picture alone."""
        Backbone.check_sequence(self, parts, geometry)

    def split(self, latents: Tensor, geometry: Geometry) -> tuple[Tensor, Tensor]:
        """Tokens [B, n, features] of the picture and of the sound."""
        tokens, count = latents[:, :, 0, 0].transpose(1, 2), self.picture_tokens(geometry)
        widths = int(self.network["in_channels"]), int(self.network["audio_in_channels"])
        return tokens[:, :count, : widths[0]], tokens[:, count:, : widths[1]]

    def joined(self, picture: Tensor, sound: Tensor) -> Tensor:
        """The inverse of :meth:`split`; where one is narrower, zeros behind."""
        wide = self.latent_channels
        parts = [F.pad(part, (0, wide - part.shape[2])) for part in (picture, sound)]
        return torch.cat(parts, dim=1).transpose(1, 2)[:, :, None, None]

    # -- guidance ------------------------------------------------------------------------------------------

    @property
    def perturbed_blocks(self) -> list[int]:
        """Blocks whose self-attention the perturbed branch leaves out."""
        given = self.config.perturbed_blocks or self.published_defaults.get("perturbed_blocks", (28,))
        return [int(block) for block in given]

    @property
    def further_branches(self) -> tuple[str, ...]:  # type: ignore[override]  # follows the options
        """A branch with perturbed blocks, and one whose picture and sound do not see each other."""
        perturbed = max(self.setting("perturbed_scale"), self.setting("sound_perturbed_scale")) > 0.0
        isolated = max(self.setting("modality_scale"), self.setting("sound_modality_scale")) > 1.0
        # a denoiser without perturbed attention (2.0) predicts the same either way
        perturbed = perturbed and bool(self.network.get("perturbed_attn"))
        return ("perturbed",) * perturbed + ("isolated",) * isolated

    def combine(
        self,
        conditional: Prediction,
        unconditional: Prediction,
        mixing: Mixing,
        latents: Tensor,
        timestep: Tensor,
        **further: Prediction,
    ) -> Prediction:
        """Every branch pushes the clean latents away from its own; picture and sound by their own scales."""
        if isinstance(mixing.scale, tuple):
            raise VaderError(f"{self.asks}: --guidance-scale must be one number, not FIRST:LAST")
        schedule = self.scheduling.schedule
        assert isinstance(schedule, RectifiedFlow)
        level = (timestep / schedule.num_train_timesteps).view(-1, 1, 1, 1, 1).to(latents)
        branches = (conditional, unconditional, *further.values())
        clean = [self.split(latents - level * one.value, self._geometry) for one in branches]
        mixed = []
        for stream, prefix in enumerate(("", "sound_")):
            text, *others = (parts[stream] for parts in clean)
            usual = self.setting("sound_guidance_scale") if prefix else mixing.scale
            strength = {
                "perturbed": self.setting(f"{prefix}perturbed_scale"),
                "isolated": self.setting(f"{prefix}modality_scale") - 1.0,
            }
            weights = [usual - 1.0, *(strength[name] for name in further)]
            guided = text
            for weight, other in zip(weights, others, strict=True):
                guided = guided + weight * (text - other)
            mixed.append(rescaled(guided, text, self.setting(f"{prefix}guidance_rescale")))
        return Prediction((latents - self.joined(*mixed)) / level)

    # -- the autoencoders ----------------------------------------------------------------------------------

    def before_decode(self, latents: Tensor, conditioning: Conditioning) -> Tensor:
        """With the noise mixed in that a decoder with a time takes away again."""
        noise = conditioning.tensors.get("decoder_noise")
        if noise is None:
            return latents
        return (1 - self.noise_share) * latents + self.noise_share * noise.to(latents.dtype)

    def decode(self, latents: Tensor, geometry: Geometry, frames: Sequence[int] | None = None) -> Tensor:
        """The wanted frames of the picture; no part of them decodes alone, exactly."""
        picture, _ = self.split(latents, geometry)
        times, height, width = self.picture_shape(geometry)
        video = rearrange(picture, "b (t h w) c -> b c t h w", t=times, h=height, w=width)
        return super().decode(video, geometry, frames)

    def unscaled(self, latents: Tensor) -> Tensor:
        """Times the deviations over the factor, plus the means, which lie among the autoencoder's weights."""
        mean, std = channel_statistics(self.vae, latents)
        return latents * std / self.autoencoder.get("scaling_factor", 1.0) + mean

    def scaled(self, latents: Tensor) -> Tensor:
        """Minus the means, times the factor over the deviations."""
        mean, std = channel_statistics(self.vae, latents)
        return (latents - mean) * self.autoencoder.get("scaling_factor", 1.0) / std

    def decoded(self, latents: Tensor, wanted: list[int], geometry: Geometry) -> Tensor:
        """All frames, of which some are kept."""
        timestep = None
        if self.autoencoder.get("timestep_conditioning"):
            timestep = latents.new_full((len(latents),), self.setting("decode_timestep"))
        video: Tensor = self.vae.decode(latents, timestep, return_dict=False)[0]
        return video[:, :, wanted]

    def encode_video(self, video: Tensor, rng: Randomness) -> Tensor:
        """Refused: latents hold a sound too.

        Raises:
            VaderError: Always.
        """
        raise VaderError(
            f"{self.asks} cannot learn from clips: its latents hold a sound, and clips bring none"
        )

    @torch.no_grad()
    def decode_sound(self, latents: Tensor, geometry: Geometry) -> Tensor:
        """The sound as a wave [B, channels, samples] at the vocoder's own rate.

        Raises:
            VaderError: Random weights, which have no vocoder.
        """
        if self.source.where is None:
            raise VaderError(f"{self.asks}: random weights have no vocoder: give --weights to hear the sound")
        coder = self.pipe.audio_vae
        _, sound = self.split(latents, geometry)
        sound = sound * coder.latents_std.to(sound) + coder.latents_mean.to(sound)
        bins = coder.config.mel_bins // coder.mel_compression_ratio
        given = sound.unflatten(2, (-1, bins)).transpose(1, 2).to(coder.dtype)
        with autocast_for(coder):
            wave: Tensor = self.pipe.vocoder(coder.decode(given, return_dict=False)[0])
        return wave
