"""HunyuanVideo 1.5, text to video (Tencent Hunyuan 2025, arXiv 2511.18870)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from vader_core.conditioning import Conditioning
from vader_diffusers.backbone import PipelineBackbone
from vader_diffusers.published_models import DEFAULT

#: Tokens of a picture that there is none of.
PICTURE_TOKENS = 729


class HunyuanVideo15(PipelineBackbone):
    """HunyuanVideo 1.5, which sees an empty picture beside its latents; quoted words have an encoder."""

    name = "hunyuan_video15"
    pipelines = ("HunyuanVideo15Pipeline",)
    model = DEFAULT["hunyuan_video15"]

    @property
    def compression(self) -> tuple[int, int]:
        """As the autoencoder's configuration says."""
        vae = self.autoencoder
        return int(vae["temporal_compression_ratio"]), int(vae["spatial_compression_ratio"])

    @property
    def latent_channels(self) -> int:
        """The autoencoder's."""
        return int(self.autoencoder["latent_channels"])

    @property
    def lora_targets(self) -> tuple[str, ...]:
        """The projections of every attention, the text's own among them but for what nothing reads behind."""
        return (*super().lora_targets, "add_q_proj", "add_k_proj", "add_v_proj")

    def text_shapes(self) -> dict[str, tuple[int, ...]]:
        """Qwen's third last layer behind the template, ByT5's for words in quotes, and their masks."""
        length, network = self.text_length(1000), self.network
        return {
            "text": (length, int(network["text_embed_dim"])),
            "mask": (length,),
            "quoted": (256, int(network["text_embed_2_dim"])),
            "mask_quoted": (256,),
        }

    def embed(self, texts: list[str]) -> dict[str, Tensor]:
        """Qwen's third last layer behind the template, ByT5's for words in quotes, and their masks."""
        self.pipe.tokenizer_max_length = self.text_length(1000)
        text, mask, quoted, mask_quoted = self.pipe.encode_prompt(
            texts, device=self.device, dtype=self.dtype, batch_size=len(texts)
        )
        return {"text": text, "mask": mask, "quoted": quoted, "mask_quoted": mask_quoted}

    def _pipeline_words(self) -> dict[str, Any]:
        return {"guider": None}  # guidance is the core's

    def _prepare(self) -> None:
        super()._prepare()
        self.vae.enable_slicing()  # its attention mask fits a batch of one alone

    def call(self, network: Any, latents: Tensor, timestep: Tensor, conditioning: Conditioning) -> Tensor:
        """The velocity, from latents with an empty picture and an empty mask behind them."""
        given, batch = conditioning.tensors, len(latents)
        empty = latents.new_zeros(batch, latents.shape[1] + 1, *latents.shape[2:])
        picture = latents.new_zeros(batch, PICTURE_TOKENS, int(self.network["image_embed_dim"]))
        out: Tensor = network(
            torch.cat([latents, empty], dim=1),
            timestep.to(latents.dtype),  # rounded in half precision, as the pipeline does
            given["text"],
            given["mask"],
            encoder_hidden_states_2=given["quoted"],
            encoder_attention_mask_2=given["mask_quoted"],
            image_embeds=picture,
            return_dict=False,
        )[0]
        return out

    def unscaled(self, latents: Tensor) -> Tensor:
        """Over the autoencoder's factor."""
        return latents / self.autoencoder["scaling_factor"]

    def scaled(self, latents: Tensor) -> Tensor:
        """Times the autoencoder's factor."""
        return latents * self.autoencoder["scaling_factor"]
