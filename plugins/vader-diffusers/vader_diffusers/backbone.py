"""A pipeline of diffusers as a backbone: what all families have in common.

A family says which pipelines it takes, how its latents lie, what its denoiser is called with, and how its
latents are decoded. Everything else is here: files, sizes, the schedule, text, precision, checkpoints.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vader_core.backbone import Backbone, Defaults
from vader_core.conditioning import Conditioning
from vader_core.errors import VaderError
from vader_core.geometry import Geometry
from vader_core.nn.build import frozen
from vader_core.prediction import Prediction
from vader_core.prompts import Prompt
from vader_core.randomness import Randomness
from vader_core.schedule import RectifiedFlow, Schedule
from vader_core.text import Text
from vader_diffusers.frozen_conv import keep_no_inputs
from vader_diffusers.options import PipelineOptions
from vader_diffusers.parts import (
    autocast_for,
    bare,
    model_class,
    random_part,
    stored_pipeline,
    without_weights,
)
from vader_diffusers.pipeline_source import open_source
from vader_diffusers.random_text import random_encodings
from vader_diffusers.scheduling import Scheduling, read_scheduler
from vader_diffusers.sequence import check_split, split
from vader_diffusers.unread import left_unread

#: Geometry, steps and guidance where a folder is like no published one and its family says nothing.
_PLAIN = {"height": 256, "width": 256, "num_frames": 17, "fps": 16, "num_steps": 50, "guidance_scale": 5.0}


class PipelineBackbone(Backbone):
    """A text-to-video pipeline.

    Args:
        config: See ``vader show backbone NAME``.
        device: Where the modules live.
        dtype: Of the frozen weights while computing.
    """

    #: Classes of pipelines that a folder may name, the one that is built first.
    pipelines: ClassVar[tuple[str, ...]]
    #: The published model that `pretrained` means.
    model: ClassVar[str | None] = None
    #: Names of the denoiser's lists of blocks, the units of gradient checkpointing.
    block_lists: ClassVar[tuple[str, ...]] = ("transformer_blocks",)
    #: Whether the pipeline lets its scheduler choose the times.
    own_times: ClassVar[bool] = False
    #: Which frames a reward sees by default, where some are cheaper to decode than others.
    cheap_frames: ClassVar[str | None] = None
    encodes_video: ClassVar[bool] = True
    #: Components that random weights do without.
    left_out_at_random: ClassVar[tuple[str, ...]] = ()
    #: Whether encodings are zero behind the text.
    zeros_behind_text: ClassVar[bool] = False

    denoiser: Any
    vae: Any

    def __init__(self, config: PipelineOptions, *, device: torch.device, dtype: torch.dtype) -> None:
        super().__init__(device=device, dtype=dtype)
        self.config: Any = config
        self.source = open_source(self.name, config, self.model)
        self._check_kind()
        self.scheduling = self._read_scheduling()
        self.pipe: Any = None
        words = (self.name, self.source.where, self.source.revision, config.model, config.architecture)
        self.text_cache.key = "/".join(map(str, (*words, config.max_sequence_length, dtype)))

    @property
    def asks(self) -> str:
        """How its messages begin."""
        return f"backbone {self.name!r}"

    def _check_kind(self) -> None:
        kind = str(self.source.index.get("_class_name"))
        if kind not in self.pipelines:
            raise VaderError(
                f"{self.asks}: {self.source.where or self.config.architecture} is a {kind}; this backbone "
                f"takes {' or '.join(self.pipelines)} (`vader plugins` lists the others; `diffusers` takes "
                "any text-to-video pipeline)"
            )

    def _read_scheduling(self) -> Scheduling:
        return read_scheduler(self.source.config("scheduler"), own_times=self.own_times, needed_for=self.asks)

    # -- sizes ---------------------------------------------------------------------------------------------

    @property
    def network(self) -> Mapping[str, Any]:
        """The denoiser's configuration."""
        return self.source.config("transformer") or self.source.config("transformer_2")

    @property
    def autoencoder(self) -> Mapping[str, Any]:
        """The autoencoder's configuration."""
        return self.source.config("vae")

    @property
    @abstractmethod
    def compression(self) -> tuple[int, int]:
        """How many frames and how many pixels a side one latent stands for."""

    @property
    @abstractmethod
    def latent_channels(self) -> int:
        """C."""

    @property
    def side_multiple(self) -> int:
        """What height and width are multiples of: the compression times the denoiser's patch."""
        patch = self.network.get("patch_size", 1)
        return self.compression[1] * int(patch if isinstance(patch, int) else patch[-1])

    @property
    def published_defaults(self) -> Mapping[str, Any]:
        """Geometry, steps and guidance of the authors."""
        known = self.source.model
        return {**_PLAIN, **(known.defaults if known is not None else {})}

    @property
    def defaults(self) -> Defaults:
        """The authors' geometry, steps and guidance; the folder's scheduler."""
        known = self.published_defaults
        options = dict(self.scheduling.options)
        if "sigmas" in known:
            options["sigmas"] = tuple(known["sigmas"])
        return Defaults(
            geometry=Geometry(known["height"], known["width"], known["num_frames"], float(known["fps"])),
            num_steps=known["num_steps"],
            guidance_scale=known["guidance_scale"],
            sampler=self.scheduling.sampler,
            sampler_options=options,
            gradient="last:2" if self._ends_in_a_sliver else "last",
            reward_frames=self.cheap_frames,
            prompts=None if self.needs_image else "animal",
        )

    @property
    def _ends_in_a_sliver(self) -> bool:
        """Whether the last step covers almost nothing, as it does at the times of Euler's own scheduler."""
        schedule = self.scheduling.schedule
        own = isinstance(schedule, RectifiedFlow) and schedule.spacing in ("trained", "trained_shifted")
        return own and self.scheduling.sampler == "flow_euler"

    @property
    def schedule(self) -> Schedule:
        """The folder's; a shift that follows the size is that of the default geometry."""
        return self.schedule_for(self.defaults.geometry)

    def schedule_for(self, geometry: Geometry) -> Schedule:
        """The folder's schedule, shifted for the number of tokens where it asks for that."""
        _, frames, height, width = self.latent_shape(geometry)
        return self.scheduling.at(frames * height * width)

    @property
    def lora_targets(self) -> tuple[str, ...]:
        """The projections of every attention."""
        return ("to_q", "to_k", "to_v", "to_out.0")

    def validate(self, geometry: Geometry) -> None:
        """Sides in multiples, frames one more than a multiple of the compression; the nearest are named."""
        times, multiple = self.compression[0], self.side_multiple
        wrong = []
        for name, side in (("height", geometry.height), ("width", geometry.width)):
            if side < multiple or side % multiple:
                nearest = max(multiple, round(side / multiple) * multiple)
                wrong.append(f"{name} {side} is no multiple of {multiple} (nearest {nearest})")
        frames = geometry.num_frames
        if frames < 1 or (frames - 1) % times:
            nearest = max(0, round((frames - 1) / times)) * times + 1
            wrong.append(f"{frames} frames are not {times} k + 1 (nearest {nearest})")
        if not geometry.fps > 0:
            wrong.append(f"fps {geometry.fps:g} is not above 0")
        if wrong:
            raise VaderError(f"{self.asks}: {'; '.join(wrong)}")

    @property
    def small_geometry(self) -> Geometry:
        """Two places a side or more, and three latent frames."""
        multiple = self.side_multiple
        side = multiple * max(2, -(-32 // multiple))
        return Geometry(side, side, 2 * self.compression[0] + 1, self.defaults.geometry.fps)

    def latent_shape(self, geometry: Geometry) -> tuple[int, int, int, int]:
        """C, and the geometry divided by the compression."""
        times, pixels = self.compression
        frames = (geometry.num_frames - 1) // times + 1
        return self.latent_channels, frames, geometry.height // pixels, geometry.width // pixels

    # -- loading -------------------------------------------------------------------------------------------

    def build_denoiser(self) -> nn.Module:
        """A fresh denoiser; its first numbers are drawn without touching the global random state."""
        with torch.random.fork_rng(devices=[]):
            return bare(self.source, "transformer", needed_for=self.asks)

    @property
    def vae_dtype(self) -> torch.dtype:
        """Of the autoencoder: the run's own, or float32 where that is wider."""
        wide = self.config.vae_dtype == "float32" and self.dtype in (torch.bfloat16, torch.float16)
        return torch.float32 if wide else self.dtype

    def load(self) -> None:
        """Read the pipeline, or make one of random numbers; bring it to the device, frozen."""
        kind = model_class(str(self.source.index["_class_name"]), needed_for=self.asks)
        self.pipe = self._random(kind) if self.source.where is None else self._stored(kind)
        unread = self.network_names if self.unread is not None else ()
        for name, module in self.pipe.components.items():
            if isinstance(module, nn.Module):
                # parts that diffusers keeps in float32 are meant against half precision, not against double
                wide = torch.float64 if self.dtype == torch.float64 else None
                frozen(module if name in unread else nn.Module.to(module, self.device, wide))
        self.vae = self.pipe.vae
        self.denoiser = self._denoiser()
        self._prepare()

    def _stored(self, kind: Any) -> Any:
        dtypes = {"default": self.dtype, "vae": self.vae_dtype}
        given: dict[str, Any] = {}
        if self.config.transformer_subfolder is not None:
            network = model_class(str(self.network["_class_name"]), needed_for=self.asks)
            given["transformer"] = network.from_pretrained(
                self.source.where, subfolder=self.config.transformer_subfolder, dtype=self.dtype
            )
        elif self.may_leave_unread:
            self.unread, given = left_unread(
                self.source, self.network_names, dtype=self.dtype, needed_for=self.asks
            )
        return stored_pipeline(self.source, kind, dtypes=dtypes, given=given, needed_for=self.asks)

    def _random(self, kind: Any) -> Any:
        parts: dict[str, Any] = {**without_weights(self.source), **dict.fromkeys(self.left_out_at_random)}
        for component in self.source.folder:
            if component in ("model_index", *parts):
                continue
            if component == "scheduler":
                config = self.source.config(component)
                scheduler = model_class(str(config["_class_name"]), needed_for=self.asks)
                parts[component] = scheduler.from_config(dict(config))
                continue
            dtype = self.vae_dtype if component == "vae" else self.dtype
            parts[component] = random_part(
                self.source, component, device=self.device, dtype=dtype, needed_for=self.asks
            )
        return kind(**parts, **self._pipeline_words())

    def _pipeline_words(self) -> dict[str, Any]:
        """What a pipeline without weights is made with beside its components."""
        return {}

    def _denoiser(self) -> nn.Module:
        denoiser: nn.Module = self.pipe.transformer
        return denoiser

    def _prepare(self) -> None:
        """Switch on what is always on."""
        keep_no_inputs(self.vae)
        if self.vae._supports_gradient_checkpointing:
            self.vae.enable_gradient_checkpointing()
        for network in self.networks:
            network.enable_gradient_checkpointing()
            if self.config.attention_backend is not None:
                self._choose_attention(network, self.config.attention_backend)

    def _choose_attention(self, network: Any, name: str) -> None:
        if name.strip("_").startswith("sage"):
            raise VaderError(
                f"{self.asks}: attention backend {name!r} has no backward pass: use native, _native_cudnn, "
                "flash, flash_varlen, flex or xformers"
            )
        from diffusers.models.attention_dispatch import AttentionBackendName, attention_backend

        try:
            with attention_backend(
                AttentionBackendName.NATIVE
            ):  # the choice is this network's, not the process's
                network.set_attention_backend(name)
        except (ValueError, RuntimeError, ImportError) as error:
            raise VaderError(f"{self.asks}: attention backend {name!r}: {error}") from error

    @property
    def network_names(self) -> tuple[str, ...]:
        """Which components are the denoiser's networks, in the order of :attr:`networks`."""
        return ("transformer",)

    @property
    def networks(self) -> tuple[Any, ...]:
        """The denoiser's networks, one but for models of two experts."""
        return (self.denoiser,)

    def modules(self) -> dict[str, nn.Module]:
        """Denoiser, autoencoder, and whatever the pipeline encodes with."""
        found = {"denoiser": self.denoiser, "autoencoder": self.vae}
        for name, module in self.pipe.components.items():
            if isinstance(module, nn.Module) and "encoder" in name:
                found[name] = module
        return found

    def blocks(self) -> list[nn.Module]:
        """The blocks that diffusers checkpoints."""
        lists = (getattr(network, name) for network in self.networks for name in self.block_lists)
        return [block for blocks in lists for block in blocks]

    def check_sequence(self, parts: int, geometry: Geometry) -> None:
        """Networks that diffusers has a plan for, into parts that divide heads and tokens."""
        shape = self.latent_shape(geometry)
        check_split(self.network, parts, shape, self.config.attention_backend, asks=self.asks)

    def split_sequence(self, mesh: Any) -> None:
        """Every network by diffusers' plan."""
        for network in self.networks:
            split(network, mesh)

    # -- text ----------------------------------------------------------------------------------------------

    @abstractmethod
    def text_shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of one text's encodings by name; masks bear names that begin with ``mask``."""

    @abstractmethod
    def embed(self, texts: list[str]) -> dict[str, Tensor]:
        """The pipeline's own encodings of texts, by the names of :meth:`text_shapes`."""

    @torch.no_grad()
    def encode_texts(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """The pipeline's own encodings; with random weights, numbers that depend on the words alone."""
        if self.source.where is None:
            return random_encodings(
                texts, self.text_shapes(), dtype=self.dtype, zeros_behind=self.zeros_behind_text
            )
        if any(getattr(self.pipe, name, None) is None for name in self._text_encoders()):
            raise VaderError(f"{self.asks}: the text encoder was released; encode all texts before training")
        found = self.embed(list(texts))
        return {name: value.to(self.dtype) for name, value in found.items()}

    def _text_encoders(self) -> list[str]:
        return [name for name in self.pipe.components if name.startswith("text_encoder")]

    def release_text_encoder(self) -> None:
        """Let the text encoders go."""
        for name in self._text_encoders():
            setattr(self.pipe, name, None)

    def text_length(self, published: int) -> int:
        """How many tokens texts are cut to."""
        return int(self.config.max_sequence_length or published)

    # -- the model -----------------------------------------------------------------------------------------

    def condition(
        self,
        text: Text,
        prompts: Sequence[Prompt],
        geometry: Geometry,
        rng: Randomness,
        *,
        image: Float[Tensor, "b 3 H W"] | None = None,
    ) -> Conditioning:
        """The texts; a picture is refused."""
        if image is not None or any(prompt.image for prompt in prompts):
            raise VaderError(f"{self.asks} makes videos from text alone: leave images out")
        return Conditioning(text.positive, text.negative, {"geometry": geometry})

    def predict(self, latents: Tensor, timestep: Tensor, conditioning: Conditioning) -> Prediction:
        """The denoiser's prediction, in the latents' dtype."""
        return self.predict_by(self.denoiser, latents, timestep, conditioning)

    def predict_by(
        self, network: Any, latents: Tensor, timestep: Tensor, conditioning: Conditioning
    ) -> Prediction:
        """One network's prediction, in the latents' dtype."""
        network.gradient_checkpointing = self.gradient_checkpointing
        with self._precision(network):
            out = self.call(network, latents.to(self.dtype), timestep, conditioning)
        return Prediction(out.to(latents.dtype))

    def _precision(self, network: Any) -> AbstractContextManager[Any]:
        """Weights in half precision compute as they do in their pipeline, without autocast.

        Autocast would widen every norm to float32, which costs time and memory. Weights that learn are wide,
        and are cast by it.
        """
        learns = any(
            value.requires_grad and ".lora_" not in name for name, value in network.named_parameters()
        )
        half = self.dtype in (torch.bfloat16, torch.float16)
        return autocast_for(network) if half and not learns else nullcontext()

    @abstractmethod
    def call(self, network: Any, latents: Tensor, timestep: Tensor, conditioning: Conditioning) -> Tensor:
        """One call of the denoiser: [B, C, T, h, w] in its own dtype to the same shape."""

    def decode(self, latents: Tensor, geometry: Geometry, frames: Sequence[int] | None = None) -> Tensor:
        """The wanted frames, unclamped, from as little of the decoder as they need."""
        wanted = list(range(geometry.num_frames)) if frames is None else list(frames)
        given = self.unscaled(latents).to(self.vae.dtype)
        for part in self.vae.modules():
            if hasattr(part, "gradient_checkpointing"):
                part.gradient_checkpointing = self.gradient_checkpointing
        with autocast_for(self.vae):
            video = self.decoded(given, wanted, geometry).to(latents.dtype)
        return video.transpose(1, 2) / 2 + 0.5

    @abstractmethod
    def unscaled(self, latents: Tensor) -> Tensor:
        """Latents as the autoencoder knows them: its factors, means and deviations."""

    def decoded(self, latents: Tensor, wanted: list[int], geometry: Geometry) -> Tensor:
        """The wanted frames [B, 3, F', H, W] in [-1, 1]; by default all are decoded and some kept."""
        video: Tensor = self.vae.decode(latents, return_dict=False)[0]
        return video[:, :, wanted]

    @torch.no_grad()
    def encode_video(self, video: Tensor, rng: Randomness) -> Tensor:
        """The middle of the encoder's distribution, scaled."""
        given = (video.transpose(1, 2) * 2 - 1).to(self.vae.dtype)
        return self.scaled(self.vae.encode(given).latent_dist.mode().to(video.dtype))

    @abstractmethod
    def scaled(self, latents: Tensor) -> Tensor:
        """The inverse of :meth:`unscaled`."""

    def per_channel(self, values: Sequence[float], like: Tensor) -> Tensor:
        """Numbers per latent channel as [1, C, 1, 1, 1]."""
        return torch.tensor(list(values), device=like.device, dtype=like.dtype).view(1, -1, 1, 1, 1)
