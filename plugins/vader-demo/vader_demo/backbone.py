"""The demo model as a vader backbone: a caption in, 8 frames of 64 x 64 out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

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
from vader_core.prompts import Prompt
from vader_core.randomness import Randomness
from vader_core.schedule import RectifiedFlow, Schedule
from vader_core.text import Text
from vader_core.weights import parse_weights
from vader_demo.architecture import resolve_architecture
from vader_demo.autoencoder import DOWNSAMPLING, AutoEncoder
from vader_demo.captions import UnknownWordError, tokenise
from vader_demo.checkpoint import load_parts
from vader_demo.denoiser import Denoiser
from vader_demo.flow import GUIDANCE_SCALE, NUM_STEPS, SHIFT
from vader_demo.options import DemoConfig
from vader_demo.text_encoder import TextEncoder
from vader_demo.world import FRAMES, SIZE

FPS = 8
"""Frames per second that clips are written with; the model is not told."""

TRAIN_TIMESTEPS = 1000
"""The schedule's unit of time; the denoiser itself counts from 0 to 1."""


class DemoBackbone(Backbone):
    """A small text-to-video diffusion model, trained from scratch on the demo's world.

    Args:
        config: Options.
        device: Where the modules live.
        dtype: Of the frozen weights while computing.
    """

    name: ClassVar[str] = "demo"
    caches_features: ClassVar[bool] = True

    denoiser: nn.Module
    autoencoder: AutoEncoder
    text_encoder: TextEncoder

    def __init__(self, config: DemoConfig, *, device: torch.device, dtype: torch.dtype) -> None:
        super().__init__(device=device, dtype=dtype)
        self.config = config
        self.source = parse_weights(config.weights)
        self.architecture = resolve_architecture(config.architecture)
        if self.source.kind == "pretrained" and config.architecture != "full":
            raise VaderError(
                f"backbone 'demo': the shipped weights have the architecture full, not "
                f"{config.architecture!r}: add --weights random or --weights PATH"
            )

    # -- known before the weights are ------------------------------------------------------------------

    @property
    def defaults(self) -> Defaults:
        """The one geometry, and the sampling that the model card's accuracy is measured with."""
        return Defaults(
            geometry=Geometry(height=SIZE, width=SIZE, num_frames=FRAMES, fps=FPS),
            num_steps=NUM_STEPS,
            guidance_scale=GUIDANCE_SCALE,
            sampler="rectified_flow",
            prompts="demo",
        )

    @property
    def schedule(self) -> Schedule:
        """A rectified flow with a static time shift; the velocity is noise minus clean latents."""
        return RectifiedFlow(num_train_timesteps=TRAIN_TIMESTEPS, shift=SHIFT)

    @property
    def lora_targets(self) -> tuple[str, ...]:
        """Every linear layer of the blocks."""
        return ("to_q", "to_k", "to_v", "to_out", "expand", "contract")

    def validate(self, geometry: Geometry) -> None:
        """There is one size: 8 frames of 64 x 64; any positive frame rate."""
        for label, value, allowed in (
            ("height", geometry.height, SIZE),
            ("width", geometry.width, SIZE),
            ("num_frames", geometry.num_frames, FRAMES),
        ):
            if value != allowed:
                raise VaderError(f"backbone 'demo': {label}={value} is not allowed: use {allowed}")
        if geometry.fps <= 0:
            raise VaderError(f"backbone 'demo': fps={geometry.fps:g} is not allowed: use more than 0")

    def latent_shape(self, geometry: Geometry) -> tuple[int, int, int, int]:
        """(C, T, h, w): one latent frame a video frame."""
        return (
            self.architecture.latent_channels,
            geometry.num_frames,
            geometry.height // DOWNSAMPLING,
            geometry.width // DOWNSAMPLING,
        )

    def build_denoiser(self) -> nn.Module:
        """A fresh denoiser on torch's current default device."""
        return self.architecture.denoiser()

    # -- loading -----------------------------------------------------------------------------------------

    def load(self) -> None:
        """Build the three networks and read the shipped weights, a file's, or draw random ones."""
        parts = empty_module(
            lambda: nn.ModuleDict(self.architecture.modules()), device=self.device, dtype=self.dtype
        )
        if self.source.kind == "random":
            fill_randomly(parts, self.config.seed, "demo weights")
        else:
            load_parts(dict(parts), self.config.weights, "model", needed_for="backbone 'demo'")
        autoencoder, text_encoder, self.denoiser = parts.values()
        assert isinstance(autoencoder, AutoEncoder)
        assert isinstance(text_encoder, TextEncoder)
        self.autoencoder, self.text_encoder = autoencoder, text_encoder

    def modules(self) -> dict[str, nn.Module]:
        """The three networks by role."""
        return {
            "denoiser": self.denoiser,
            "autoencoder": self.autoencoder,
            "text_encoder": self.text_encoder,
        }

    def check_text(self, text: str) -> None:
        """Refuse a word that the model does not know; the message lists those it knows."""
        try:
            tokenise(text)
        except UnknownWordError as error:
            raise VaderError(f"backbone 'demo': {error}") from error

    # -- conditioning ------------------------------------------------------------------------------------

    def encode_texts(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """Caption features by name: ``embeddings`` [N, 12, d]; the empty text is the unconditional one.

        Raises:
            VaderError: A word that the model does not know; lists those it knows.
        """
        for text in texts:
            self.check_text(text)
        tokens = torch.tensor([tokenise(text) for text in texts], device=self.device)
        return {"embeddings": self.text_encoder(tokens)}

    def condition(
        self,
        text: Text,
        prompts: Sequence[Prompt],
        geometry: Geometry,
        rng: Randomness,
        *,
        image: Float[Tensor, "b 3 H W"] | None = None,
    ) -> Conditioning:
        """The caption's features; the unconditional branch is the empty caption's, or the negative prompt's.

        Args:
            text: From `encode_text`.
            prompts: The same prompts; one with an image is refused.
            geometry: A validated geometry.
            rng: Not used: nothing here is drawn.
            image: Not possible: this model starts from text alone.

        Raises:
            VaderError: An image was given.
        """
        if image is not None or any(prompt.image is not None for prompt in prompts):
            raise VaderError("backbone 'demo' makes video from text alone: leave the image out")
        return Conditioning(tensors=text.positive, unconditional=text.negative)

    def predict(
        self, latents: Float[Tensor, "b c t h w"], timestep: Float[Tensor, " b"], conditioning: Conditioning
    ) -> Prediction:
        """The velocity at ``timestep`` (0 to 1000) for one branch."""
        denoiser: Denoiser | nn.Module = self.denoiser
        velocity: Tensor = denoiser(
            latents.to(self.dtype),
            timestep / TRAIN_TIMESTEPS,
            conditioning.tensors["embeddings"].to(self.dtype),
            checkpointing=self.gradient_checkpointing,
        )
        return Prediction(velocity.to(latents.dtype))

    # -- pixels ------------------------------------------------------------------------------------------

    def blocks(self) -> list[nn.Module]:
        """The transformer's blocks."""
        return list(self.denoiser.get_submodule("blocks").children())

    def decode(
        self, latents: Float[Tensor, "b c t h w"], geometry: Geometry, frames: Sequence[int] | None = None
    ) -> Float[Tensor, "b f 3 H W"]:
        """The video, RGB nominally in [0, 1], not clamped; frames are decoded alone: any choice is exact."""
        chosen = latents if frames is None else latents[:, :, list(frames)]
        flat = rearrange(chosen, "b c t h w -> (b t) c h w").to(self.dtype)
        video = rearrange(self.autoencoder.decode(flat), "(b t) c H W -> b t c H W", b=len(latents))
        return video.to(latents.dtype)

    @torch.no_grad()
    def encode_video(self, video: Float[Tensor, "b f 3 H W"], rng: Randomness) -> Float[Tensor, "b c t h w"]:
        """Normalised latents of a video in [0, 1], frame by frame."""
        flat = rearrange(video, "b t c H W -> (b t) c H W").to(self.device, self.dtype)
        latents = rearrange(self.autoencoder.encode(flat), "(b t) c h w -> b c t h w", b=len(video))
        return latents.to(video.dtype)
