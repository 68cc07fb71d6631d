"""Prompts on their way to the denoiser."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file
from tiny_easyanimate import bare, make
from vader_easyanimate.text_lora import merge_text_lora

from vader_core.caption_cleaning import clean
from vader_core.errors import VaderError
from vader_core.nn.t5 import T5TextEncoder
from vader_core.prompts import Prompt


def tiny_t5():
    from transformers import T5Config, T5EncoderModel

    config = T5Config(
        vocab_size=64, d_model=24, d_kv=8, d_ff=32, num_layers=2, num_heads=3, feed_forward_proj="gated-gelu"
    )
    with torch.random.fork_rng(devices=[]):
        return T5EncoderModel(config).requires_grad_(False).eval()


def save_t5(folder):
    """A model folder's text encoder and tokenizer."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = {"<pad>": 0, "</s>": 1, "<unk>": 2, "a": 3, "cat": 4, "runs": 5}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    )
    fast.save_pretrained(folder / "tokenizer")
    tiny_t5().save_pretrained(folder / "text_encoder")


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("A Cat, RUNNING!", "a cat, running!"),
        ("<b>bold</b> &amp; free", "bold free"),
        ("see https://example.com/x now", "see now"),
    ],
)
def test_cleaning(given, wanted):
    assert clean(given) == wanted


def test_texts_are_cleaned_and_padded_under_a_mask(backbone):
    prompts = [Prompt("A Cat"), Prompt("a cat", negative="ugly")]
    text = backbone.encode_text(prompts)
    length = backbone.architecture.text_tokens
    assert text.positive["embeddings"].shape == (2, length, backbone.architecture.denoiser.caption_channels)
    assert torch.equal(text.positive["embeddings"][0], text.positive["embeddings"][1])
    assert text.positive["mask"].sum(dim=1).tolist() == [3, 3]
    assert text.negative["mask"].sum(dim=1).tolist() == [1, 2]
    assert not text.positive["embeddings"][~text.positive["mask"]].any()


def test_captions_can_stay_as_they_are():
    backbone = make(clean_captions=False)
    first, second = (backbone.encode_text([Prompt(word)]).positive["embeddings"] for word in ("Cat", "cat"))
    assert not torch.equal(first, second)


def test_padding_does_not_reach_the_denoiser(backbone):
    geometry = backbone.defaults.geometry
    text = backbone.encode_text([Prompt("a cat")])
    given = backbone.condition(text, [Prompt("a cat")], geometry, None).conditional_branch
    latents = torch.randn(1, *backbone.latent_shape(geometry), generator=torch.Generator().manual_seed(2))
    time = torch.tensor([500.0])
    before = backbone.denoiser(latents, time, given.tensors["embeddings"], given.tensors["mask"])
    noisy = given.tensors["embeddings"] + 5.0 * ~given.tensors["mask"][..., None]
    after = backbone.denoiser(latents, time, noisy, given.tensors["mask"])
    cut = int(given.tensors["mask"].sum())
    short = backbone.denoiser(latents, time, given.tensors["embeddings"][:, :cut])
    assert torch.allclose(after, before, atol=1e-6)
    assert torch.allclose(short, before, atol=1e-5)


def test_t5_from_a_model_folder(tmp_path):
    save_t5(tmp_path)
    encoder = T5TextEncoder(
        tmp_path, device=torch.device("cpu"), dtype=torch.float32, max_length=12, channels=24, label="T5"
    )
    found = encoder(["a cat", "a cat runs"])
    assert found["embeddings"].shape == (2, 12, 24)
    assert found["mask"].sum(dim=1).tolist() == [3, 4]
    with pytest.raises(VaderError, match="has width 24, but the denoiser expects 32"):
        T5TextEncoder(
            tmp_path,
            device=torch.device("cpu"),
            dtype=torch.float32,
            max_length=12,
            channels=32,
            label="T5",
        )
    with pytest.raises(VaderError, match="T5, a T5"):
        T5TextEncoder(
            tmp_path / "tokenizer",
            device=torch.device("cpu"),
            dtype=torch.float32,
            max_length=12,
            channels=24,
            label="T5",
        )


def text_lora(path, *, rank=2, width=24):
    key = "lora_te_encoder_block_1_layer_0_SelfAttention_q"
    generator = torch.Generator().manual_seed(4)
    down, up = torch.randn(rank, width, generator=generator), torch.randn(24, rank, generator=generator)
    save_file(
        {f"{key}.lora_down.weight": down, f"{key}.lora_up.weight": up, f"{key}.alpha": torch.tensor(1)}, path
    )
    return up @ down / rank


def test_a_text_encoders_lora_is_merged(tmp_path):
    model, path = tiny_t5(), tmp_path / "lora.safetensors"
    update = text_lora(path)
    layer = model.get_submodule("encoder.block.1.layer.0.SelfAttention.q")
    before = layer.weight.clone()
    assert merge_text_lora(model, path, 0.5) == 1
    assert torch.allclose(layer.weight, before + 0.5 * update, atol=1e-6)
    text_lora(path, width=16)
    with pytest.raises(VaderError, match="made for another model"):
        merge_text_lora(model, path, 1.0)
    save_file(
        {
            "lora_unet__proj_out.lora_down.weight": torch.zeros(2, 8),
            "lora_unet__proj_out.lora_up.weight": torch.zeros(8, 2),
        },
        path,
    )
    with pytest.raises(VaderError, match="holds nothing for the text encoder"):
        merge_text_lora(model, path, 1.0)


def test_a_text_lora_is_used_by_the_backbone(tmp_path):
    save_t5(tmp_path)
    path = tmp_path / "lora.safetensors"
    text_lora(path)
    options = {
        "text_encoder_weights": str(tmp_path),
        "text_encoder_dtype": "float32",
        "text_cache": tmp_path / "c",
    }
    plain, changed = make(**options), make(**options, text_lora=path)
    first, second = (one.encode_text([Prompt("a cat")]).positive["embeddings"] for one in (plain, changed))
    assert not torch.allclose(first, second)
    again = make(**options).encode_text([Prompt("a cat")]).positive["embeddings"]
    assert torch.equal(again, first)
    with pytest.raises(VaderError, match="needs T5's weights"):
        make(text_lora=path).encode_text([Prompt("a cat")])


def test_text_is_kept_on_disk_by_content(tmp_path):
    assert bare(weights="random", architecture="tiny").text_cache.directory is None
    backbone = make(text_cache=tmp_path)
    backbone.encode_text([Prompt("a cat"), Prompt("A cat")])
    assert len(list(tmp_path.glob("*.safetensors"))) == 2
