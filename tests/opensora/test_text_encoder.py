"""T5 through transformers, on a tiny one made here."""

from __future__ import annotations

import pytest
import torch
from tiny_opensora import make
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast, T5Config, T5EncoderModel
from vader_opensora.architecture import TINY

from vader_core.errors import VaderError
from vader_core.nn import long_texts
from vader_core.nn.t5 import T5TextEncoder
from vader_core.prompts import Prompt

WORDS = ["<pad>", "</s>", "<unk>", "a", "cat", "dog", "red", "aesthetic", "score", ":", "6", ".", "5"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("t5")
    tokenizer = Tokenizer(
        models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="<unk>")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(path)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = T5Config(vocab_size=len(WORDS), d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4)
        T5EncoderModel(config).save_pretrained(path)
    return path


def test_a_text_that_is_cut_is_said_once(folder, recwarn, monkeypatch):
    monkeypatch.setattr(long_texts, "_SAID", set())
    facts = {"device": torch.device("cpu"), "dtype": torch.float32, "channels": 32}
    encoder = T5TextEncoder(folder, max_length=5, label="this model", **facts)
    encoder(["a cat", "a red red dog"])  # four words and the end: just full
    assert not recwarn.list
    encoder(["a cat", "a red red red dog", "a cat a cat a cat"])
    encoder(["a dog a dog a dog a dog"])
    (said,) = [str(one.message) for one in recwarn.list]
    assert "this model: texts are cut to 5 tokens; the first that is longer has 6" in said
    assert "'a red red red dog'" in said


def test_t5_is_run_padded_and_its_padding_dropped(folder, tmp_path):
    backbone = make(text_encoder_weights=str(folder), text_cache=tmp_path, text_encoder_device="cpu")
    assert "text_encoder" not in backbone.modules()
    text = backbone.encode_text([Prompt("a cat"), Prompt("a red dog")])
    assert "text_encoder" in backbone.modules()
    # a cat aesthetic score : 6 . 5 . </s>: Whitespace keeps "6.5." together as 6 . 5 .
    lengths = text.positive["mask"].sum(dim=1).tolist()
    assert lengths[1] == lengths[0] + 1

    from transformers import AutoTokenizer

    tokens = AutoTokenizer.from_pretrained(folder)(
        "a cat aesthetic score: 6.5.", max_length=20, padding="max_length", return_tensors="pt"
    )
    model = T5EncoderModel.from_pretrained(folder)
    expected = model(input_ids=tokens.input_ids, attention_mask=tokens.attention_mask).last_hidden_state
    assert int(tokens.attention_mask.sum()) == lengths[0]
    ours = text.positive["embeddings"][0, : lengths[0]]
    assert torch.allclose(ours, expected[0, : lengths[0]], atol=1e-6)

    backbone.release_text_encoder()
    assert "text_encoder" not in backbone.modules()
    backbone.encode_text([Prompt("a cat")])
    assert "text_encoder" not in backbone.modules()
    backbone.encode_text([Prompt("a dog")])
    assert "text_encoder" not in backbone.modules()


def test_a_wrong_folder_is_named(folder, tmp_path):
    with pytest.raises(VaderError, match="a T5"):
        make(text_encoder_weights=str(tmp_path), text_cache=tmp_path).encode_text([Prompt("a")])
    sizes = {**TINY, "denoiser": {**TINY["denoiser"], "caption_channels": 24}}
    with pytest.raises(VaderError, match="has width 32, but the denoiser expects 24"):
        make(text_encoder_weights=str(folder), text_cache=tmp_path, architecture=sizes).encode_texts(["a"])
