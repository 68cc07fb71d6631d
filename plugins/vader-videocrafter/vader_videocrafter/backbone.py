"""VideoCrafter2 as a backbone."""

from __future__ import annotations

import warnings
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
from vader_core.schedule import VariancePreserving
from vader_core.text import Text, TextCache
from vader_core.weights import load_exactly, locate, parse_weights
from vader_videocrafter.architecture import resolve_architecture
from vader_videocrafter.attention import TransformerBlock
from vader_videocrafter.autoencoder import FrameCodec, build_autoencoder
from vader_videocrafter.checkpoint import read_checkpoint
from vader_videocrafter.options import VideoCrafterOptions
from vader_videocrafter.residual import ResidualBlock
from vader_videocrafter.schedule import videocrafter_schedule
from vader_videocrafter.text_encoder import build_text_model, encode_tokens, tokenize
from vader_videocrafter.unet import VideoUNet
from vader_videocrafter.weight_files import CHECKPOINT

FULL_SIZE = (320, 512)
"""Height and width of the released model (`inference_t2v_512_v2.0.yaml`)."""

FAMILIAR_FRAMES = 24
"""The most frames that VADER's own scripts ask of the model."""


TEXTS_AT_ONCE = 64
"""Texts in one pass of the text encoder, so that a long list of prompts does not fill the device."""


