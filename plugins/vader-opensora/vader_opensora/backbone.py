"""Open-Sora 1.2 on the backbone contract."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import ClassVar

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from vader_core.backbone import Backbone, Defaults
from vader_core.conditioning import Conditioning
from vader_core.errors import VaderError
from vader_core.geometry import Geometry, GeometryRequest
from vader_core.nn.build import empty_module
from vader_core.nn.precision import wide, without_autocast
from vader_core.nn.recompute import RecomputeSwitch
from vader_core.prediction import Prediction
from vader_core.prompts import Prompt
from vader_core.randomness import Randomness
from vader_core.schedule import RectifiedFlow, Schedule
from vader_core.text import Text, TextCache
from vader_core.weights import WeightFile, WeightSource, locate, parse_weights
from vader_opensora import checkpoint, kernels
from vader_opensora.architecture import resolve_architecture
from vader_opensora.captions import Request, parse_request, prepare
from vader_opensora.frame_masks import active_frames, parse_strategy, place
from vader_opensora.options import OpenSoraOptions
from vader_opensora.references import read_reference
from vader_opensora.resolutions import check_frames, frame_count, image_size
from vader_opensora.sampler import EDITED, FRAME_MASK, REFERENCE, STRICT_MASK
from vader_opensora.stdit3 import STDiT3
from vader_opensora.text_encoder import T5TextEncoder, WordVectors
from vader_opensora.video_vae import VideoVAE
from vader_opensora.weight_files import AUTOENCODER, DENOISER, TEXT_ENCODER

#: Pixels along a side of one latent element.
SPATIAL = 8
#: Frames per second that the model is told of a single picture.
PICTURE_FPS = 120.0
#: Name of the number of tokens that count in every text, or ``None`` where texts differ.
TEXT_LENGTH = "text_length"
#: Prompts that go through T5 together.
TEXTS_AT_ONCE = 8
#: Tokens that texts are padded to a multiple of: every length of text is a CUDA graph of its own.
TEXT_UNIT = 32
#: Largest number of float16.
LARGEST_HALF = 65504


class OpenSora(Backbone):
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

    def __init__(self, options: OpenSoraOptions, *, device: torch.device, dtype: torch.dtype) -> None:
        super().__init__(device=device, dtype=dtype)
        self.options = options
        self.architecture = resolve_architecture(options.architecture)
        if options.decoder != "exact":
            self.decode_is_exact = False  # type: ignore[misc]  # follows the options
        self._text_encoder: Callable[[Sequence[str]], dict[str, Tensor]] | None = None
        self._keep_text_encoder = True
        self._recompute = RecomputeSwitch()
        self.text_cache = TextCache(self._text_key(), self._text_folder())

    # -- known before the weights are --------------------------------------------------------------------

    @property
    def defaults(self) -> Defaults:
        """VADER's published Open-Sora run: 240p 3:4, 2 s at 24 frames a second, 30 steps, guidance 7."""
        height, width = image_size(self.options.resolution, self.options.aspect_ratio)
        return Defaults(
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

    @property
    def lora_targets(self) -> tuple[str, ...]:
        """VADER's: both inputs of cross-attention and the packed input of self-attention, 168 modules."""
        return ("qkv", "q_linear", "kv_linear")

    def resolve_geometry(self, request: GeometryRequest) -> Geometry:
        """The request, with ``2s`` and the like as frames; named sizes must not contradict given ones.

        Raises:
            VaderError: A form that is not known, or a geometry that cannot be made.
        """
        named = self.options.model_fields_set & {"resolution", "aspect_ratio"}
        wanted = image_size(self.options.resolution, self.options.aspect_ratio)
        for label, given, meant in zip(
            ("height", "width"), (request.height, request.width), wanted, strict=True
        ):
            if named and given is not None and given != meant:
                raise VaderError(
                    f"backbone 'opensora': --{label} {given} contradicts "
                    f"resolution={self.options.resolution} with aspect_ratio={self.options.aspect_ratio}, "
                    f"which is {wanted[0]} x {wanted[1]}: give one or the other"
                )
        frames = None if request.num_frames is None else frame_count(request.num_frames)
        return super().resolve_geometry(GeometryRequest(request.height, request.width, frames, request.fps))

    def validate(self, geometry: Geometry) -> None:
        """Any size of at least 16 pixels, one frame or 17 and more.

        Raises:
            VaderError: Saying what is allowed.
        """
        check_frames(geometry.num_frames)
        for label, value in (("height", geometry.height), ("width", geometry.width)):
            if value < 2 * SPATIAL:
                raise VaderError(
                    f"backbone 'opensora': {label}={value} is not allowed: use 16 or more, e.g. {2 * SPATIAL}"
                )
        if not geometry.fps > 0:
            raise VaderError(
                f"backbone 'opensora': fps={geometry.fps:g} is not allowed: use a number above 0"
            )
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

    def video_size(self, geometry: Geometry) -> tuple[int, int]:
        """Each side rounded down to a multiple of 8."""
        return geometry.height // SPATIAL * SPATIAL, geometry.width // SPATIAL * SPATIAL

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
        self.denoiser = empty_module(
            self.build_denoiser,
            device=self.device,
            dtype=self.dtype,
            keep=lambda model: model.keep_time_wide(wider),
        )
        self._fill(self.denoiser, parse_weights(self.options.weights), DENOISER, "denoiser", "--weights PATH")
        self.autoencoder = empty_module(
            lambda: VideoVAE(self.architecture.vae),
            device=self.device,
            dtype=self.dtype,
            keep=lambda model: model.keep_constants_wide(wider),
        )
        source = parse_weights(self._part(self.options.vae_weights))
        self._fill(self.autoencoder, source, AUTOENCODER, "autoencoder", "-o backbone.vae_weights=PATH")
        self.autoencoder.lighten(self._recompute)

    def _part(self, given: str | None) -> str:
        return given or ("random" if self.options.weights == "random" else "pretrained")

    def _fill(
        self, module: nn.Module, source: WeightSource, file: WeightFile, part: str, option: str
    ) -> None:
        if source.kind == "random":
            checkpoint.draw_into(module, part=part)
        else:
            checkpoint.read_into(
                module, checkpoint.weight_file(source, file, part=part, option=option), part=part
            )

    def modules(self) -> dict[str, nn.Module]:
        """Denoiser and autoencoder, and T5 while it is loaded."""
        held: dict[str, nn.Module] = {"denoiser": self.denoiser, "autoencoder": self.autoencoder}
        if isinstance(self._text_encoder, T5TextEncoder):
            held["text_encoder"] = self._text_encoder.model
        return held

    def blocks(self) -> list[nn.Module]:
        """Every block, in space and time."""
        return [*self.denoiser.spatial_blocks, *self.denoiser.temporal_blocks]

    # -- text --------------------------------------------------------------------------------------------

    def _text_key(self) -> str:
        sizes = self.architecture.denoiser
        weights = self._part(self.options.text_encoder_weights)
        words: list[object] = [
            weights,
            sizes.model_max_length,
            sizes.caption_channels,
            self.options.text_encoder_dtype,
        ]
        folder = Path(weights).expanduser()
        if folder.is_dir():
            files = sorted(file for file in folder.iterdir() if file.is_file())
            words += [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
        return f"{self.name} {words}"

    def _text_folder(self) -> Path | None:
        if self._part(self.options.text_encoder_weights) == "random":
            return self.options.text_cache
        if self.options.text_cache is not None:
            return self.options.text_cache.expanduser()
        root = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
        return Path(root).expanduser() / "vader" / "opensora-text"

    def _prepared(self, text: str, *, scored: bool = True) -> str:
        options = self.options
        return prepare(
            text,
            aesthetic=options.aesthetic_score if scored else None,
            motion=options.motion_score if scored else None,
            camera=options.camera_motion if scored else None,
            cleaned=options.clean_captions,
        )

    def encode_texts(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """Run T5 on texts as they are: ``embeddings`` [n, 300, 4096] and ``mask`` [n, 300]."""
        if self._text_encoder is None:
            self._text_encoder = self._make_text_encoder()
        return self._text_encoder(texts)

    def _make_text_encoder(self) -> Callable[[Sequence[str]], dict[str, Tensor]]:
        sizes = self.architecture.denoiser
        length, channels = sizes.model_max_length, sizes.caption_channels
        source = parse_weights(self._part(self.options.text_encoder_weights))
        if source.kind == "random":
            return WordVectors(max_length=length, channels=channels)
        folder = locate(
            source,
            TEXT_ENCODER,
            needed_for="backbone 'opensora' (text encoder)",
            option="-o backbone.text_encoder_weights=FOLDER",
        )
        return T5TextEncoder(
            folder,
            device=torch.device(self.options.text_encoder_device or self.device),
            dtype=getattr(torch, self.options.text_encoder_dtype),
            max_length=length,
            channels=channels,
        )

    @torch.no_grad()
    def encode_text(self, prompts: Sequence[Prompt]) -> Text:
        """Both sides of ``prompts``: cleaned, with scores, each distinct text kept without its padding.

        Without a negative prompt the unconditional branch is the stored null text under the prompt's own
        mask.
        """
        positive = [self._prepared(prompt.text) for prompt in prompts]
        negative = [
            self._prepared(prompt.negative, scored=False) if prompt.negative else None for prompt in prompts
        ]
        wanted = dict.fromkeys([*positive, *(text for text in negative if text is not None)])
        missing = [text for text in wanted if self.text_cache.get(text) is None]
        for start in range(0, len(missing), TEXTS_AT_ONCE):
            part = missing[start : start + TEXTS_AT_ONCE]
            encoded = self.encode_texts(part)
            for text, row, mask in zip(part, encoded["embeddings"], encoded["mask"], strict=True):
                self.text_cache.put(text, {"embeddings": row[: int(mask.sum())]})
        if missing and not self._keep_text_encoder:
            self._drop_text_encoder()
        elif isinstance(self._text_encoder, T5TextEncoder):
            self._text_encoder.rest()
        rows = [self._kept(text) for text in positive]
        other = [row if text is None else self._kept(text) for row, text in zip(rows, negative, strict=True)]
        null = torch.tensor([text is None for text in negative], device=self.device)
        return Text(
            self._padded(rows) | {"null": torch.zeros_like(null)}, self._padded(other) | {"null": null}
        )

    def _kept(self, text: str) -> Tensor:
        held = self.text_cache.get(text)
        assert held is not None
        return held["embeddings"]

    def _padded(self, rows: Sequence[Tensor]) -> dict[str, Tensor]:
        masks = [torch.ones(len(row), dtype=torch.bool) for row in rows]
        return {
            "embeddings": pad_sequence(list(rows), batch_first=True).to(self.device),
            "mask": pad_sequence(masks, batch_first=True).to(self.device),
        }

    def release_text_encoder(self) -> None:
        """Free T5. A text that turns up later brings it back for that one call."""
        self._keep_text_encoder = False
        self._drop_text_encoder()

    def _drop_text_encoder(self) -> None:
        self._text_encoder = None
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

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
        """Text with its mask, frame rate and size; frame mask and given frames where a prompt has any.

        References come from ``image``, from a prompt's image, or from ``reference_path`` and
        ``mask_strategy`` in its metadata or at the end of its text.
        """
        length, counted = self._text_length(text)
        positive, mask = self._to_length(text.positive, length)
        negative, negative_mask = self._to_length(text.negative, length)
        null = self.denoiser.y_embedder.y_embedding[:length].to(negative.dtype)
        negative = torch.where(text.negative["null"][:, None, None], null, negative)

        numbers = self._told(geometry)
        fps = torch.full((len(prompts),), numbers["fps"], device=self.device, dtype=wide(self.dtype))
        given, edited = self._references(prompts, geometry, image)
        shared = {
            "size": (numbers["height"], numbers["width"]),
            TEXT_LENGTH: counted,
            EDITED: edited or self.options.strict_frame_mask,
            STRICT_MASK: self.options.strict_frame_mask,
        }
        return Conditioning(
            {"text": positive, "mask": mask, "fps": fps, **given},
            {"text": negative, "mask": negative_mask, "fps": fps, **given},
            shared,
        )

    def _text_length(self, text: Text) -> tuple[int, int | None]:
        """Tokens that both branches are given, and how many count where that is the same in every text.

        Known here once, so that no call of the denoiser has to look.
        """
        masks = text.positive["mask"], text.negative["mask"]
        length = max(mask.shape[1] for mask in masks)
        full = all(mask.shape[1] == length for mask in masks) and bool((masks[0] & masks[1]).all())
        padded = min(-(-length // TEXT_UNIT) * TEXT_UNIT, self.architecture.denoiser.model_max_length)
        return padded, length if full else None

    @staticmethod
    def _to_length(side: Mapping[str, Tensor], length: int) -> tuple[Tensor, Tensor]:
        missing = length - side["mask"].shape[1]
        embeddings = nn.functional.pad(side["embeddings"], (0, 0, 0, missing))
        return embeddings, nn.functional.pad(side["mask"], (0, missing))

    def _told(self, geometry: Geometry) -> dict[str, float]:
        """Size and frame rate as the model is told them, rounded to the conditioning's dtype."""
        fps = PICTURE_FPS if geometry.num_frames == 1 else geometry.fps
        told = {"height": geometry.height, "width": geometry.width, "fps": fps}
        dtype: torch.dtype = getattr(torch, self.options.conditioning_dtype)
        return {name: float(torch.tensor(value, dtype=dtype)) for name, value in told.items()}

    def _references(
        self, prompts: Sequence[Prompt], geometry: Geometry, image: Tensor | None
    ) -> tuple[dict[str, Tensor], bool]:
        """Frame mask and given latents by name, if any, and whether frames are edited."""
        requests = [self._request(prompt) for prompt in prompts]
        if image is not None:
            first = self._means(image[:, None])
            references = [[latents] for latents in first]
            strategies = [parse_strategy("0")] * len(prompts)
        else:
            references = [self._read(request, geometry) for request in requests]
            strategies = [parse_strategy(request.mask_strategy) for request in requests]
        if not any(strategies):
            return {}, False
        shape = (len(prompts), *self.latent_shape(geometry))
        empty = torch.zeros(shape, device=self.device, dtype=wide(self.dtype))
        unit = self.architecture.vae.chunk_latents
        latents, mask = place(empty, references, strategies, unit=unit)
        edited = any(0.0 < one.edit < 1.0 for placements in strategies for one in placements)
        return {FRAME_MASK: mask, REFERENCE: latents}, edited

    @staticmethod
    def _request(prompt: Prompt) -> Request:
        said = parse_request(prompt.text)
        path = str(prompt.metadata.get("reference_path", said.reference_path))
        strategy = str(prompt.metadata.get("mask_strategy", said.mask_strategy))
        if prompt.image is not None and not path:
            path = str(prompt.image)
        if strategy and not path:
            raise VaderError(
                f"prompt {prompt.text!r}: mask_strategy {strategy!r} needs an image or a reference_path"
            )
        # A reference without a strategy is the first frame.
        return Request(said.text, path, strategy or ("0" if path else ""))

    def _read(self, request: Request, geometry: Geometry) -> list[Tensor]:
        paths = [Path(part).expanduser() for part in request.reference_path.split(";") if part]
        latents = []
        for path in paths:
            frames = read_reference(path, geometry.height, geometry.width)
            latents.append(self._means(frames[None].to(self.device))[0])
        return latents

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
        text: Tensor = given["text"]
        mask: Tensor | None = given["mask"]
        if shared[TEXT_LENGTH] is not None and not kernels.reachable(latents.device, self.dtype):
            # Without a mask torch's fastest attention runs; the fused one is as fast with a mask.
            text, mask = text[:, : shared[TEXT_LENGTH]], None
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

    def encode_video(self, video: Float[Tensor, "b f 3 H W"], rng: Randomness) -> Float[Tensor, "b c t h w"]:
        """Latents of a video in [0, 1]: the means of both posteriors."""
        return self._means(video)

    def _means(self, video: Tensor) -> Tensor:
        pixels = rearrange(video, "b f c h w -> b c f h w").to(self.dtype) * 2 - 1
        with self._undisturbed():
            return self.autoencoder.encode(pixels).to(wide(self.dtype))

    def _undisturbed(self) -> AbstractContextManager[None]:
        """Autocast off: the autoencoder computes in its own dtype."""
        self.autoencoder.gradient_checkpointing = self.gradient_checkpointing
        self._recompute.on = self.gradient_checkpointing
        return without_autocast(self.device)
