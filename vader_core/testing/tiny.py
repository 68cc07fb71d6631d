"""A backbone of a few thousand parameters, two rewards and a prompt source: real, differentiable and fast."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from vader_core.backbone import Backbone, Defaults
from vader_core.conditioning import Conditioning
from vader_core.errors import VaderError
from vader_core.geometry import Geometry
from vader_core.nn.build import empty_module, fill_randomly
from vader_core.prediction import Prediction
from vader_core.prompts import Prompt, PromptSource, shuffled_index
from vader_core.randomness import Randomness
from vader_core.reward import ClipReward, FramesNeeded, ImageReward, clip
from vader_core.schedule import RectifiedFlow, Schedule, VarianceExploding, VariancePreserving
from vader_core.testing.options import TinyConfig
from vader_core.testing.tiny_networks import CHANNELS, SPATIAL, TinyAutoencoder, TinyDenoiser, TinyTextEncoder
from vader_core.text import Text, TextCache
from vader_core.weights import load_exactly, load_tensors, parse_weights
from vader_core.wrappings import unwrapped

_SAMPLERS = {"epsilon": "ddim", "v": "ddim", "exploding": "euler", "flow": "rectified_flow"}
# Share of its input that the random denoiser hands through, which keeps a rollout's size sensible.
_SKIP = {"epsilon": 1.0, "v": 0.0, "exploding": 0.0, "flow": 1.0}


class TinyBackbone(Backbone):
    """The smallest backbone that has every part: text, fps, image, three schedules, temporal compression.

    Args:
        config: Its options.
        device: Where it lives.
        dtype: Of its weights; float32, bfloat16 or float64.
    """

    name: ClassVar[str] = "tiny"

    def __init__(self, config: TinyConfig, *, device: torch.device | str, dtype: torch.dtype) -> None:
        super().__init__(device=torch.device(device), dtype=dtype)
        self.config = config
        self.text_cache = TextCache(f"{self.name}/{config.weights}/{config.seed}/{config.width}/{dtype}")

    @property
    def defaults(self) -> Defaults:
        """16×16 pixels, 4 frames, 4 steps."""
        return Defaults(
            geometry=Geometry(height=16, width=16, num_frames=4, fps=8.0),
            num_steps=4,
            guidance_scale=2.0,
            sampler=_SAMPLERS[self.config.schedule],
            precision="fp32",
            prompts="fixed",
        )

    @property
    def schedule(self) -> Schedule:
        """The one that the option names."""
        if self.config.schedule == "flow":
            return RectifiedFlow()
        if self.config.schedule == "exploding":
            return VarianceExploding(sigma_min=0.02, sigma_max=80.0)
        return VariancePreserving(VariancePreserving.scaled_linear(), prediction_type=self.config.schedule)

    @property
    def lora_targets(self) -> tuple[str, ...]:
        """The projections of every attention."""
        return ("to_q", "to_k", "to_v")

    def validate(self, geometry: Geometry) -> None:
        """Sides must be multiples of 4, frames of the temporal compression."""
        for label, value, unit in (
            ("height", geometry.height, SPATIAL),
            ("width", geometry.width, SPATIAL),
            ("num_frames", geometry.num_frames, self.config.temporal_compression),
        ):
            if value < 1 or value % unit:
                nearest = max(unit, round(value / unit) * unit)
                raise VaderError(
                    f"backbone {self.name!r}: {label}={value} is not allowed: "
                    f"use a multiple of {unit}, e.g. {nearest}"
                )
        if not geometry.fps > 0:
            raise VaderError(
                f"backbone {self.name!r}: fps={geometry.fps:g} is not allowed: use a number above 0"
            )

    def latent_shape(self, geometry: Geometry) -> tuple[int, int, int, int]:
        """4 channels, a quarter of each side."""
        return (
            CHANNELS,
            geometry.num_frames // self.config.temporal_compression,
            geometry.height // SPATIAL,
            geometry.width // SPATIAL,
        )

    def build_denoiser(self) -> TinyDenoiser:
        """The transformer, without weights."""
        return TinyDenoiser(self.config.width, self.config.depth, _SKIP[self.config.schedule])

    def load(self) -> None:
        """Random weights, or those of a file."""
        source = parse_weights(self.config.weights)
        if source.kind not in ("random", "path"):
            raise VaderError(
                f"backbone {self.name!r}: weights {self.config.weights!r} do not exist: "
                "use `random` or the path of a file"
            )
        # Drawn on the CPU in float32, so that every device and dtype has the same weights.
        parts = empty_module(self._build_parts, device=torch.device("cpu"), dtype=torch.float32)
        if source.path is None:
            fill_randomly(parts, self.config.seed)
        else:
            what = f"weights {source.path} for backbone {self.name!r}"
            tensors = unwrapped(load_tensors(source.path, needed_for=f"backbone {self.name!r}"), what=what)
            load_exactly(parts, tensors, what=what)
        parts.to(device=self.device, dtype=self.dtype)
        self.denoiser = parts["denoiser"]
        self.autoencoder: Any = parts["autoencoder"]
        self.text_encoder: Any = parts["text_encoder"]

    def _build_parts(self) -> nn.ModuleDict:
        return nn.ModuleDict(
            {
                "denoiser": self.build_denoiser(),
                "autoencoder": TinyAutoencoder(self.config.temporal_compression),
                "text_encoder": TinyTextEncoder(self.config.width),
            }
        )

    def modules(self) -> dict[str, nn.Module]:
        """Denoiser, autoencoder and text encoder."""
        return {
            "denoiser": self.denoiser,
            "autoencoder": self.autoencoder,
            "text_encoder": self.text_encoder,
        }

    @torch.no_grad()
    def encode_texts(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """``embeddings`` [N, l, d]."""
        return {"embeddings": self.text_encoder(texts)}

    def condition(
        self,
        text: Text,
        prompts: Sequence[Prompt],
        geometry: Geometry,
        rng: Randomness,
        *,
        image: Float[Tensor, "b 3 H W"] | None = None,
    ) -> Conditioning:
        """Text, fps, and the first frame's latents where there is one; the other branch sees no picture."""
        pictures = self._pictures(prompts, geometry) if image is None else image
        latents = self._image_latents(pictures.to(self.device, self.dtype), prompts, image is not None)
        fps = torch.full((len(prompts),), geometry.fps, device=self.device, dtype=self._wide)
        return Conditioning(
            {"text": text.positive["embeddings"], "fps": fps, "image": latents},
            {"text": text.negative["embeddings"], "fps": fps, "image": torch.zeros_like(latents)},
        )

    def _image_latents(self, pictures: Tensor, prompts: Sequence[Prompt], given: bool) -> Tensor:
        present = [given or prompt.image is not None for prompt in prompts]
        mask = torch.tensor(present, device=self.device, dtype=self.dtype).view(-1, 1, 1, 1)
        latents: Tensor = self.autoencoder.encode(pictures) * mask
        return latents

    def _pictures(self, prompts: Sequence[Prompt], geometry: Geometry) -> Tensor:
        pictures = torch.zeros(len(prompts), 3, geometry.height, geometry.width)
        for row, prompt in enumerate(prompts):
            if prompt.image is not None:
                pictures[row] = read_picture(prompt.image, geometry)
            elif self.needs_image:
                raise VaderError(
                    f"backbone {self.name!r} starts from a picture, but prompt {prompt.text!r} has none: "
                    "use --prompts images:FOLDER or a file with an image column"
                )
        return pictures

    @property
    def _wide(self) -> torch.dtype:
        return torch.float64 if self.dtype == torch.float64 else torch.float32

    def predict(
        self, latents: Float[Tensor, "b c t h w"], timestep: Float[Tensor, " b"], conditioning: Conditioning
    ) -> Prediction:
        """One call of the transformer."""
        schedule = self.schedule
        unit = 1.0 if isinstance(schedule, VarianceExploding) else float(schedule.num_train_timesteps)
        given = conditioning.tensors
        out: Tensor = self.denoiser(
            latents.to(self.dtype),
            timestep / unit,
            given["fps"],
            given["text"],
            given["image"].to(self.dtype),
            checkpointing=self.gradient_checkpointing,
        )
        return Prediction(out.to(latents.dtype))

    def blocks(self) -> list[nn.Module]:
        """The transformer's blocks."""
        return list(self.denoiser.get_submodule("blocks").children())

    def decode(
        self, latents: Float[Tensor, "b c t h w"], geometry: Geometry, frames: Sequence[int] | None = None
    ) -> Float[Tensor, "b f 3 H W"]:
        """Only the latent frames that ``frames`` lie in are decoded."""
        wanted = list(range(geometry.num_frames)) if frames is None else list(frames)
        ratio = self.config.temporal_compression
        held = sorted({frame // ratio for frame in wanted})
        chosen = rearrange(latents[:, :, held], "b c t h w -> (b t) c h w")
        decoded = self.autoencoder.decode(chosen.to(self.dtype)).to(latents.dtype)
        video = rearrange(decoded, "(b t) r c H W -> b (t r) c H W", t=len(held))
        return video[:, [held.index(frame // ratio) * ratio + frame % ratio for frame in wanted]]

    @torch.no_grad()
    def encode_video(self, video: Float[Tensor, "b f 3 H W"], rng: Randomness) -> Float[Tensor, "b c t h w"]:
        """Latents of the first of each group of frames."""
        firsts = video[:, :: self.config.temporal_compression]
        latents = self.autoencoder.encode(rearrange(firsts, "b t c H W -> (b t) c H W").to(self.dtype))
        return rearrange(latents, "(b t) c h w -> b c t h w", b=len(video)).to(video.dtype)


class TinyImageBackbone(TinyBackbone):
    """The tiny backbone as an image-to-video model: a prompt without a picture is refused."""

    name: ClassVar[str] = "tiny_image"
    needs_image: ClassVar[bool] = True


def tiny_backbone(
    *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32, **options: Any
) -> TinyBackbone:
    """A loaded :class:`TinyBackbone`; ``options`` are those of :class:`.plugin.TinyConfig`."""
    backbone = TinyBackbone(TinyConfig(**options), device=device, dtype=dtype)
    backbone.load()
    return backbone


def read_picture(path: Path, geometry: Geometry) -> Tensor:
    """A picture file as [3, H, W] float32 in [0, 1], resized to the geometry."""
    import numpy as np
    from PIL import Image

    try:
        with Image.open(path) as opened:
            picture = opened.convert("RGB").resize((geometry.width, geometry.height))
    except OSError as error:
        raise VaderError(f"{path} is not a readable picture: {error}") from error
    return rearrange(torch.from_numpy(np.array(picture)).float() / 255, "H W c -> c H W")


class BrightnessReward(ImageReward):
    """The mean of all pixels and channels, unclamped: 0 is black, 1 is white."""

    name: ClassVar[str] = "brightness"

    def score_frames(
        self, frames: Float[Tensor, "n 3 H W"], prompts: Sequence[Prompt]
    ) -> Float[Tensor, " n"]:
        """Mean over channels and pixels."""
        return frames.mean(dim=(1, 2, 3))


class MotionReward(ClipReward):
    """The mean squared change of a pixel from one frame to the next."""

    name: ClassVar[str] = "motion"

    @property
    def frames(self) -> FramesNeeded:
        """A clip of two frames or more."""
        return clip(minimum=2)

    def score(
        self, video: Float[Tensor, "b f 3 H W"], prompts: Sequence[Prompt], rng: Randomness
    ) -> Float[Tensor, " b"]:
        """Mean over frames, channels and pixels."""
        return (video[:, 1:] - video[:, :-1]).square().mean(dim=(1, 2, 3, 4))


_PLACES = (
    "on a beach",
    "in the rain",
    "at night",
    "under a lamp",
    "in a field",
    "by a river",
    "on ice",
    "at dawn",
)
_THINGS = ("a red kite", "two old boats", "a small dog", "the green train", "a paper lantern")


class FixedPrompts(PromptSource):
    """A handful of sentences.

    Args:
        count: Training prompts; as many more are held out. At most 20 differ.
    """

    def __init__(self, count: int = 8) -> None:
        combined = [f"{thing} {place}" for place in _PLACES for thing in _THINGS]
        self._train = [Prompt(combined[i % 20]) for i in range(count)]
        self._held_out = [Prompt(combined[20 + i % 20]) for i in range(count)]

    def draw(self, indices: Sequence[int], seed: int = 0) -> list[Prompt]:
        """Shuffled passes over the training prompts."""
        return [self._train[shuffled_index(index, len(self._train), seed)] for index in indices]

    def all(self) -> list[Prompt]:
        """The held-out prompts."""
        return list(self._held_out)
