"""Open-Sora 1.2 on the backbone contract."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
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
from vader_core.schedule import RectifiedFlow, Schedule
from vader_core.text import Text
from vader_core.weights import parse_weights
from vader_opensora.architecture import resolve_architecture
from vader_opensora.captions import prepare
from vader_opensora.family import PICTURE_FPS, SPATIAL, TEXT_LENGTH, OpenSoraFamily
from vader_opensora.flow import time_shift
from vader_opensora.frame_masks import FRAME_MASK, active_frames
from vader_opensora.options import OpenSoraOptions
from vader_opensora.resolutions import check_frames, frame_count, image_size
from vader_opensora.sampler import EDITED, STRICT_MASK
from vader_opensora.stdit3 import STDiT3
from vader_opensora.video_vae import VideoVAE
from vader_opensora.weight_files import AUTOENCODER, DENOISER

#: Largest number of float16.
LARGEST_HALF = 65504


class OpenSora(OpenSoraFamily):
    """Open-Sora 1.2: an STDiT3 over latents of a video autoencoder, told of text, size and frame rate.

    Args:
        options: The backbone's options.
        device: Where denoiser and autoencoder live.
        dtype: Of their weights.
    """

    name: ClassVar[str] = "opensora"
    takes_image: ClassVar[bool] = True
    caches_features: ClassVar[bool] = True

    denoiser: STDiT3
    options: OpenSoraOptions

    def __init__(self, options: OpenSoraOptions, *, device: torch.device, dtype: torch.dtype) -> None:
        self.architecture = resolve_architecture(options.architecture)
        super().__init__(options, device=device, dtype=dtype)
        self.placement_unit = self.architecture.vae.chunk_latents
        if options.decoder != "exact":
            self.decode_is_exact = False  # type: ignore[misc]  # follows the options

    @property
    def text_size(self) -> tuple[int, int]:
        """300 tokens of 4096 channels in the published sizes."""
        return self.architecture.denoiser.model_max_length, self.architecture.denoiser.caption_channels

    def prepared(self, text: str, *, negative: bool = False) -> str:
        """Cleaned, and with scores where it is no negative prompt."""
        options = self.options
        return prepare(
            text,
            aesthetic=None if negative else options.aesthetic_score,
            motion=None if negative else options.motion_score,
            camera=None if negative else options.camera_motion,
            cleaned=options.clean_captions,
        )

    # -- known before the weights are --------------------------------------------------------------------

    @property
    def defaults(self) -> Defaults:
        """VADER's published Open-Sora run: 240p 3:4, 2 s at 24 frames per second, 30 steps, guidance 7."""
        height, width = image_size(self.options.resolution, self.options.aspect_ratio)
        return Defaults(
            prompts="animal",
            geometry=Geometry(height, width, num_frames=51, fps=24.0),
            num_steps=30,
            guidance_scale=7.0,
            sampler="rflow",
            sampler_options={"conditioning_dtype": self.options.conditioning_dtype},
            gradient="last",
            precision="bf16",
        )

    @property
    def schedule(self) -> Schedule:
        """A rectified flow whose prediction points from noise to data."""
        return RectifiedFlow(num_train_timesteps=1000, velocity_sign=-1)

    def resolve_geometry(self, request: GeometryRequest) -> Geometry:
        """The request, with ``2s`` and the like as frames; named sizes must not contradict given ones.

        Raises:
            VaderError: A form that is not known, or a geometry that cannot be made.
        """
        request = self.named_size(request)
        frames = None if request.num_frames is None else frame_count(request.num_frames)
        return super().resolve_geometry(GeometryRequest(request.height, request.width, frames, request.fps))

    def validate(self, geometry: Geometry) -> None:
        """Any size of at least 16 pixels, one frame or 17 and more.

        Raises:
            VaderError: Saying what is allowed.
        """
        check_frames(geometry.num_frames)
        self.check_size(geometry)
        pixels = geometry.height * geometry.width
        if self.options.conditioning_dtype == "float16" and pixels > LARGEST_HALF:
            raise VaderError(
                f"backbone 'opensora': conditioning_dtype=float16 cannot hold {geometry.height} x "
                f"{geometry.width} = {pixels} pixels (at most {LARGEST_HALF}), so that every timestep "
                "would be nan: use float32 or bfloat16"
            )

    def latent_shape(self, geometry: Geometry) -> tuple[int, int, int, int]:
        """4 channels; 5 latent frames for every 17, and an eighth of each side, rounded down."""
        frames = self.architecture.vae.latent_frames(geometry.num_frames)
        return (
            self.architecture.denoiser.in_channels,
            frames,
            geometry.height // SPATIAL,
            geometry.width // SPATIAL,
        )

    def build_denoiser(self) -> STDiT3:
        """The transformer, without weights."""
        return STDiT3(self.architecture.denoiser)

    # -- weights -----------------------------------------------------------------------------------------

    def load(self) -> None:
        """Build denoiser and autoencoder and read their weights; T5 is read when a text is to be encoded.

        Raises:
            VaderError: Weights that are missing or do not fit.
        """
        wider = wide(self.dtype)
        self.denoiser = self.empty_denoiser()
        self.fill(self.denoiser, parse_weights(self.options.weights), DENOISER, "denoiser", "--weights PATH")
        self.autoencoder = empty_module(
            lambda: VideoVAE(self.architecture.vae),
            device=self.device,
            dtype=self.dtype,
            keep=lambda model: model.keep_constants_wide(wider),
        )
        source = parse_weights(self.source_of(self.options.vae_weights))
        self.fill(self.autoencoder, source, AUTOENCODER, "autoencoder", "-o backbone.vae_weights=PATH")
        self.autoencoder.lighten(self._recompute)

    def modules(self) -> dict[str, nn.Module]:
        """Denoiser and autoencoder, and T5 while it is loaded."""
        return {"denoiser": self.denoiser, "autoencoder": self.autoencoder, **self.held_text_encoder()}

    def decoders(self) -> list[nn.Module]:
        """The temporal one is given a chunk, the image one the chosen frames."""
        image: nn.Module = self.autoencoder.spatial_vae.module.decoder
        return [self.autoencoder.temporal_vae.decoder, image]

    def blocks(self) -> list[nn.Module]:
        """Every block, in space and time."""
        return [*self.denoiser.spatial_blocks, *self.denoiser.temporal_blocks]

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
        """Text with its mask, frame rate and size; frame mask and given frames where a prompt has any."""
        positive, negative, counted = self.text_branches(text)
        numbers = self._told(geometry)
        fps = torch.full((len(prompts),), numbers["fps"], device=self.device, dtype=wide(self.dtype))
        given, edited = self.references(prompts, geometry, image)
        shared = {
            "size": (numbers["height"], numbers["width"]),
            TEXT_LENGTH: counted,
            EDITED: edited or self.options.strict_frame_mask,
            STRICT_MASK: self.options.strict_frame_mask,
        }
        return Conditioning({**positive, "fps": fps, **given}, {**negative, "fps": fps, **given}, shared)

    def _told(self, geometry: Geometry) -> dict[str, float]:
        """Size and frame rate as the model is told them."""
        fps = PICTURE_FPS if geometry.num_frames == 1 else geometry.fps
        return self.rounded({"height": geometry.height, "width": geometry.width, "fps": fps})

    # -- fine-tuning -------------------------------------------------------------------------------------

    def training_shift(self, geometry: Geometry) -> float:
        """Longer and larger clips are trained at more noise, as they are sampled."""
        size = (geometry.height, geometry.width, geometry.num_frames)
        return float(time_shift(*(torch.tensor([float(number)]) for number in size)))

    # -- the model ---------------------------------------------------------------------------------------

    def predict(
        self, latents: Float[Tensor, "b c t h w"], timestep: Float[Tensor, " b"], conditioning: Conditioning
    ) -> Prediction:
        """The velocity x0 - noise, the first half of the official output."""
        given, shared = conditioning.tensors, conditioning.shared
        frame_mask = None
        if FRAME_MASK in given:
            strict = bool(shared.get(STRICT_MASK, False))
            frame_mask = active_frames(given[FRAME_MASK], timestep, strict=strict)
        text, mask = self.text_given(given, shared[TEXT_LENGTH])
        out: Tensor = self.denoiser(
            latents,
            timestep,
            text,
            mask,
            frame_mask,
            fps=given["fps"],
            size=shared["size"],
            recompute=self.gradient_checkpointing,
        )
        return Prediction(out[:, : latents.shape[1]].to(latents.dtype))

    # -- pixels ------------------------------------------------------------------------------------------

    def decode(
        self, latents: Float[Tensor, "b c t h w"], geometry: Geometry, frames: Sequence[int] | None = None
    ) -> Float[Tensor, "b f 3 H W"]:
        """Only the chunks of 17 frames that hold ``frames`` are decoded, with the full decode's values.

        Sides are multiples of 8: a video of 240 x 426 comes out as 240 x 424, as in the official code.
        """
        with self._undisturbed():
            if frames is not None and self.options.decoder == "vader_single_latent":
                video = self._decode_single_latents(latents, geometry, frames)
            else:
                video = self.autoencoder.decode(latents, geometry.num_frames, frames)
        return (rearrange(video, "b c f h w -> b f c h w").to(latents.dtype) + 1) / 2

    def _decode_single_latents(self, latents: Tensor, geometry: Geometry, frames: Sequence[int]) -> Tensor:
        """Each frame from its own latent alone, as if that were a picture."""
        sizes = self.architecture.vae
        places = [sizes.latent_of(frame, geometry.num_frames) for frame in frames]
        alone = rearrange(latents[:, :, places], "b c f h w -> (b f) c 1 h w")
        pictures = self.autoencoder.decode(alone, 1)
        return rearrange(pictures, "(b f) c 1 h w -> b c f h w", b=len(latents))

    @torch.no_grad()
    def encode_video(self, video: Float[Tensor, "b f 3 H W"], rng: Randomness) -> Float[Tensor, "b c t h w"]:
        """Latents of a video in [0, 1]: the means of both posteriors."""
        return self.means(video)

    def means(self, video: Tensor) -> Tensor:
        """Both halves' means, [b, c, t, h, w]."""
        pixels = rearrange(video, "b f c h w -> b c f h w").to(self.dtype) * 2 - 1
        with self._undisturbed():
            return self.autoencoder.encode(pixels).to(wide(self.dtype))

    def _undisturbed(self) -> AbstractContextManager[None]:
        """Autocast off: the autoencoder computes in its own dtype."""
        self.autoencoder.gradient_checkpointing = self.gradient_checkpointing
        self._recompute.on = self.gradient_checkpointing
        return without_autocast(self.device)
