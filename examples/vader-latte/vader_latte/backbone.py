"""Latte (Ma et al. 2024, arXiv 2401.03048) as a backbone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, LatteTransformer3DModel
from einops import rearrange, repeat
from torch import Tensor
from transformers import AutoTokenizer, ByT5Tokenizer, T5Config, T5EncoderModel
from vader_core import Conditioning, Geometry, Prompt, Randomness, Text, VaderError, VariancePreserving
from vader_core.backbone import Backbone, Defaults
from vader_core.nn.build import frozen
from vader_core.prediction import Prediction
from vader_core.weights import in_brackets, parse_weights

from vader_latte.options import LatteOptions

#: The published architecture: transformer, autoencoder (Stable Diffusion's), T5, frames, text tokens.
FULL = ((16, 72, 28, 4096), ((128, 256, 512, 512), 2, 32), (4096, 64, 10240, 24, 64), 16, 120)
TINY = ((2, 8, 2, 16), ((8, 8, 8, 8), 1, 4), (16, 8, 32, 1, 2), 4, 24)
TRANSFORMER = {
    **{"in_channels": 4, "out_channels": 8, "patch_size": 2, "sample_size": 64, "attention_bias": True},
    **{"activation_fn": "gelu-approximate", "norm_type": "ada_norm_single", "norm_eps": 1e-6},
    **{"norm_elementwise_affine": False, "num_embeds_ada_norm": 1000},
}


class Latte(Backbone):
    """Text to video: a transformer over Stable Diffusion's latents, conditioned on T5."""

    name = "latte"
    denoiser: Any
    tokenizer: Any

    def __init__(self, config: LatteOptions, *, device: torch.device, dtype: torch.dtype) -> None:
        super().__init__(device=device, dtype=dtype)
        self.config = config
        sizes = TINY if config.architecture == "tiny" else FULL
        self.transformer_size, self.vae_size, self.text_size, self.frames, self.tokens = sizes
        self.text_cache.key = f"latte/{config.weights}/{config.architecture}/{dtype}"

    @property
    def defaults(self) -> Defaults:
        """512×512 (tiny: 64×64), 16 frames (tiny: 4), DDIM in 50 steps, guidance 7.5."""
        side = 64 if self.config.architecture == "tiny" else 512
        return Defaults(Geometry(side, side, self.frames, 8.0), 50, 7.5, "ddim")

    @property
    def schedule(self) -> VariancePreserving:
        """Betas linear from 1e-4 to 0.02 over 1000 steps, epsilon."""
        return VariancePreserving((1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)).cumprod(0))

    @property
    def lora_targets(self) -> tuple[str, ...]:
        """The projections of every attention."""
        return ("to_q", "to_k", "to_v", "to_out.0")

    def validate(self, geometry: Geometry) -> None:
        """Sides in multiples of 16 pixels, and the one clip length that it was trained on."""
        sides = geometry.height > 0 < geometry.width and not (geometry.height % 16 or geometry.width % 16)
        if not sides or geometry.num_frames != self.frames or not geometry.fps > 0:
            allowed = f"sides in multiples of 16, {self.frames} frames, fps above 0"
            raise VaderError(f"backbone 'latte': {geometry} is not allowed: use {allowed}")

    def latent_shape(self, geometry: Geometry) -> tuple[int, int, int, int]:
        """4 channels, an eighth of each side."""
        return 4, geometry.num_frames, geometry.height // 8, geometry.width // 8

    def build_denoiser(self) -> torch.nn.Module:
        """The transformer; its eight outputs are the noise and a variance that is not used."""
        heads, width, layers, caption = self.transformer_size
        sizes: dict[str, Any] = {"cross_attention_dim": heads * width, "caption_channels": caption}
        sizes |= {"num_attention_heads": heads, "attention_head_dim": width, "num_layers": layers}
        bare: Any = LatteTransformer3DModel(**sizes, **TRANSFORMER, video_length=self.frames)
        return bare

    def load(self) -> None:
        """All three parts, from the hub, a folder in diffusers' layout, or at random."""
        source = parse_weights(self.config.weights)
        with torch.random.fork_rng(devices=[]):  # initialisation draws from the global generator
            torch.manual_seed(0)
            where = str(source.path or source.repository or "maxin-cn/Latte-1")
            parts = self._random() if source.kind == "random" else self._stored(where)
        for part in parts:
            frozen(torch.nn.Module.to(part, self.device, self.dtype))
        self.denoiser, self.vae, self.text_encoder = parts
        self.denoiser.enable_gradient_checkpointing()

    def _random(self) -> tuple[Any, ...]:
        blocks, layers, groups = self.vae_size
        down, up = ("DownEncoderBlock2D",) * len(blocks), ("UpDecoderBlock2D",) * len(blocks)
        vae = AutoencoderKL(3, 3, down, up, blocks, layers, latent_channels=4, norm_num_groups=groups)
        names = ("d_model", "d_kv", "d_ff", "num_layers", "num_heads")
        sizes: dict[str, Any] = dict(zip(names, self.text_size, strict=True))
        text = T5Config(**sizes, feed_forward_proj="gated-gelu", vocab_size=384)
        self.tokenizer = ByT5Tokenizer()  # bytes: needs no file
        return self.build_denoiser(), vae, T5EncoderModel(text)

    def _stored(self, where: str) -> tuple[Any, ...]:
        try:
            self.tokenizer = AutoTokenizer.from_pretrained(
                where, subfolder="tokenizer", trust_remote_code=False
            )
            transformer = LatteTransformer3DModel.from_pretrained(where, subfolder="transformer")
            vae = AutoencoderKL.from_pretrained(where, subfolder="vae")
            return transformer, vae, T5EncoderModel.from_pretrained(where, subfolder="text_encoder")
        except (OSError, ValueError) as error:
            told = in_brackets(Path(where))
            raise VaderError(f"backbone 'latte': weights {where} cannot be read{told}: {error}") from error

    def modules(self) -> dict[str, torch.nn.Module]:
        """Transformer, autoencoder and text encoder."""
        return {"denoiser": self.denoiser, "autoencoder": self.vae, "text_encoder": self.text_encoder}

    @torch.no_grad()
    def encode_texts(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """T5's last layer [N, l, d], and which tokens are no padding [N, l]."""
        padding = {"padding": "max_length", "max_length": self.tokens, "truncation": True}
        tokens = self.tokenizer(list(texts), **padding, return_tensors="pt").to(self.device)
        return {"embeddings": self.text_encoder(**tokens).last_hidden_state, "mask": tokens.attention_mask}

    def condition(
        self,
        text: Text,
        prompts: Sequence[Prompt],
        geometry: Geometry,
        rng: Randomness,
        *,
        image: Tensor | None = None,
    ) -> Conditioning:
        """The texts; there is no other conditioning."""
        if image is not None or any(prompt.image for prompt in prompts):
            raise VaderError("backbone 'latte' makes videos from text alone: leave images out")
        return Conditioning(text.positive, text.negative)

    def predict(self, latents: Tensor, timestep: Tensor, conditioning: Conditioning) -> Prediction:
        """The noise; padding tokens get no attention."""
        self.denoiser.gradient_checkpointing = self.gradient_checkpointing
        bias = (conditioning.tensors["mask"].to(self.dtype) - 1) * 10_000
        bias = repeat(bias, "b l -> (b t) 1 l", t=latents.shape[2])
        text = conditioning.tensors["embeddings"]
        out = self.denoiser(latents.to(self.dtype), timestep, text, bias).sample
        return Prediction(*(part.to(latents.dtype) for part in out.chunk(2, dim=1)))

    def decode(self, latents: Tensor, geometry: Geometry, frames: Sequence[int] | None = None) -> Tensor:
        """Each frame on its own."""
        chosen = latents if frames is None else latents[:, :, list(frames)]
        pictures = rearrange(chosen, "b c t h w -> (b t) c h w") / self.vae.config.scaling_factor
        decoded = self.vae.decode(pictures.to(self.dtype)).sample.to(latents.dtype)
        return rearrange(decoded / 2 + 0.5, "(b t) c H W -> b t c H W", b=len(latents))
