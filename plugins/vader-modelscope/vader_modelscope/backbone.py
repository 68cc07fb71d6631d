"""ModelScope text-to-video: diffusers' 3D U-Net and image autoencoder, transformers' CLIP text model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import ClassVar, TypeVar

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.resnet import ResnetBlock2D, TemporalConvLayer
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from diffusers.models.transformers.transformer_temporal import TransformerTemporalModel
from diffusers.models.unets.unet_3d_condition import UNet3DConditionModel
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel

from vader_core.backbone import Backbone, Defaults
from vader_core.conditioning import Conditioning
from vader_core.errors import VaderError
from vader_core.geometry import Geometry
from vader_core.nn.build import built, empty_module, fill_randomly
from vader_core.nn.fused_diffusers import fuse_decoder, fuse_denoiser
from vader_core.nn.recompute import RecomputeSwitch, recompute_blocks
from vader_core.precision import wide, without_autocast
from vader_core.prediction import Prediction
from vader_core.prompts import Prompt
from vader_core.randomness import Randomness
from vader_core.schedule import VariancePreserving
from vader_core.text import Text, TextCache
from vader_core.weights import load_exactly, parse_weights
from vader_modelscope.architecture import Part, find_architecture
from vader_modelscope.checkpoint import TOKENIZER_FILES, CheckpointFiles, check_configuration, read_part
from vader_modelscope.options import ModelScopeConfig
from vader_modelscope.text_encoder import ClipTokenizer, HashedWords, Tokenizer, embed

_Module = TypeVar("_Module", bound=nn.Module)
_T = TypeVar("_T")

#: The units of gradient checkpointing: every block of the U-Net between two skips.
_BLOCKS = (ResnetBlock2D, TemporalConvLayer, Transformer2DModel, TransformerTemporalModel)


class ModelScope(Backbone):
    """ModelScope text-to-video, in latents [B, 4, F, H/8, W/8] of Stable Diffusion's image autoencoder.

    Args:
        config: The options.
        device: Where the modules live.
        dtype: Of the frozen U-Net and autoencoder, in which they compute; the adapter stays in float32.
            The text
            encoder stays in float32: it runs once a prompt.
    """

    name: ClassVar[str] = "modelscope"
    prefers_channels_last: ClassVar[bool] = True

    def __init__(self, config: ModelScopeConfig, *, device: torch.device, dtype: torch.dtype) -> None:
        super().__init__(device=device, dtype=dtype)
        self.config = config
        self._source = parse_weights(config.weights)
        local = self._source.path if self._source.path is not None and self._source.path.is_dir() else None
        self.architecture = find_architecture(config.architecture, local)
        self.recompute = RecomputeSwitch()
        self.text_cache = TextCache(self._cache_key())
        self.autoencoder: AutoencoderKL
        self.text_encoder: nn.Module
        self.tokenizer: Tokenizer

    def _cache_key(self) -> str:
        weights = self.config.weights
        if self._source.path is not None:
            weights = str(self._source.path.resolve())
        if self._source.kind == "random":
            weights = f"random {self.config.seed}"
        return f"modelscope/{weights}/{self.architecture.text_encoder}/{wide(self.dtype)}"

    # -- known before the weights are ------------------------------------------------------------------

    @property
    def defaults(self) -> Defaults:
        """The official configuration: 16 frames at 384x384, 25 steps of DPM-Solver++ 2M, guidance 9."""
        return Defaults(
            geometry=Geometry(height=384, width=384, num_frames=16, fps=8.0),
            num_steps=25,
            guidance_scale=9.0,
            sampler="dpmpp",
            sampler_options={"timestep_spacing": "linspace"},
            prompts="nouns_activities",
        )

    @property
    def schedule(self) -> VariancePreserving:
        """Scaled-linear betas 0.00085 to 0.012 over 1000 steps; the U-Net predicts the noise."""
        return VariancePreserving(VariancePreserving.scaled_linear(), "epsilon")

    @property
    def lora_targets(self) -> tuple[str, ...]:
        """The projections of every attention, in space and time."""
        return ("to_q", "to_k", "to_v", "to_out.0")

    def validate(self, geometry: Geometry) -> None:
        """Height and width must be multiples of 8 (of the autoencoder's stride), the frames at least 2."""
        stride = self.architecture.vae_stride
        for axis, size in (("height", geometry.height), ("width", geometry.width)):
            if size < stride or size % stride:
                below = max(stride, size // stride * stride)
                near = f"{below}" if below > size else f"{below} or {below + stride}"
                raise VaderError(
                    f"backbone 'modelscope': {axis}={size} is not allowed: use a multiple of {stride}, e.g. "
                    f"{near} (trained at 256x256; the default is 384x384)"
                )
        if geometry.num_frames < 2:
            raise VaderError(
                f"backbone 'modelscope': num_frames={geometry.num_frames} is not allowed: "
                "use 2 or more (the default is 16)"
            )
        if geometry.fps <= 0:
            raise VaderError(
                f"backbone 'modelscope': fps={geometry.fps:g} is not allowed: use a number above 0"
            )

    def latent_shape(self, geometry: Geometry) -> tuple[int, int, int, int]:
        """(4, F, H/8, W/8): every frame is encoded alone."""
        stride = self.architecture.vae_stride
        channels = int(self.architecture.unet["in_channels"])
        return channels, geometry.num_frames, geometry.height // stride, geometry.width // stride

    def build_denoiser(self) -> nn.Module:
        """A bare `UNet3DConditionModel` on torch's current default device."""
        return self._built("unet", UNet3DConditionModel)

    # -- loading -----------------------------------------------------------------------------------------

    def load(self) -> None:
        """Build the U-Net, the autoencoder and the text encoder, and read or draw their weights.

        Raises:
            VaderError: A file is missing, cannot be downloaded, or does not fit.
        """
        files = None if self._source.kind == "random" else CheckpointFiles(self._source)
        if files is not None:
            check_configuration(files, self.architecture)
        self.denoiser = self._made("unet", self.build_denoiser, self.dtype, files)
        self.autoencoder = self._made("vae", self._build_autoencoder, self.dtype, files)
        self.text_encoder = self._made("text_encoder", self._build_text_encoder, wide(self.dtype), files)
        self.tokenizer = self._find_tokenizer(files)
        fuse_denoiser(self.denoiser)
        fuse_decoder(self.autoencoder.decoder)
        recompute_blocks(self.denoiser, _BLOCKS, self.recompute)
        recompute_blocks(self.autoencoder.decoder, (ResnetBlock2D,), self.recompute)

    def _build_autoencoder(self) -> AutoencoderKL:
        return self._built("vae", AutoencoderKL)

    def _build_text_encoder(self) -> nn.Module:
        return CLIPTextModel(self._built("text_encoder", CLIPTextConfig))

    def _built(self, part: Part, kind: type[_T]) -> _T:
        """A library's class, made from a part of the architecture."""
        parameters = self.architecture.part(part)
        return built(lambda: kind(**parameters), what=f"backbone 'modelscope': architecture, {part}")

    def _made(
        self, part: Part, make: Callable[[], _Module], dtype: torch.dtype, files: CheckpointFiles | None
    ) -> _Module:
        module = empty_module(make, device=self.device, dtype=dtype)
        if files is None:
            fill_randomly(module, self.config.seed, f"modelscope {part}")
        else:
            wanted = module.state_dict()
            load_exactly(module, read_part(files, part, wanted), what=f"{part} of backbone 'modelscope'")
        return module

    def _find_tokenizer(self, files: CheckpointFiles | None) -> Tokenizer:
        length = int(self.architecture.text_encoder["max_position_embeddings"])
        if files is None:
            return HashedWords(int(self.architecture.text_encoder["vocab_size"]), length)
        optional = ("tokenizer_config.json", "special_tokens_map.json")
        folder: Path = files.find_all("tokenizer", TOKENIZER_FILES, optional=optional)
        return ClipTokenizer(folder, length)

    def modules(self) -> dict[str, nn.Module]:
        """The U-Net, the autoencoder and the text encoder."""
        return {"denoiser": self.denoiser, "autoencoder": self.autoencoder, "text_encoder": self.text_encoder}

    def decoders(self) -> list[nn.Module]:
        """The half of the autoencoder that is given the chosen frames."""
        return [self.autoencoder.get_submodule("decoder")]

    # -- running -----------------------------------------------------------------------------------------

    def encode_texts(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """`embeddings` [N, 77, 1024], float32."""
        self.text_encoder.to(self.device)
        return {"embeddings": embed(self.text_encoder, self.tokenizer(texts).to(self.device))}

    def release_text_encoder(self) -> None:
        """Move the text encoder to the CPU; it returns when an unknown text comes."""
        self.text_encoder.to("cpu")

    def condition(
        self,
        text: Text,
        prompts: Sequence[Prompt],
        geometry: Geometry,
        rng: Randomness,
        *,
        image: Float[Tensor, "b 3 H W"] | None = None,
    ) -> Conditioning:
        """The prompts' embeddings; the unconditional branch has the negative prompts'.

        Raises:
            VaderError: An image was given, or a long video of several segments was asked for.
        """
        if image is not None:
            raise VaderError(
                "backbone 'modelscope' makes videos from text alone and cannot continue from an image"
            )
        return Conditioning(dict(text.positive), dict(text.negative))

    def predict(
        self, latents: Float[Tensor, "b c t h w"], timestep: Float[Tensor, " b"], conditioning: Conditioning
    ) -> Prediction:
        """The noise in ``latents``; ``timestep`` in 0 … 999."""
        self.recompute.on = self.gradient_checkpointing
        embeddings = conditioning.tensors["embeddings"]
        with self._own_precision():
            prediction = self.denoiser(
                latents.to(self.dtype),
                timestep,
                encoder_hidden_states=embeddings.to(self.dtype),
                return_dict=False,
            )[0]
        return Prediction(torch.as_tensor(prediction).to(latents.dtype))

    def decode(
        self, latents: Float[Tensor, "b c t h w"], geometry: Geometry, frames: Sequence[int] | None = None
    ) -> Float[Tensor, "b f 3 H W"]:
        """Each frame is decoded alone, so any choice of frames is exact."""
        indices = list(range(geometry.num_frames)) if frames is None else list(frames)
        chosen = torch.stack([latents[:, :, frame] for frame in indices], dim=1).flatten(0, 1)
        scaled = (chosen / self.autoencoder.config["scaling_factor"]).to(self.dtype)
        self.recompute.on = self.gradient_checkpointing
        chunk = self.config.decode_chunk if self.gradient_checkpointing else len(scaled)
        pixels = torch.cat([self._decode_frames(part) for part in scaled.split(chunk)])
        video = rearrange(pixels, "(b f) c H W -> b f c H W", b=len(latents))
        return video.to(latents.dtype) / 2 + 0.5

    def _decode_frames(self, latents: Tensor) -> Tensor:
        with self._own_precision():
            return torch.as_tensor(self.autoencoder.decode(latents, return_dict=False)[0])

    @torch.no_grad()
    def encode_video(self, video: Float[Tensor, "b f 3 H W"], rng: Randomness) -> Float[Tensor, "b c t h w"]:
        """The mode of the autoencoder's distribution, scaled by 0.18215."""
        flat = rearrange(video, "b f c H W -> (b f) c H W") * 2 - 1
        with self._own_precision():
            mode = self.autoencoder.encode(flat.to(self.dtype)).latent_dist.mode()
        latents = torch.as_tensor(mode).to(wide(self.dtype)) * self.autoencoder.config["scaling_factor"]
        return rearrange(latents, "(b f) c h w -> b c f h w", b=len(video))

    def _own_precision(self) -> AbstractContextManager[None]:
        # Autocast would return float32 from every norm and cast it back for the layer that follows; the
        # kernels take their statistics in float32 anyway.
        return without_autocast(self.device)
