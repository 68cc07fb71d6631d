"""Open-Sora 1.1 on the backbone contract."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import fields
from typing import ClassVar

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from vader_core.backbone import Defaults
from vader_core.conditioning import Conditioning
from vader_core.errors import VaderError
from vader_core.geometry import Geometry, GeometryRequest
from vader_core.nn.build import empty_module
from vader_core.precision import wide, without_autocast
from vader_core.prediction import Prediction
from vader_core.prompts import Prompt
from vader_core.randomness import Randomness
from vader_core.schedule import Schedule, VariancePreserving
from vader_core.text import Tensors, Text
from vader_core.weights import WeightSource, load_exactly, parse_weights
from vader_opensora.captions import prepare
from vader_opensora.checkpoint import draw_into
from vader_opensora.family import PICTURE_FPS, SPATIAL, TEXT_LENGTH, OpenSoraFamily
from vader_opensora.frame_masks import FRAME_MASK
from vader_opensora.image_vae import Draw, ImageVAE
from vader_opensora.resolutions import image_size
from vader_opensora.v11.architecture import resolve_architecture
from vader_opensora.v11.checkpoint import autoencoder_tensors, denoiser_tensors
from vader_opensora.v11.options import OpenSora11Options
from vader_opensora.v11.stdit2 import STDiT2, Told

#: Channels that guidance mixes officially; the fourth is the conditional branch's.
GUIDED_CHANNELS = 3


class OpenSora11(OpenSoraFamily):
    """Open-Sora 1.1: an STDiT2 over the latents of single frames, told of text, size, length and frame rate.

    Args:
        options: The backbone's options.
        device: Where denoiser and autoencoder live.
        dtype: Of their weights.
    """

    name: ClassVar[str] = "opensora11"
    takes_image: ClassVar[bool] = True
    caches_features: ClassVar[bool] = True

    denoiser: STDiT2
    options: OpenSora11Options

    def __init__(self, options: OpenSora11Options, *, device: torch.device, dtype: torch.dtype) -> None:
        self.architecture = resolve_architecture(options.architecture)
        super().__init__(options, device=device, dtype=dtype)

    @property
    def text_size(self) -> tuple[int, int]:
        """200 tokens of 4096 channels in the published sizes."""
        return self.architecture.denoiser.model_max_length, self.architecture.denoiser.caption_channels

    def prepared(self, text: str, *, negative: bool = False) -> str:
        """Cleaned; this model knows no scores."""
        return prepare(text, cleaned=self.options.clean_captions)

    # -- known before the weights are --------------------------------------------------------------------

    @property
    def defaults(self) -> Defaults:
        """The official sampling: 240p 9:16, 16 frames, 100 steps, guidance 7.

        The last of 100 steps takes one hundredth of the prediction, and the two before it one twentieth each:
        a gradient through the last alone would hardly reach the LoRA.
        """
        height, width = image_size(self.options.resolution, self.options.aspect_ratio)
        return Defaults(
            prompts="animal",
            geometry=Geometry(height, width, num_frames=16, fps=8.0),
            num_steps=100,
            guidance_scale=7.0,
            sampler="iddpm",
            sampler_options={"table_dtype": "float32"},
            guidance_channels=GUIDED_CHANNELS,
            gradient="last:3",
            precision="bf16",
        )

    @property
    def schedule(self) -> Schedule:
        """1000 betas from 1e-4 to 0.02, evenly spaced; noise and variance are predicted."""
        betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
        return VariancePreserving(torch.cumprod(1.0 - betas, dim=0), variance="learned_range")

    def resolve_geometry(self, request: GeometryRequest) -> Geometry:
        """The request; named sizes must not contradict given ones.

        Raises:
            VaderError: They do, or the geometry cannot be made.
        """
        return super().resolve_geometry(self.named_size(request))

    def validate(self, geometry: Geometry) -> None:
        """Any size of at least 16 pixels, any number of frames.

        Raises:
            VaderError: Saying what is allowed.
        """
        self.check_size(geometry)
        if geometry.num_frames < 1:
            raise VaderError(
                f"backbone 'opensora11': num_frames={geometry.num_frames} is not allowed: use 1 (a picture) "
                "or more, e.g. 16, 32 or 64"
            )

    def latent_shape(self, geometry: Geometry) -> tuple[int, int, int, int]:
        """4 channels; every frame, and an eighth of each side, rounded down."""
        return (
            self.architecture.denoiser.in_channels,
            geometry.num_frames,
            geometry.height // SPATIAL,
            geometry.width // SPATIAL,
        )

    def build_denoiser(self) -> STDiT2:
        """The transformer, without weights."""
        return STDiT2(self.architecture.denoiser)

    # -- weights -----------------------------------------------------------------------------------------

    def load(self) -> None:
        """Build denoiser and autoencoder and read their weights; T5 is read when a text is to be encoded.

        Raises:
            VaderError: Weights that are missing or do not fit.
        """
        self.denoiser = self.empty_denoiser()
        self._fill(self.denoiser, self.options.weights, "denoiser", denoiser_tensors)
        self.autoencoder = empty_module(
            lambda: ImageVAE(self.architecture.vae),
            device=self.device,
            dtype=self.dtype,
        )
        weights = self.source_of(self.options.vae_weights)
        self._fill(self.autoencoder, weights, "autoencoder", autoencoder_tensors)
        self.autoencoder.lighten(self._recompute)

    def _fill(
        self,
        module: nn.Module,
        weights: str,
        part: str,
        read: Callable[[WeightSource, str], dict[str, Tensor]],
    ) -> None:
        source = parse_weights(weights)
        if source.kind == "random":
            draw_into(module, f"{self.name} {part}")
            return
        label = f"backbone {self.name!r} ({part})"
        load_exactly(module, read(source, label), what=f"{label}: {weights}")

    def modules(self) -> dict[str, nn.Module]:
        """Denoiser and autoencoder, and T5 while it is loaded."""
        return {"denoiser": self.denoiser, "autoencoder": self.autoencoder, **self.held_text_encoder()}

    def blocks(self) -> list[nn.Module]:
        """Every block."""
        return list(self.denoiser.blocks)

    # -- conditioning ------------------------------------------------------------------------------------

    def condition(
        self,
        text: Text,
        prompts: Sequence[Prompt],
        geometry: Geometry,
        rng: Randomness,
        *,
        image: Float[Tensor, "b 3 H W"] | None = None,
    ) -> Conditioning:
        """Text with its mask, size, length and rate; frame mask and given frames where a prompt has any."""
        positive, negative, counted = self.text_branches(text)
        numbers = self.told(geometry)
        given, _ = self.references(prompts, geometry, image)
        for name, value in numbers.items():
            given[name] = torch.full((len(prompts),), value, device=self.device, dtype=wide(self.dtype))
        shared = {"size": (numbers["height"], numbers["width"]), TEXT_LENGTH: counted}
        return Conditioning({**positive, **given}, {**negative, **given}, shared)

    def told(self, geometry: Geometry) -> dict[str, float]:
        """Size, length and rate as the model is told them, by the names of :class:`Told`."""
        height, width = geometry.height, geometry.width
        ratio = height / width if self.options.told_ratio == "height/width" else width / height
        moving = geometry.fps * self.options.frame_interval
        return self.rounded(
            {
                "height": height,
                "width": width,
                "ratio": ratio,
                "num_frames": geometry.num_frames,
                "fps": PICTURE_FPS if geometry.num_frames == 1 else moving,
            }
        )

    # -- the model ---------------------------------------------------------------------------------------

    def predict(
        self, latents: Float[Tensor, "b c t h w"], timestep: Float[Tensor, " b"], conditioning: Conditioning
    ) -> Prediction:
        """The noise, and the share of the variance between its bounds: both halves of the official output."""
        given, shared = conditioning.tensors, conditioning.shared
        text, mask = self.text_given(given, shared[TEXT_LENGTH])
        told = Told(*(given[one.name] for one in fields(Told)))
        out: Tensor = self.denoiser(
            latents,
            timestep.to(getattr(torch, self.options.timestep_dtype)).to(timestep.dtype),
            text,
            mask,
            self._generated(given),
            told=told,
            size=shared["size"],
            recompute=self.gradient_checkpointing,
        )
        noise, variance = out.to(latents.dtype).chunk(2, dim=1)
        return Prediction(noise, variance)

    @staticmethod
    def _generated(given: Tensors) -> Tensor | None:
        """True where a frame is generated: what the sampler says, or else every frame that is not given."""
        mask = given.get(FRAME_MASK)
        return mask if mask is None or mask.dtype == torch.bool else mask >= 1

    # -- pixels ------------------------------------------------------------------------------------------

    def decode(
        self, latents: Float[Tensor, "b c t h w"], geometry: Geometry, frames: Sequence[int] | None = None
    ) -> Float[Tensor, "b f 3 H W"]:
        """Each frame on its own, so that any choice of them has the full decode's values.

        Sides are multiples of 8: a video of 240 x 426 comes out as 240 x 424, as in the official code.
        """
        chosen = latents if frames is None else latents[:, :, list(frames)]
        pictures = rearrange(chosen, "b c t h w -> (b t) c h w").to(self.dtype)
        with self._undisturbed():
            video = self.autoencoder.decode(pictures)
        video = rearrange(video, "(b t) c h w -> b t c h w", b=len(latents))
        return (video.to(latents.dtype) + 1) / 2

    @torch.no_grad()
    def encode_video(self, video: Float[Tensor, "b f 3 H W"], rng: Randomness) -> Float[Tensor, "b c t h w"]:
        """Latents of a video in [0, 1], drawn from each frame's posterior as in the official training."""
        frames, _, height, width = video.shape[1:]
        channels = self.architecture.denoiser.in_channels
        shape = (frames, channels, height // SPATIAL, width // SPATIAL)
        drawn = rng.normal("encode", shape, device=self.device, dtype=self.dtype).flatten(0, 1)
        parts = iter(drawn.split(self.autoencoder.image_batch))
        with torch.no_grad():
            return self._encoded(video, lambda _: next(parts))

    def means(self, video: Tensor) -> Tensor:
        """The means of the posterior of each frame, [b, c, t, h, w]."""
        return self._encoded(video, None)

    def _encoded(self, video: Tensor, draw: Draw | None) -> Tensor:
        pictures = rearrange(video, "b f c h w -> (b f) c h w").to(self.dtype) * 2 - 1
        with self._undisturbed():
            latents = self.autoencoder.encode(pictures, draw)
        return rearrange(latents, "(b t) c h w -> b c t h w", b=len(video)).to(wide(self.dtype))

    def _undisturbed(self) -> AbstractContextManager[None]:
        """Autocast off: the autoencoder computes in its own dtype."""
        self.autoencoder.gradient_checkpointing = self.gradient_checkpointing
        self._recompute.on = self.gradient_checkpointing
        return without_autocast(self.device)