class VideoCrafter(Backbone):
    """VideoCrafter2 (Chen et al. 2024): latent diffusion of 320x512 video from text.

    Args:
        options: Weights, sizes and memory options.
        device: Where it computes.
        dtype: Of the frozen weights.
    """

    name: ClassVar[str] = "videocrafter"
    decode_is_exact: ClassVar[bool] = True
    prefers_channels_last: ClassVar[bool] = True
    caches_features: ClassVar[bool] = True

    def __init__(self, options: VideoCrafterOptions, *, device: torch.device, dtype: torch.dtype) -> None:
        super().__init__(device=device, dtype=dtype)
        self.options = options
        self.architecture = resolve_architecture(options.architecture)
        self._source = parse_weights(options.weights)
        self._schedule = videocrafter_schedule()
        self._text_rests_on_cpu = options.offload_text_encoder
        self.text_cache = TextCache(self._cache_key())

    def _cache_key(self) -> str:
        weights = self.options.weights
        if self._source.path is not None:
            status = self._source.path.stat()
            weights = f"{self._source.path.resolve()} {status.st_size} {status.st_mtime_ns}"
        return f"{self.name} {weights} {self.architecture.text!r} {self.dtype} {self.device.type}"

    # Known before the weights are.

    @property
    def defaults(self) -> Defaults:
        """The released settings: 12 frames to train, 24 to sample, 25 steps, guidance 12, eta 1, fps 24."""
        height, width = FULL_SIZE if self.options.architecture == "full" else self._small_size()
        return Defaults(
            geometry=Geometry(height=height, width=width, num_frames=12, fps=24),
            num_steps=25,
            guidance_scale=12.0,
            sampler="ddim_videocrafter",
            sampler_options={"eta": 1.0},
            gradient="last",
            sample_frames=FAMILIAR_FRAMES,
            prompts="animal",
        )

    def _small_size(self) -> tuple[int, int]:
        multiple = self.architecture.size_multiple
        return (5 * multiple, 8 * multiple)

    @property
    def schedule(self) -> VariancePreserving:
        """Latent Diffusion's betas, noise prediction, clean latents scaled from 1 down to 0.7."""
        return self._schedule

    @property
    def lora_targets(self) -> tuple[str, ...]:
        """Queries, keys and values of every attention: 198 layers in the full model."""
        return ("to_q", "to_k", "to_v")

    def validate(self, geometry: Geometry) -> None:
        """Refuses sides that are no multiples of 64 pixels, and counts below one; warns past 24 frames."""
        multiple = self.architecture.size_multiple
        for side, value in (("height", geometry.height), ("width", geometry.width)):
            if value < multiple or value % multiple:
                nearest = max(1, round(value / multiple)) * multiple
                raise VaderError(
                    f"backbone {self.name!r}: {side}={value} is not allowed: use a multiple of {multiple} "
                    f"(nearest: {nearest})"
                )
        if geometry.num_frames < 1:
            raise VaderError(
                f"backbone {self.name!r}: num_frames={geometry.num_frames} is not allowed: use 1 or more"
            )
        if geometry.fps <= 0:
            raise VaderError(f"backbone {self.name!r}: fps={geometry.fps:g} is not allowed: use more than 0")
        if geometry.num_frames > FAMILIAR_FRAMES:
            warnings.warn(
                f"backbone {self.name!r}: num_frames={geometry.num_frames} is more than the "
                f"{FAMILIAR_FRAMES} that VideoCrafter2 is known to sample well; look at the motion",
                stacklevel=2,
            )

    def latent_shape(self, geometry: Geometry) -> tuple[int, int, int, int]:
        """(4, num_frames, height / 8, width / 8)."""
        factor = self.architecture.autoencoder.downsampling
        return (
            self.architecture.unet.in_channels,
            geometry.num_frames,
            geometry.height // factor,
            geometry.width // factor,
        )

    def build_denoiser(self) -> VideoUNet:
        """A fresh UNet."""
        return VideoUNet(self.architecture.unet)

    # Loading.

    def load(self) -> None:
        """Builds UNet, autoencoder and text encoder and fills them from one file, or at random."""
        unet = empty_module(self.build_denoiser, device=self.device, dtype=self.dtype)
        autoencoder = empty_module(
            lambda: build_autoencoder(self.architecture.autoencoder),
            device=torch.device("cpu") if self.options.offload_autoencoder else self.device,
            dtype=self.dtype,
        )
        text_encoder = empty_module(
            lambda: build_text_model(self.architecture.text),
            device=torch.device("cpu") if self._text_rests_on_cpu else self.device,
            dtype=self.dtype,
        )
        if self._source.kind == "random":
            for part, module in {"unet": unet, "autoencoder": autoencoder, "text": text_encoder}.items():
                fill_randomly(module, 0, f"videocrafter {part}")
        else:
            self._read_into(unet, autoencoder, text_encoder)
        self.denoiser: nn.Module = unet
        self._unet = unet
        self.text_encoder = text_encoder
        self.autoencoder = autoencoder
        self._codec = FrameCodec(
            autoencoder,
            device=self.device,
            slice_size=self.options.decode_slice,
            tiling=self.options.decode_tiling,
        )

    def _read_into(self, unet: nn.Module, autoencoder: nn.Module, text_encoder: nn.Module) -> None:
        what = f"backbone {self.name!r}"
        path = locate(self._source, CHECKPOINT, needed_for=what)
        parts = read_checkpoint(path, self.architecture, what=what)
        prefix = "text_model." if any(n.startswith("text_model.") for n in text_encoder.state_dict()) else ""
        load_exactly(unet, parts.unet, what=f"{what}, UNet")
        load_exactly(autoencoder, parts.autoencoder, what=f"{what}, autoencoder")
        text = {prefix + name: value for name, value in parts.text.items()}
        load_exactly(text_encoder, text, what=f"{what}, text encoder")

    def modules(self) -> dict[str, nn.Module]:
        """The denoiser, the autoencoder and the text encoder."""
        return {
            "denoiser": self.denoiser,
            "autoencoder": self.autoencoder,
            "text_encoder": self.text_encoder,
        }

    def blocks(self) -> list[nn.Module]:
        """Residual and transformer blocks."""
        return [part for part in self._unet.modules() if isinstance(part, ResidualBlock | TransformerBlock)]

    def decoders(self) -> list[nn.Module]:
        """The half of the autoencoder that is given the chosen frames; none where its weights are moved."""
        return [] if self.options.offload_autoencoder else [self.autoencoder.get_submodule("decoder")]

    # Text.

    @torch.no_grad()
    def encode_texts(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """`context` `[N, 77, 1024]`: the text tower's penultimate layer after its final normalisation."""
        self.text_encoder.to(self.device)
        tokens = tokenize(texts, self.architecture.text.context_length).to(self.device)
        parts = [encode_tokens(self.text_encoder, part) for part in tokens.split(TEXTS_AT_ONCE)]
        context = torch.cat(parts)
        if self._text_rests_on_cpu:
            self.text_encoder.to("cpu")
        return {"context": context.to(self.dtype)}

    def release_text_encoder(self) -> None:
        """Sends the text encoder to the CPU; it visits the device again for texts not seen before."""
        self._text_rests_on_cpu = True
        self.text_encoder.to("cpu")

    # Sampling.

    def condition(
        self,
        text: Text,
        prompts: Sequence[Prompt],
        geometry: Geometry,
        rng: Randomness,
        *,
        image: Float[Tensor, "b 3 H W"] | None = None,
    ) -> Conditioning:
        """Text tokens and frame rate; the unconditional branch has the negative prompt and the same rate."""
        if image is not None or any(prompt.image is not None for prompt in prompts):
            raise VaderError(
                f"backbone {self.name!r} makes video from text alone: use prompts without images, "
                "and one segment"
            )
        fps = torch.full((len(prompts),), float(geometry.fps), device=self.device)
        return Conditioning(
            tensors={"context": text.positive["context"], "fps": fps},
            unconditional={"context": text.negative["context"], "fps": fps},
        )

    def predict(
        self, latents: Float[Tensor, "b c t h w"], timestep: Float[Tensor, " b"], conditioning: Conditioning
    ) -> Prediction:
        """The predicted noise, in the dtype of `latents`."""
        if self._unet.gradient_checkpointing != self.gradient_checkpointing:
            self._unet.enable_gradient_checkpointing(self.gradient_checkpointing)
        tensors = conditioning.tensors
        prediction: Tensor = self.denoiser(latents, timestep, tensors["context"], tensors["fps"])
        return Prediction(prediction)

    def decode(
        self, latents: Float[Tensor, "b c t h w"], geometry: Geometry, frames: Sequence[int] | None = None
    ) -> Float[Tensor, "b f 3 H W"]:
        """The chosen frames, each decoded on its own, mapped from [-1, 1] to [0, 1] and not clamped."""
        total = latents.shape[2]
        if frames is not None:
            wrong = [frame for frame in frames if not 0 <= frame < total]
            if wrong:
                raise VaderError(
                    f"backbone {self.name!r}: frame {wrong[0]} does not exist: use 0 to {total - 1}"
                )
            # One by one: indexing with a list would copy the indices to the device and wait for it.
            latents = torch.stack([latents[:, :, frame] for frame in frames], dim=2)
        batch = latents.shape[0]
        images = self._codec.decode(
            rearrange(latents, "b c t h w -> (b t) c h w"), recompute=self.gradient_checkpointing
        )
        return rearrange(images, "(b f) c h w -> b f c h w", b=batch) / 2 + 0.5

    @torch.no_grad()
    def encode_video(self, video: Float[Tensor, "b f 3 H W"], rng: Randomness) -> Float[Tensor, "b c t h w"]:
        """Means of the latents of a video in [0, 1]."""
        batch = video.shape[0]
        latents = self._codec.encode(rearrange(video, "b f c h w -> (b f) c h w") * 2 - 1)
        return rearrange(latents, "(b t) c h w -> b c t h w", b=batch)
