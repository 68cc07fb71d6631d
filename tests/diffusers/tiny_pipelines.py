"""Tiny random pipelines of every family, saved as diffusers saves them. They need no network."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers.pipelines import ltx2
from torch import nn
from transformers import (
    ByT5Tokenizer,
    CLIPImageProcessor,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPVisionConfig,
    CLIPVisionModel,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    LlamaConfig,
    LlamaModel,
    Qwen2_5_VLTextConfig,
    Qwen2_5_VLTextModel,
    T5Config,
    T5EncoderModel,
    UMT5Config,
    UMT5EncoderModel,
)
from vader_diffusers.published_models import published

#: What a chat template has to put in front, so that a pipeline that cuts it off leaves the words.
_CHAT = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
VOCABULARY = 384


def randomise(module: nn.Module, seed: int) -> nn.Module:
    """Other numbers than a layer starts from: norms and tables away from 1 and 0, every text heard."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in module.named_parameters():
        drawn = torch.randn(parameter.shape, generator=generator)
        if parameter.ndim > 1 and not name.endswith(("table", "gamma")):
            drawn = 0.8 * drawn / math.sqrt(parameter[0].numel())
        elif ("norm" in name and name.endswith("weight")) or name.endswith("gamma"):
            drawn = 1 + 0.1 * drawn
        else:
            drawn = 0.2 * drawn
        parameter.data.copy_(drawn)
    for name, buffer in module.named_buffers():
        if name.endswith("latents_mean"):
            buffer.copy_(0.3 * torch.randn(buffer.shape, generator=generator))
        if name.endswith("latents_std"):
            buffer.copy_(0.7 + torch.rand(buffer.shape, generator=generator))
    return module.eval()


def _t5(width: int, kind: Any = T5EncoderModel, config: Any = T5Config) -> nn.Module:
    sizes = {"d_model": width, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2}
    return kind(config(**sizes, vocab_size=VOCABULARY, feed_forward_proj="gated-gelu"))


def _tokenizer(length: int, **words: Any) -> ByT5Tokenizer:
    tokenizer = ByT5Tokenizer(model_max_length=length, **words)
    tokenizer.chat_template = _CHAT
    return tokenizer


def _decoder_config(config: Any, width: int) -> Any:
    return config(
        hidden_size=width,
        intermediate_size=16,
        num_hidden_layers=3,
        num_attention_heads=2,
        num_key_value_heads=2,
        vocab_size=VOCABULARY,
        max_position_embeddings=2048,
    )


def text_parts(backbone: str, folder: dict[str, Any]) -> dict[str, Any]:
    """Text (and picture) encoders of the widths that the denoiser wants."""
    network = folder.get("transformer", {})
    if backbone.startswith("wan"):
        parts = {"text_encoder": _t5(network["text_dim"], UMT5EncoderModel, UMT5Config)}
        parts |= {"tokenizer": _tokenizer(512)}
        if network.get("image_dim"):
            vision = CLIPVisionConfig(
                hidden_size=network["image_dim"], intermediate_size=16, num_hidden_layers=2,
                num_attention_heads=2, image_size=32, patch_size=2,
            )  # fmt: skip
            parts |= {"image_encoder": CLIPVisionModel(vision)}
            parts |= {"image_processor": CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=32)}
        return parts
    if backbone == "ltx2":
        width = folder["connectors"]["caption_channels"]
        text = {"hidden_size": width, "intermediate_size": 16, "num_hidden_layers": 2, "head_dim": 8,
                "num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": VOCABULARY,
                "max_position_embeddings": 2048}  # fmt: skip
        vision = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1,
                  "image_size": 8, "patch_size": 4}  # fmt: skip
        gemma = Gemma3Config(text_config=text, vision_config=vision, mm_tokens_per_image=4)
        return {"text_encoder": Gemma3ForConditionalGeneration(gemma), "tokenizer": _tokenizer(1024)}
    if backbone == "hunyuan_video":
        clip = CLIPTextConfig(
            hidden_size=network["pooled_projection_dim"], intermediate_size=16, num_hidden_layers=2,
            num_attention_heads=2, vocab_size=VOCABULARY, max_position_embeddings=77, eos_token_id=1,
        )  # fmt: skip
        llama = LlamaModel(_decoder_config(LlamaConfig, network["text_embed_dim"]))
        return {"text_encoder": llama, "tokenizer": _tokenizer(2048), "text_encoder_2": CLIPTextModel(clip),
                "tokenizer_2": _tokenizer(77)}  # fmt: skip
    if backbone == "hunyuan_video15":
        config = _decoder_config(Qwen2_5_VLTextConfig, network["text_embed_dim"])
        quarter = network["text_embed_dim"] // 16  # of half a head
        sections = [quarter, quarter, 2 * quarter]
        config.rope_parameters = {"rope_type": "default", "mrope_section": sections, "rope_theta": 1e4}
        return {
            "text_encoder": Qwen2_5_VLTextModel(config),
            "tokenizer": _tokenizer(2048),
            "text_encoder_2": _t5(network["text_embed_2_dim"]),
            "tokenizer_2": _tokenizer(256),
            "guider": diffusers.ClassifierFreeGuidance(guidance_scale=3.0),
        }
    width = network.get("caption_channels") or network["text_embed_dim"]
    return {"text_encoder": _t5(width), "tokenizer": _tokenizer(128)}


def build(
    backbone: str, model: str, path: Path, *, network: dict[str, Any] | None = None, **scheduler: Any
) -> Path:
    """Save the tiny pipeline of a backbone's ``model`` under ``path``.

    Args:
        backbone: The registered name.
        model: The tiny model's.
        path: A folder.
        network: Settings of its denoisers that differ.
        **scheduler: Settings of its scheduler that differ; ``_class_name`` for another class.
    """
    folder = published(backbone)[model].folder
    index = folder["model_index"]
    parts: dict[str, Any] = {}
    with torch.random.fork_rng(devices=[]):
        for number, (name, config) in enumerate(folder.items()):
            if name in ("model_index", "scheduler"):
                continue
            library = ltx2 if name in ("connectors", "vocoder") else diffusers
            kind = getattr(library, config["_class_name"])
            changed = network if network and name.startswith("transformer") else {}
            parts[name] = randomise(kind.from_config({**config, **changed}), number)
        parts |= text_parts(backbone, dict(folder))
    for number, (_, part) in enumerate(sorted(parts.items())):
        if isinstance(part, nn.Module) and type(part).__module__.startswith("transformers"):
            randomise(part, 100 + number)
    config = {**folder["scheduler"], **scheduler}
    kind = getattr(diffusers, config["_class_name"])
    known = kind.__init__.__wrapped__.__code__.co_varnames if hasattr(kind.__init__, "__wrapped__") else ()
    config = {name: value for name, value in config.items() if not known or name in known}
    parts["scheduler"] = kind(**{name: value for name, value in config.items() if name != "_class_name"})
    words = {name: index[name] for name in ("boundary_ratio", "expand_timesteps") if name in index}
    pipeline = getattr(diffusers, index["_class_name"])
    pipeline(**parts, **words).save_pretrained(path)
    return path
