"""Stable Video Diffusion as a vader backbone: one picture in, a short video out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
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
from vader_core.nn.fused_diffusers import fuse_decoder, fuse_denoiser
from vader_core.nn.recompute import RecomputeSwitch, recompute_blocks
from vader_core.precision import without_autocast
from vader_core.prediction import Prediction
from vader_core.prompts import Prompt
from vader_core.randomness import Randomness
from vader_core.schedule import Schedule, VarianceExploding
from vader_core.text import Text
from vader_core.weights import WeightSource, load_exactly, parse_weights
from vader_svd.architecture import Architecture, resolve_architecture
from vader_svd.checkpoint import check_configs, locate_files, read_part
from vader_svd.clip_image import clip_pixels
from vader_svd.networks import (
    build_autoencoder,
    build_image_encoder,
    build_unet,
    recomputed_blocks,
)
from vader_svd.options import SvdConfig
from vader_svd.picture import first_frame
from vader_svd.reach import farthest_step, karras_sigmas
from vader_svd.temporal_decode import chunks, decode_runs, windows

#: The published pipeline's defaults.
NUM_STEPS = 25
GUIDANCE = (1.0, 3.0)
FPS = 7
HEIGHT, WIDTH = 576, 1024
TINY_SIZE = 32

#: Frames that go through the encoder together; it looks at each alone, so the number changes memory only.
ENCODED_TOGETHER = 4

_HALF = (torch.float16, torch.bfloat16)


class SvdBackbone(Backbone):
    """Stable Video Diffusion (arXiv 2311.15127), image to video.

    Args:
        config: Options.
        device: Where the modules live.
        dtype: Of the frozen weights; the autoencoder's encoder stays in float32 where this is a half
            precision.
    """

    name: ClassVar[str] = "svd"
    decode_is_exact: ClassVar[bool] = False
    needs_image: ClassVar[bool] = True
    reads_text: ClassVar[bool] = False
    takes_image: ClassVar[bool] = True
    prefers_channels_last: ClassVar[bool] = True

    denoiser: nn.Module
    autoencoder: Any
    image_encoder: Any

    def __init__(self, config: SvdConfig, *, device: torch.device, dtype: torch.dtype) -> None:
        super().__init__(device=device, dtype=dtype)
        self.config = config
        self.source = parse_weights(config.weights)
        self.recompute = RecomputeSwitch()
        self._architecture_name = config.architecture or _own_architecture(self.source)
        self.architecture = resolve_architecture(self._architecture_name)
        sigma_min, sigma_max = self.architecture.sigmas
        self._schedule = VarianceExploding(sigma_min, sigma_max, prediction_type="v")

    # -- known before the weights are ------------------------------------------------------------------

    @property
    def defaults(self) -> Defaults:
        """The published pipeline's geometry, steps and per-frame guidance."""
        published = self.architecture.vae_factor == 8
        return Defaults(
            geometry=Geometry(
                height=HEIGHT if published else TINY_SIZE,
                width=WIDTH if published else TINY_SIZE,
                num_frames=int(self.architecture.unet["num_frames"]),
                fps=FPS,
            ),
            num_steps=NUM_STEPS,
            guidance_scale=GUIDANCE,
            sampler="euler",
            gradient=self.default_gradient(NUM_STEPS),
            precision="bf16",
            prompts="svd_demo_images",
        )

    def default_gradient(self, num_steps: int) -> str:
        """One step, as in the paper, but the one whose prediction reaches farthest into the video.

        Of the last step's prediction, at sigma 0.002, 0.2 % arrives there; `docs/svd.md` has the table.
        """
        sigmas = karras_sigmas(self._schedule.sigma_min, self._schedule.sigma_max, num_steps)
        return f"steps:{farthest_step(sigmas)}"

    @property
    def schedule(self) -> Schedule:
        """Karras noise levels from 0.002 to 700, v-prediction."""
        return self._schedule

    @property
    def lora_targets(self) -> tuple[str, ...]:
        """Every projection of the spatial and the temporal attention that can learn.

        Cross-attention (``attn2``) sees one token, the image embedding, so its weight is 1 whatever query
        and key say: their gradient is rounding noise, and they get no LoRA.
        """
        return ("attn1.to_q", "attn1.to_k", "to_v", "to_out.0")

    def validate(self, geometry: Geometry) -> None:
        """Sides must be multiples of the autoencoder's factor; there must be a frame, at 1 fps or more."""
        factor = self.architecture.vae_factor
        for side, value in (("height", geometry.height), ("width", geometry.width)):
            if value < factor or value % factor:
                nearest = max(round(value / factor), 1) * factor
                raise VaderError(
                    f"backbone 'svd': {side}={value} is not allowed: use a multiple of {factor}, "
                    f"e.g. {nearest}"
                )
        if geometry.num_frames < 1:
            trained = self.architecture.unet["num_frames"]
            raise VaderError(
                f"backbone 'svd': num_frames={geometry.num_frames} is not allowed: use 1 or more "
                f"(trained with {trained})"
            )
        if geometry.fps < 1:
            raise VaderError(
                f"backbone 'svd': fps={geometry.fps:g} is not allowed: use 1 or more (published: 7)"
            )

    def latent_shape(self, geometry: Geometry) -> tuple[int, int, int, int]:
        """(C, T, h, w): one latent frame a video frame, an eighth of each side in the published model."""
        factor = self.architecture.vae_factor
        channels = self.architecture.latent_channels
        return channels, geometry.num_frames, geometry.height // factor, geometry.width // factor

    def build_denoiser(self) -> nn.Module:
        """A fresh U-Net on torch's current default device."""
        return build_unet(self.architecture)

    # -- loading -----------------------------------------------------------------------------------------

    def load(self) -> None:
        """Build the U-Net, the autoencoder and the image encoder, and read or draw their weights."""
        builders = {"unet": build_unet, "vae": build_autoencoder, "image_encoder": build_image_encoder}
        files = {}
        if self.source.kind != "random":
            files = locate_files(self.source, self._architecture_name, self.config.variant)
            check_configs(files, self.architecture)
        loaded = {part: self._empty(part, builder) for part, builder in builders.items()}
        for part, module in loaded.items():
            if files:
                tensors = read_part(files, part, self.config.variant)
                load_exactly(module, tensors, what=f"backbone 'svd', {part}")
            else:
                fill_randomly(module, self.config.seed, f"svd {part}")
        self.denoiser = loaded["unet"]
        fuse_denoiser(self.denoiser)
        recompute_blocks(self.denoiser, recomputed_blocks(), self.recompute)
        decoder: nn.Module = loaded["vae"].get_submodule("decoder")
        fuse_decoder(decoder)
        recompute_blocks(decoder, recomputed_blocks(), self.recompute)
        self.autoencoder = loaded["vae"]
        self.image_encoder = loaded["image_encoder"]

    def _empty(self, part: str, builder: Callable[[Architecture], nn.Module]) -> Any:
        make = partial(builder, self.architecture)
        half = self.dtype in _HALF and self.architecture.vae.get("force_upcast", True)
        if part != "vae" or not half:
            return empty_module(make, device=self.device, dtype=self.dtype)

        def lower(autoencoder: nn.Module) -> None:
            autoencoder.get_submodule("decoder").to(self.dtype)

        # The encoder overflows in float16; in float32 it costs little, as it runs once a video.
        return empty_module(make, device=self.device, dtype=torch.float32, keep=lower)

    def modules(self) -> dict[str, nn.Module]:
        """The three networks by role."""
        return {
            "denoiser": self.denoiser,
            "autoencoder": self.autoencoder,
            "image_encoder": self.image_encoder,
        }

    # -- conditioning ------------------------------------------------------------------------------------

    def encode_texts(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """No text is read: an empty tensor a prompt keeps the batch axis.

        Args:
            texts: Prompts, for the rewards alone.
        """
        return {"nothing": torch.zeros(len(texts), 0)}

    def condition(
        self,
        text: Text,
        prompts: Sequence[Prompt],
        geometry: Geometry,
        rng: Randomness,
        *,
        image: Float[Tensor, "b 3 H W"] | None = None,
    ) -> Conditioning:
        """Encode the first frames twice: by CLIP, and (a little noised) by the autoencoder.

        Args:
            text: Unused but for its length; this model reads no text.
            prompts: Each with an image, unless ``image`` is given.
            geometry: A validated geometry.
            rng: Draws the noise of the noise augmentation.
            image: First frames in [0, 1] (clamped here) at the video's size, in place of the prompts'
                images. A gradient reaches them where gradients are being recorded.

        Returns:
            ``image_embeddings`` [B, 1, d], ``image_latents`` [B, c, h, w] (not multiplied by the scaling
            factor) and ``added_time_ids`` [B, 3] = (fps - 1, motion bucket, noise augmentation). The
            unconditional branch has zeros in place of the first two.

        Raises:
            VaderError: A prompt without an image, or a negative prompt.
        """
        _refuse_negative(prompts)
        if image is None:
            originals, resized = self._pictures(prompts, geometry)
        else:
            self._check_image(image, len(prompts), geometry)
            resized = image.to(self.device).clamp(0.0, 1.0)
            originals = list(resized.split(1))
        noise = rng.normal("image_noise", tuple(resized.shape[1:]), device=self.device)
        embeddings = self.embed_images(originals)
        latents = self.encode_first_frames(resized, noise)
        micro = (geometry.fps - 1, self.config.motion_bucket_id, self.config.noise_aug_strength)
        time_ids = torch.tensor(micro, device=self.device).repeat(len(prompts), 1)
        return Conditioning(
            tensors={"image_embeddings": embeddings, "image_latents": latents, "added_time_ids": time_ids},
            unconditional={
                "image_embeddings": torch.zeros_like(embeddings),
                "image_latents": torch.zeros_like(latents),
                "added_time_ids": time_ids,
            },
        )

    def _pictures(self, prompts: Sequence[Prompt], geometry: Geometry) -> tuple[list[Tensor], Tensor]:
        originals, resized = [], []
        for prompt in prompts:
            if prompt.image is None:
                raise VaderError(
                    f"backbone 'svd' starts from a picture, but the prompt {prompt.text!r} has none: "
                    "use --prompts images:FOLDER, a file with an image column, or svd_demo_images"
                )
            whole, frame = first_frame(prompt.image, geometry.height, geometry.width, self.config.image_fit)
            originals.append(whole[None].to(self.device))
            resized.append(frame.to(self.device))
        return originals, torch.stack(resized)

    def _check_image(self, image: Tensor, batch: int, geometry: Geometry) -> None:
        wanted = (batch, 3, geometry.height, geometry.width)
        if tuple(image.shape) != wanted:
            raise VaderError(
                f"backbone 'svd': the first frames have shape {tuple(image.shape)}, not {wanted}"
            )

    def embed_images(self, images: Sequence[Float[Tensor, "n 3 h0 w0"]]) -> Float[Tensor, "b 1 d"]:
        """CLIP's projected embeddings of pictures in [0, 1], each group at its own size. Differentiable."""
        size = int(self.architecture.image_encoder.get("image_size", 224))
        with self._own_precision():
            pixels = torch.cat([clip_pixels(group, size) for group in images])
            return self.image_encoder(pixels.to(self.dtype)).image_embeds[:, None]

    def _own_precision(self) -> AbstractContextManager[None]:
        # Autocast would send the float32 encoder through float16 after all, where it overflows, and would
        # return float32 from every norm of the 16-bit networks and cast it back for the layer that follows.
        return without_autocast(self.device)

    def encode_first_frames(
        self, images: Float[Tensor, "b 3 H W"], noise: Float[Tensor, "b 3 H W"]
    ) -> Float[Tensor, "b c h w"]:
        """Latent modes of slightly noised pictures in [0, 1], without the scaling factor. Differentiable."""
        signed = images * 2.0 - 1.0
        return self._encode(signed + self.config.noise_aug_strength * noise.to(signed))

    def _encode(self, signed: Float[Tensor, "n 3 H W"]) -> Float[Tensor, "n c h w"]:
        dtype = self.autoencoder.quant_conv.weight.dtype
        with self._own_precision():
            return self.autoencoder.encode(signed.to(dtype)).latent_dist.mode()

    # -- denoising ---------------------------------------------------------------------------------------

    def predict(
        self, latents: Float[Tensor, "b c t h w"], timestep: Float[Tensor, " b"], conditioning: Conditioning
    ) -> Prediction:
        """One call of the U-Net: v, float32 (float64 for a float64 backbone).

        Args:
            latents: Already divided by sqrt(sigma^2 + 1), as the sampler's ``model_input`` does.
            timestep: 0.25 ln(sigma).
            conditioning: From :meth:`condition`.
        """
        tensors = conditioning.tensors
        frames = rearrange(latents, "b c t h w -> b t c h w").to(self.dtype)
        first = tensors["image_latents"].to(self.dtype)[:, None].expand(-1, frames.shape[1], -1, -1, -1)
        self.recompute.on = self.gradient_checkpointing
        with self._own_precision():
            prediction = self.denoiser(
                torch.cat([frames, first], dim=2),
                timestep,
                encoder_hidden_states=tensors["image_embeddings"].to(self.dtype),
                added_time_ids=tensors["added_time_ids"],
                return_dict=False,
            )[0]
        return Prediction(rearrange(prediction, "b t c h w -> b c t h w").to(latents.dtype))

    # -- pixels ------------------------------------------------------------------------------------------

    def decode(
        self, latents: Float[Tensor, "b c t h w"], geometry: Geometry, frames: Sequence[int] | None = None
    ) -> Float[Tensor, "b f 3 H W"]:
        """The video, RGB nominally in [0, 1], not clamped.

        Args:
            latents: Clean latents.
            geometry: The geometry they were made for.
            frames: Frame indices, in this order. Each is decoded with the option ``neighbours``' frames of
                context to each side, which approximates the full decode. ``None`` is all; all of them are
                decoded in chunks of ``decode_chunk``.
        """
        count = geometry.num_frames
        wanted = range(count) if frames is None else frames
        if len(set(wanted)) == count:
            runs = chunks(count, self.config.decode_chunk or count)
        else:
            reach = count if self.config.neighbours == "all" else self.config.neighbours
            runs = windows(wanted, count, reach)
        by_time = rearrange(latents, "b c t h w -> b t c h w")
        pixels = decode_runs(by_time, runs, self._decode_chunk)
        return torch.stack([pixels[frame] for frame in wanted], dim=1)

    def _decode_chunk(self, latents: Float[Tensor, "n c h w"], num_frames: int) -> Float[Tensor, "n 3 H W"]:
        self.recompute.on = self.gradient_checkpointing
        scaled = (latents / self._scaling_factor).to(self.dtype)
        with self._own_precision():
            signed = self.autoencoder.decode(scaled, num_frames=num_frames, return_dict=False)[0]
        return signed.to(latents.dtype) * 0.5 + 0.5

    @property
    def _scaling_factor(self) -> float:
        return float(self.autoencoder.config.scaling_factor)

    @torch.no_grad()
    def encode_video(self, video: Float[Tensor, "b f 3 H W"], rng: Randomness) -> Float[Tensor, "b c t h w"]:
        """Latents of a video in [0, 1], times the scaling factor: what the denoiser sees. Differentiable."""
        frames = rearrange(video, "b f c H W -> (b f) c H W").to(self.device) * 2.0 - 1.0
        latents = torch.cat([self._encode(group) for group in frames.split(ENCODED_TOGETHER)])
        latents = rearrange(latents, "(b t) c h w -> b c t h w", b=video.shape[0])
        return (latents * self._scaling_factor).to(video.dtype)


def _own_architecture(source: WeightSource) -> str:
    """A weights folder's own, where it says one; else the published 14 frames."""
    says_one = source.path is not None and (source.path / "unet" / "config.json").is_file()
    return str(source.path) if says_one else "full"


def _refuse_negative(prompts: Sequence[Prompt]) -> None:
    for prompt in prompts:
        if prompt.negative:
            raise VaderError(
                f"backbone 'svd' reads no text, so the negative prompt {prompt.negative!r} would do "
                "nothing: leave it out"
            )


def make_backbone(config: SvdConfig, *, device: torch.device, dtype: torch.dtype) -> SvdBackbone:
    """The registered factory."""
    return SvdBackbone(config, device=device, dtype=dtype)
