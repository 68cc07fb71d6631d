"""Any other text-to-video pipeline of diffusers, by tracing its own call."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from vader_core.conditioning import Conditioning
from vader_core.errors import VaderError
from vader_core.geometry import Geometry
from vader_core.prompts import Prompt
from vader_core.randomness import Randomness
from vader_core.text import Text
from vader_diffusers.backbone import PipelineBackbone
from vader_diffusers.options import TracedOptions
from vader_diffusers.tracing import Layout, Trace, layout_of, trace
from vader_diffusers.wan_decoder import decode_frames


class Traced(PipelineBackbone):
    """A pipeline of which nothing is known but its folder.

    Its own call is run with a stand-in for the denoiser: once per text, for what depends on the text, and
    once per geometry, for all the rest. How the latents lie is told by their shape. What a trace cannot see:
    experts, pictures, inverted times, decoders that are told a time, and frames that can be decoded alone.
    """

    name = "diffusers"
    pipelines: ClassVar[tuple[str, ...]] = ()

    def __init__(self, config: TracedOptions, *, device: torch.device, dtype: torch.dtype) -> None:
        super().__init__(config, device=device, dtype=dtype)
        self._traces: dict[Geometry, tuple[Trace, Layout]] = {}
        self._released = False

    def _check_kind(self) -> None:
        index, missing = self.source.index, []
        if "transformer" not in self.source.folder:
            missing.append("a `transformer`")
        if "transformer_2" in self.source.folder:
            raise VaderError(f"{self.asks}: {index['_class_name']} has two denoisers, which cannot be traced")
        if "vae" not in self.source.folder:
            missing.append("a `vae`")
        if missing:
            raise VaderError(f"{self.asks}: {index.get('_class_name')} has not {' and '.join(missing)}")
        if self.source.where is None:
            raise VaderError(
                f"{self.asks} runs the pipeline's own text encoder, so it needs stored weights: give "
                "--weights FOLDER or hub:OWNER/NAME"
            )
        self.pipelines = (str(index["_class_name"]),)  # type: ignore[misc]  # this folder's own
        if self.autoencoder.get("_class_name") == "AutoencoderKL":
            raise VaderError(f"{self.asks}: its autoencoder decodes single pictures, which cannot be traced")
        if self.autoencoder.get("timestep_conditioning"):
            raise VaderError(f"{self.asks}: its decoder is told a time, which cannot be traced")

    @property
    def own_times(self) -> bool:  # type: ignore[override]  # asked of the pipeline's source
        """Whether its call lets the scheduler choose the times: it hands it no levels."""
        from vader_diffusers.parts import model_class

        call = model_class(str(self.source.index["_class_name"]), needed_for=self.asks).__call__
        return "sigmas" not in inspect.getsource(inspect.unwrap(call))

    @property
    def compression(self) -> tuple[int, int]:
        """By the names that autoencoders' configurations use, or by the option."""
        vae, blocks = self.autoencoder, self.autoencoder.get("block_out_channels") or (1,) * 4
        halvings = sum(vae.get("spatio_temporal_scaling") or ())
        times = vae.get("scale_factor_temporal") or vae.get("temporal_compression_ratio")
        pixels = vae.get("scale_factor_spatial") or vae.get("spatial_compression_ratio")
        times = times or (vae.get("patch_size_t", 1) * 2**halvings if halvings else 4)
        pixels = pixels or (vae["patch_size"] * 2**halvings if halvings else 2 ** (len(blocks) - 1))
        return int(times), int(pixels)

    @property
    def latent_channels(self) -> int:
        """The autoencoder's."""
        vae = self.autoencoder
        return int(vae.get("z_dim") or vae.get("latent_channels") or self.network["out_channels"])

    @property
    def published_defaults(self) -> Mapping[str, Any]:
        """What the pipeline's own call takes where nothing is said."""
        from vader_diffusers.parts import model_class

        kind = model_class(str(self.source.index["_class_name"]), needed_for=self.asks)
        call = inspect.signature(inspect.unwrap(kind.__call__)).parameters
        given = {name: call[name].default for name in call if isinstance(call[name].default, int | float)}
        found = dict(super().published_defaults)
        for name, theirs in {"num_steps": "num_inference_steps", "fps": "frame_rate"}.items():
            found[name] = given.get(theirs, found[name])
        for name in ("height", "width", "num_frames", "guidance_scale"):
            found[name] = given.get(name, found[name])
        if "true_cfg_scale" in given:
            found["guidance_scale"] = given["true_cfg_scale"]
        return found

    @property
    def lora_targets(self) -> tuple[str, ...]:
        """The option, else the names that diffusers' attentions share."""
        return tuple(self.config.targets or super().lora_targets)

    def blocks(self) -> list[nn.Module]:
        """The longest lists of modules of the denoiser."""
        lists = [part for part in self.denoiser.children() if isinstance(part, nn.ModuleList)]
        longest = max((len(part) for part in lists), default=0)
        return [block for part in lists if len(part) == longest for block in part]

    # -- text and geometry ---------------------------------------------------------------------------------

    def _words(self, text: str, geometry: Geometry) -> dict[str, Any]:
        """Arguments of the pipeline's call: one video, one step, no second branch."""
        call = inspect.signature(self.pipe.__call__).parameters
        wanted: dict[str, Any] = {
            "prompt": text or " ",
            "height": geometry.height,
            "width": geometry.width,
            "num_frames": geometry.num_frames,
            "frame_rate": geometry.fps,
            "num_inference_steps": 2,
            "output_type": "latent",
            "generator": torch.Generator().manual_seed(0),
            "max_sequence_length": self.config.max_sequence_length,
        }
        if "true_cfg_scale" not in call:
            wanted["guidance_scale"] = 1.0
        return {name: value for name, value in wanted.items() if name in call and value is not None}

    @contextmanager
    def _awake(self) -> Iterator[None]:
        """The text encoders are on the device."""
        encoders = [getattr(self.pipe, name) for name in self._text_encoders()]
        for encoder in encoders:
            encoder.to(self.device)
        try:
            yield
        finally:
            if self._released:
                for encoder in encoders:
                    encoder.to("cpu")

    def release_text_encoder(self) -> None:
        """Let the text encoders rest in CPU memory: a new geometry is traced with them."""
        self._released = True
        with self._awake():
            pass

    def text_shapes(self) -> dict[str, tuple[int, ...]]:
        """Not known before a text was encoded."""
        raise VaderError(f"{self.asks} has no random text")

    def embed(self, texts: list[str]) -> dict[str, Tensor]:
        """What the denoiser is told about each text."""
        times, side = self.compression[0], math.lcm(64, self.side_multiple)
        geometry = Geometry(side, side, 2 * times + 1, 16.0)  # the text does not depend on it: a small one
        self.pipe.set_progress_bar_config(disable=True)
        with self._awake():
            found = [
                trace(self.pipe, self._words(text, geometry), needed_for=self.asks).text for text in texts
            ]
        if not found[0]:
            raise VaderError(f"{self.asks}: nothing that depends on the text reached the denoiser")
        names = found[0].keys()
        if any(
            {name: one[name].shape for name in one} != {n: found[0][n].shape for n in names} for one in found
        ):
            raise VaderError(f"{self.asks}: its encodings differ in length from text to text")
        return {name: torch.cat([one[name] for one in found]) for name in names}

    def _traced(self, geometry: Geometry) -> tuple[Trace, Layout]:
        if geometry not in self._traces:
            self.pipe.set_progress_bar_config(disable=True)
            with self._awake():
                found = trace(self.pipe, self._words(" ", geometry), needed_for=self.asks)
            layout = layout_of(found.latents, self.latent_shape(geometry), needed_for=self.asks)
            self._traces[geometry] = found, layout
        return self._traces[geometry]

    def condition(
        self,
        text: Text,
        prompts: Sequence[Prompt],
        geometry: Geometry,
        rng: Randomness,
        *,
        image: Tensor | None = None,
    ) -> Conditioning:
        """The texts; what else the denoiser is told was traced."""
        found = super().condition(text, prompts, geometry, rng, image=image)
        self._traced(geometry)
        return found

    def call(self, network: Any, latents: Tensor, timestep: Tensor, conditioning: Conditioning) -> Tensor:
        """The denoiser, called as its pipeline does."""
        found, layout = self._traced(conditioning.shared["geometry"])
        batch = len(latents)
        others = {name: _spread(value, batch, latents) for name, value in found.others.items()}
        if found.time.ndim == 2:
            timestep = timestep[:, None].expand(-1, found.time.shape[1])
        told = {found.names[0]: layout.packed(latents), found.names[1]: timestep}
        out = network(**told, **conditioning.tensors, **others, return_dict=False)[0]
        return layout.unpacked(out, latents)

    # -- the autoencoder -----------------------------------------------------------------------------------

    def unscaled(self, latents: Tensor) -> Tensor:
        """By the names that autoencoders use: a factor, a shift, means and deviations."""
        mean, std = self._statistics(latents)
        shift = self.autoencoder.get("shift_factor") or 0.0
        return latents * std / (self.autoencoder.get("scaling_factor") or 1.0) + mean + shift

    def scaled(self, latents: Tensor) -> Tensor:
        """The inverse of :meth:`unscaled`."""
        mean, std = self._statistics(latents)
        shift = self.autoencoder.get("shift_factor") or 0.0
        return (latents - shift - mean) * (self.autoencoder.get("scaling_factor") or 1.0) / std

    def _statistics(self, like: Tensor) -> tuple[Tensor, Tensor]:
        config = self.autoencoder
        if config.get("latents_mean") is not None:
            return self.per_channel(config["latents_mean"], like), self.per_channel(
                config["latents_std"], like
            )
        mean, std = (getattr(self.vae, name, None) for name in ("latents_mean", "latents_std"))
        if mean is None or std is None:
            return like.new_zeros(1), like.new_ones(1)
        return mean.to(like).view(1, -1, 1, 1, 1), std.to(like).view(1, -1, 1, 1, 1)

    def decoded(self, latents: Tensor, wanted: list[int], geometry: Geometry) -> Tensor:
        """All frames, of which some are kept; Wan's decoder, which many share, goes frame by frame."""
        if type(self.vae).__name__ == "AutoencoderKLWan":
            return decode_frames(self.vae, latents, wanted, recompute=self.gradient_checkpointing)
        return super().decoded(latents, wanted, geometry)


def _spread(value: Any, batch: int, like: Tensor) -> Any:
    """A traced argument for a batch: what has a batch axis of one is repeated."""
    if isinstance(value, Tensor) and value.ndim > 0 and len(value) == 1:
        value = value.expand(batch, *value.shape[1:])
    if isinstance(value, Tensor) and value.is_floating_point() and value.device != like.device:
        return value.to(like.device)
    return value
