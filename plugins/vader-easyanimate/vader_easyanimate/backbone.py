"""EasyAnimate V2 on the backbone contract."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, ClassVar

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from vader_core.backbone import Backbone, Defaults
from vader_core.caption_cleaning import clean
from vader_core.conditioning import Conditioning
from vader_core.errors import VaderError
from vader_core.geometry import Geometry
from vader_core.nn.build import empty_module
from vader_core.nn.recompute import RecomputeSwitch, recompute_blocks
from vader_core.nn.t5 import T5TextEncoder, WordVectors
from vader_core.paths import entered
from vader_core.precision import wide, without_autocast
from vader_core.prediction import Prediction
from vader_core.prompts import Prompt
from vader_core.randomness import Randomness, derive_seed
from vader_core.schedule import Schedule, VariancePreserving
from vader_core.text import Text, TextCache
from vader_core.weights import parse_weights
from vader_easyanimate import checkpoint
from vader_easyanimate.architecture import SPATIAL
from vader_easyanimate.official_config import official_transformer
from vader_easyanimate.options import EasyAnimateOptions
from vader_easyanimate.text_lora import merge_text_lora
from vader_easyanimate.tile_size import Tiling
from vader_easyanimate.transformer import EasyAnimateTransformer
from vader_easyanimate.vae_layers import AttentionOverAll, ResidualBlock
from vader_easyanimate.video_vae import LATENT_SCALE, VideoVAE

#: Prompts that go through T5 together.
TEXTS_AT_ONCE = 8
#: Smallest side in pixels: with one or two patches along a side the motion modules' group norm over a frame
#: is next to discontinuous, and gradients explode.
LEAST_SIDE = 64
#: What the 512-pixel model samples by default; others in proportion.
OFFICIAL_SIZE = (384, 672)


class EasyAnimate(Backbone):
    """EasyAnimate V2: PixArt-alpha with motion modules over latents of a chunked video autoencoder.

    Args:
        options: The backbone's options.
        device: Where denoiser and autoencoder live.
        dtype: Of their weights.
    """

    name: ClassVar[str] = "easyanimate"
    caches_features: ClassVar[bool] = True

    denoiser: EasyAnimateTransformer

    def __init__(self, options: EasyAnimateOptions, *, device: torch.device, dtype: torch.dtype) -> None:
        super().__init__(device=device, dtype=dtype)
        self.options = options
        self.architecture = checkpoint.architecture_of(options.architecture, options.weights)
        if options.smooth_output:
            self.decode_is_exact = False  # type: ignore[misc]  # follows the options
        self._text_encoder: Callable[[Sequence[str]], dict[str, Tensor]] | None = None
        self._keep_text_encoder = True
        self._recompute = RecomputeSwitch()
        self.text_cache = TextCache(self._text_key(), self._text_folder())

    # -- known before the weights are --------------------------------------------------------------------

    @property
    def defaults(self) -> Defaults:
        """The official size at 24 frames per second; short clips for training, 144 frames for sampling.

        DPM-Solver++ ends at no noise from a level of 0.14, so its last step reaches the adapter; DDIM's last
        one, from timestep 1, carries next to nothing.
        """
        share = self.architecture.denoiser.sample_size / 64
        height, width = (
            max(int(side * share) // self._unit * self._unit, LEAST_SIDE) for side in OFFICIAL_SIZE
        )
        chunk = self.architecture.vae.mini_batch_encoder
        full = share >= 1
        return Defaults(
            prompts="animal",
            geometry=Geometry(height, width, num_frames=(5 if full else 2) * chunk, fps=24.0),
            num_steps=25,
            guidance_scale=6.0,
            sampler="dpmpp",
            gradient="last",
            sample_frames=144 if full else None,
            precision="bf16",
        )

    @property
    def schedule(self) -> Schedule:
        """DDPM with 1000 linear betas from 1e-4 to 0.02; the network predicts the noise and a variance."""
        betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
        cumprod = torch.cumprod(1.0 - betas, dim=0)
        return VariancePreserving(cumprod, "epsilon", variance="learned_range")

    @property
    def lora_targets(self) -> tuple[str, ...]:
        """The official trainer's: every linear layer, 635 modules in the full model."""
        skips = (f"long_connect_fc.{index}" for index in range(self.architecture.denoiser.skips))
        attention = ("to_q", "to_k", "to_v", "to_out.0", "proj_in", "proj_out", "net.0.proj", "net.2")
        return (*attention, "linear_1", "linear_2", "adaln_single.linear", *skips)

    def validate(self, geometry: Geometry) -> None:
        """Sides that are multiples of 16 from 64 on; one frame, or whole chunks.

        Raises:
            VaderError: Saying what is allowed.
        """
        sizes = self.architecture
        sizes.vae.check_frames(geometry.num_frames)
        unit = self._unit
        for label, value in (("height", geometry.height), ("width", geometry.width)):
            if value < LEAST_SIDE or value % unit:
                nearest = max(round(value / unit) * unit, -(-LEAST_SIDE // unit) * unit)
                raise VaderError(
                    f"backbone 'easyanimate': {label}={value} is not allowed: use a multiple of {unit} from "
                    f"{LEAST_SIDE} on, e.g. {nearest}"
                )
        most = sizes.denoiser.motion.max_frames
        if sizes.vae.latent_frames(geometry.num_frames) > most:
            raise VaderError(
                f"backbone 'easyanimate': num_frames={geometry.num_frames} is not allowed: the model knows "
                f"{most} latent frames, that is {most // sizes.vae.mini_batch_decoder} chunks of "
                f"{sizes.vae.mini_batch_encoder}"
            )
        if not geometry.fps > 0:
            raise VaderError(
                f"backbone 'easyanimate': fps={geometry.fps:g} is not allowed: use a number above 0"
            )

    @property
    def _unit(self) -> int:
        """Pixels that sides are multiples of: one patch, or one square of patches."""
        sizes = self.architecture.denoiser
        return SPATIAL * sizes.patch_size * sizes.motion.block_size

    def latent_shape(self, geometry: Geometry) -> tuple[int, int, int, int]:
        """4 channels; 3 latent frames per chunk of 9, and an eighth of each side."""
        frames = self.architecture.vae.latent_frames(geometry.num_frames)
        channels = self.architecture.denoiser.in_channels
        return channels, frames, geometry.height // SPATIAL, geometry.width // SPATIAL

    def official_config(self, denoiser: nn.Module) -> dict[str, Any]:
        """The transformer's ``config.json``, as the official loader reads it."""
        return official_transformer(self.architecture.denoiser)

    def build_denoiser(self) -> EasyAnimateTransformer:
        """The transformer, without weights."""
        return EasyAnimateTransformer(self.architecture.denoiser)

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
        self._fill(self.denoiser, "transformer", self.options.weights, "--weights PATH")
        self.autoencoder = empty_module(
            lambda: VideoVAE(self.architecture.vae), device=self.device, dtype=self.dtype
        )
        given = self._part(self.options.vae_weights, "vae")
        self._fill(self.autoencoder, "vae", given, "-o backbone.vae_weights=PATH")
        if self.options.tile is not None:
            self.autoencoder.tiling = Tiling(self.options.tile)
        recompute_blocks(self.autoencoder, (ResidualBlock, AttentionOverAll), self._recompute)

    def _part(self, given: str | None, folder: str) -> str:
        """Where a part comes from: what was given, else the denoiser's model folder, else the hub."""
        if given is not None:
            return given
        source = parse_weights(self.options.weights)
        if source.kind == "path" and source.path is not None:
            whole = (source.path / folder).is_dir()
        else:
            whole = not source.file
        return self.options.weights if whole else "pretrained"

    def _fill(self, module: nn.Module, part: str, weights: str, option: str) -> None:
        source = parse_weights(weights)
        if source.kind == "random":
            checkpoint.draw_into(module, part=part)
            return
        root = checkpoint.place(source, self._size, part=part, option=option)
        checkpoint.read_into(module, checkpoint.part_file(root, part), part=part)

    @property
    def _size(self) -> str:
        """Whose pretrained weights fit."""
        return "768" if self.architecture.denoiser.sample_size == 96 else "512"

    def modules(self) -> dict[str, nn.Module]:
        """Denoiser and autoencoder, and T5 while it is loaded."""
        held: dict[str, nn.Module] = {"denoiser": self.denoiser, "autoencoder": self.autoencoder}
        if isinstance(self._text_encoder, T5TextEncoder):
            held["text_encoder"] = self._text_encoder.model
        return held

    def blocks(self) -> list[nn.Module]:
        """Every block of the transformer."""
        return list(self.denoiser.transformer_blocks)

    # -- text --------------------------------------------------------------------------------------------

    def _text_key(self) -> str:
        options, sizes = self.options, self.architecture
        weights = self._part(options.text_encoder_weights, "text_encoder")
        words: list[object] = [weights, sizes.text_tokens, sizes.denoiser.caption_channels]
        words += [options.text_encoder_dtype, options.text_lora, options.text_lora_scale]
        for path in (weights, f"{weights}/text_encoder", options.text_lora):
            found = entered(path) if path is not None else None
            if found is not None and found.exists():
                files = sorted(found.iterdir()) if found.is_dir() else [found]
                words += [(one.name, one.stat().st_size, one.stat().st_mtime_ns) for one in files]
        return f"{self.name} {words}"

    def _text_folder(self) -> Path | None:
        if self.options.text_cache is not None:
            return entered(self.options.text_cache)
        if self._part(self.options.text_encoder_weights, "text_encoder") == "random":
            return None
        root = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
        return entered(root) / "vader" / "easyanimate-text"

    def encode_texts(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """Run T5 on texts as they are: ``embeddings`` [n, 120, 4096] and ``mask`` [n, 120]."""
        if self._text_encoder is None:
            self._text_encoder = self._make_text_encoder()
        return self._text_encoder(texts)

    def _make_text_encoder(self) -> Callable[[Sequence[str]], dict[str, Tensor]]:
        options, sizes = self.options, self.architecture
        length, channels = sizes.text_tokens, sizes.denoiser.caption_channels
        source = parse_weights(self._part(options.text_encoder_weights, "text_encoder"))
        if source.kind == "random":
            if options.text_lora is not None:
                raise VaderError("-o backbone.text_lora needs T5's weights, but these are random")
            return WordVectors(max_length=length, channels=channels, key="easyanimate word")
        option = "-o backbone.text_encoder_weights=FOLDER"
        encoder = T5TextEncoder(
            checkpoint.place(source, self._size, part="text encoder", option=option),
            device=torch.device(options.text_encoder_device or self.device),
            dtype=getattr(torch, options.text_encoder_dtype),
            max_length=length,
            channels=channels,
            label="backbone 'easyanimate' (text encoder)",
        )
        if options.text_lora is not None:
            merge_text_lora(encoder.model, entered(options.text_lora), options.text_lora_scale)
        return encoder

    @torch.no_grad()
    def encode_text(self, prompts: Sequence[Prompt]) -> Text:
        """Both sides of ``prompts``, cleaned; each distinct text is encoded once, kept without its padding.

        Without a negative prompt the unconditional branch is the empty text.
        """
        positive = [self._prepared(prompt.text) for prompt in prompts]
        negative = [self._prepared(prompt.negative or "") for prompt in prompts]
        missing = [text for text in dict.fromkeys(positive + negative) if self.text_cache.get(text) is None]
        for start in range(0, len(missing), TEXTS_AT_ONCE):
            part = missing[start : start + TEXTS_AT_ONCE]
            encoded = self.encode_texts(part)
            for text, row, mask in zip(part, encoded["embeddings"], encoded["mask"], strict=True):
                self.text_cache.put(text, {"embeddings": row[: int(mask.sum())]})
        if missing and not self._keep_text_encoder:
            self._drop_text_encoder()
        elif isinstance(self._text_encoder, T5TextEncoder):
            self._text_encoder.rest()
        return Text(self._padded(positive), self._padded(negative))

    def _prepared(self, text: str) -> str:
        return clean(text) if self.options.clean_captions else text

    def _padded(self, texts: Sequence[str]) -> dict[str, Tensor]:
        sizes = self.architecture
        embeddings = torch.zeros(len(texts), sizes.text_tokens, sizes.denoiser.caption_channels)
        mask = torch.zeros(len(texts), sizes.text_tokens, dtype=torch.bool)
        for index, text in enumerate(texts):
            held = self.text_cache.get(text)
            assert held is not None
            embeddings[index, : len(held["embeddings"])] = held["embeddings"]
            mask[index, : len(held["embeddings"])] = True
        return {"embeddings": embeddings.to(self.device), "mask": mask.to(self.device)}

    def release_text_encoder(self) -> None:
        """Free T5. A text that turns up later brings it back for that one call."""
        self._keep_text_encoder = False
        self._drop_text_encoder()

    def _drop_text_encoder(self) -> None:
        self._text_encoder = None
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    # -- the model ---------------------------------------------------------------------------------------

    def condition(
        self,
        text: Text,
        prompts: Sequence[Prompt],
        geometry: Geometry,
        rng: Randomness,
        *,
        image: Float[Tensor, "b 3 H W"] | None = None,
    ) -> Conditioning:
        """Text with its mask; resolution and aspect ratio where the model was trained with them.

        Raises:
            VaderError: An image: V2's released weights make video from text alone.
        """
        if image is not None or any(prompt.image is not None for prompt in prompts):
            raise VaderError(
                "backbone 'easyanimate' makes video from text alone: use prompts without images, and "
                "no more than one segment"
            )
        told: dict[str, Tensor] = {}
        if self.architecture.denoiser.tells_size:
            rows = torch.ones(len(prompts), 1, device=self.device, dtype=wide(self.dtype))
            told["resolution"] = torch.cat([rows * geometry.height, rows * geometry.width], dim=1)
            told["aspect_ratio"] = rows * (geometry.height / geometry.width)
        return Conditioning({**text.positive, **told}, {**text.negative, **told})

    def predict(
        self, latents: Float[Tensor, "b c t h w"], timestep: Float[Tensor, " b"], conditioning: Conditioning
    ) -> Prediction:
        """The noise, the first half of the official output, and the learned variance, the second."""
        given = conditioning.tensors
        out: Tensor = self.denoiser(
            latents,
            timestep,
            given["embeddings"],
            given["mask"],
            resolution=given.get("resolution"),
            aspect_ratio=given.get("aspect_ratio"),
            recompute=self.gradient_checkpointing,
        )
        value, variance = out.to(latents.dtype).split(latents.shape[1], dim=1)
        return Prediction(value, variance)

    # -- pixels ------------------------------------------------------------------------------------------

    def decode(
        self, latents: Float[Tensor, "b c t h w"], geometry: Geometry, frames: Sequence[int] | None = None
    ) -> Float[Tensor, "b f 3 H W"]:
        """Only the chunks that hold ``frames`` are decoded, with the full decode's values.

        With ``smooth_output``, whole videos without a gradient are clamped and lose their chunks' seams.
        """
        with self._undisturbed():
            video = self.autoencoder.decode((latents / LATENT_SCALE).to(self.dtype), frames)
            if self.options.smooth_output and frames is None and not torch.is_grad_enabled():
                video = self.autoencoder.smoothed(video.clamp(-1, 1), self._seam_noise)
        return (rearrange(video, "b c f h w -> b f c h w").to(latents.dtype) + 1) / 2

    def _seam_noise(self, shape: Sequence[int]) -> Tensor:
        """The same numbers for every video, so that equal latents give equal videos."""
        generator = torch.Generator().manual_seed(derive_seed("easyanimate seams"))
        return torch.randn(tuple(shape[1:]), generator=generator).to(self.device).expand(*shape)

    @torch.no_grad()
    def encode_video(self, video: Float[Tensor, "b f 3 H W"], rng: Randomness) -> Float[Tensor, "b c t h w"]:
        """Latents of a video in [0, 1], drawn from the posterior of every chunk."""
        pixels = rearrange(video, "b f c h w -> b c f h w").to(self.dtype) * 2 - 1
        sizes, (height, width) = self.architecture.vae, video.shape[-2:]
        frames = sizes.latent_frames(video.shape[1])
        shape = (sizes.latent_channels, frames, height // SPATIAL, width // SPATIAL)
        noise = rng.normal("posterior", shape, device=self.device, dtype=wide(self.dtype))
        with self._undisturbed():
            return self.autoencoder.encode(pixels, noise).to(noise.dtype) * LATENT_SCALE

    def _undisturbed(self) -> AbstractContextManager[None]:
        """Autocast off: the autoencoder computes in its own dtype."""
        self.autoencoder.gradient_checkpointing = self.gradient_checkpointing
        self._recompute.on = self.gradient_checkpointing
        return without_autocast(self.device)
