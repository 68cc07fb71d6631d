"""The parameters that a published model is said to have are those of its networks, built without memory."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import pytest
import torch
from vader_diffusers.parts import bare
from vader_diffusers.pipeline_source import INDEX, PipelineSource, components
from vader_diffusers.published_models import DEFAULT, published

from vader_core.registry import load_registry
from vader_core.wanted import file_facts, files_read, total_words

MODELS = [(name, model) for name in DEFAULT for model in published(name) if published(name)[model].repository]
#: Sizes of the text and image encoders, which the pipelines' own files leave to transformers: the published
#: google/umt5-xxl, google/t5-v1_1-xxl, google/byt5-small, Llama 3 8B with LLaVA's vocabulary, CLIP ViT-L/14,
#: OpenCLIP ViT-H/14, Qwen2.5-VL 7B and Gemma 3 12B.
_XXL = {"d_model": 4096, "d_kv": 64, "d_ff": 10240, "num_layers": 24, "num_heads": 64}
_XXL |= {"feed_forward_proj": "gated-gelu"}
_SMALL = {"d_model": 1472, "d_kv": 64, "d_ff": 3584, "num_layers": 12, "num_heads": 6, "vocab_size": 384}
_SMALL |= {"feed_forward_proj": "gated-gelu"}
_LLAMA = {"vocab_size": 128320, "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32}
_LLAMA |= {"num_attention_heads": 32, "num_key_value_heads": 8}
_QWEN = {"vocab_size": 152064, "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28}
_QWEN |= {"num_attention_heads": 28, "num_key_value_heads": 4}
_GEMMA = {"vocab_size": 262208, "hidden_size": 3840, "intermediate_size": 15360, "num_hidden_layers": 48}
_GEMMA |= {"num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 256}
_SIGLIP = {"hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 27, "num_attention_heads": 16}
_SIGLIP |= {"image_size": 896, "patch_size": 14, "vision_use_head": False}
_CLIP_H = {"hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "num_attention_heads": 16}
_CLIP_H |= {"image_size": 224, "patch_size": 14, "projection_dim": 1024}
_CLIP_L = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
ENCODERS: dict[str, tuple[str, dict[str, Any]]] = {
    "UMT5EncoderModel": ("UMT5Config", {**_XXL, "vocab_size": 256384}),
    "T5EncoderModel": ("T5Config", {**_XXL, "vocab_size": 32128}),
    "LlamaModel": ("LlamaConfig", _LLAMA),
    "CLIPTextModel": ("CLIPTextConfig", _CLIP_L),
    "CLIPVisionModel": ("CLIPVisionConfig", _CLIP_H),
    "Qwen2_5_VLTextModel": ("Qwen2_5_VLTextConfig", _QWEN),
    "Gemma3ForConditionalGeneration": ("Gemma3Config", {"text_config": _GEMMA, "vision_config": _SIGLIP}),
}


def count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@cache
def encoder(kind: str, small: bool) -> int:
    import transformers

    name, sizes = ENCODERS[kind]
    config = getattr(transformers, name)(**(_SMALL if small else sizes))
    with torch.device("meta"):
        return count(getattr(transformers, kind)(config))


def counted(backbone: str, name: str) -> int:
    model = published(backbone)[name]
    source = PipelineSource(None, None, model.folder, model)
    total = 0
    for part, (library, kind) in components(source.index).items():
        if library == "transformers" and kind in ENCODERS:
            total += encoder(kind, backbone == "hunyuan_video15" and kind == "T5EncoderModel")
        elif library == "ltx2":
            total += beside_ltx2(kind, source.config(part))
        elif source.config(part) and part != "scheduler":
            with torch.device("meta"):
                total += count(bare(source, part, needed_for="this test"))
    return total


def beside_ltx2(kind: str, config: Mapping[str, Any]) -> int:
    """Of a connector or a vocoder, whose classes are the pipeline's own; the vocoder has its defaults."""
    from diffusers.pipelines import ltx2

    with torch.device("meta"):
        return count(getattr(ltx2, kind).from_config(dict(config)))


@pytest.mark.quick_cases(
    "wan-2.1-1.3b",
    "ltx-2b",
    "cogvideox-5b",
    "hunyuan_video-13b",
    "wan_i2v-2.1-14b-480p",
    "hunyuan_video15-480p-t2v",
)
@pytest.mark.parametrize(("backbone", "name"), MODELS)
def test_the_parameters_are_those_of_the_networks(backbone, name):
    assert published(backbone)[name].numbers == counted(backbone, name)


def test_every_published_model_tells_its_size_and_its_folders(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    registry = load_registry()
    for backbone, name in MODELS:
        (wanted,) = files_read(registry.get("backbone", backbone), {"model": name})
        assert wanted.repository == published(backbone)[name].repository
        assert {"transformer", "vae", "scheduler", "tokenizer"} <= set(wanted.folders)
        assert set(wanted.folders) == set(components(published(backbone)[name].folder[INDEX]))
        assert total_words([file_facts(wanted)]).startswith("at most ")
