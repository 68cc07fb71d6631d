"""`image_reward`: the published names and shapes, BERT's tokens, and a score that reads its own prompt."""

from __future__ import annotations

import itertools

import pytest
import torch
from vader_rewards.image_reward import PRESETS, BlipScorer, ImageRewardModel, renamed
from vader_rewards.options import ImageRewardOptions

from vader_core.prompts import Prompt
from vader_core.randomness import Randomness

CPU = {"device": torch.device("cpu"), "dtype": torch.float32}


def published_shapes():
    """Of ImageReward.pt as its own code builds it: timm's ViT-L/16, BERT with cross attention, the head."""
    shapes = {"cls_token": (1, 1, 1024), "pos_embed": (1, 197, 1024)}
    shapes |= {"patch_embed.proj.weight": (1024, 3, 16, 16), "patch_embed.proj.bias": (1024,)}
    shapes |= {"norm.weight": (1024,), "norm.bias": (1024,)}
    for block in range(24):
        for name, shape in {
            **{f"norm{one}.{part}": (1024,) for one in (1, 2) for part in ("weight", "bias")},
            **{"attn.qkv.weight": (3072, 1024), "attn.qkv.bias": (3072,)},
            **{"attn.proj.weight": (1024, 1024), "attn.proj.bias": (1024,)},
            **{"mlp.fc1.weight": (4096, 1024), "mlp.fc1.bias": (4096,)},
            **{"mlp.fc2.weight": (1024, 4096), "mlp.fc2.bias": (1024,)},
        }.items():
            shapes[f"blocks.{block}.{name}"] = shape
    found = {f"blip.visual_encoder.{name}": shape for name, shape in shapes.items()}
    text = {"word_embeddings": (30524, 768), "position_embeddings": (512, 768)}
    found |= {f"blip.text_encoder.embeddings.{name}.weight": shape for name, shape in text.items()}
    found |= {f"blip.text_encoder.embeddings.LayerNorm.{part}": (768,) for part in ("weight", "bias")}
    for layer in range(12):
        at = f"blip.text_encoder.encoder.layer.{layer}"
        for kind, width in (("attention", 768), ("crossattention", 1024)):
            for name in ("query", "key", "value"):
                given = 768 if name == "query" else width
                found |= {
                    f"{at}.{kind}.self.{name}.weight": (768, given),
                    f"{at}.{kind}.self.{name}.bias": (768,),
                }
            found |= {
                f"{at}.{kind}.output.dense.weight": (768, 768),
                f"{at}.{kind}.output.dense.bias": (768,),
            }
            found |= {f"{at}.{kind}.output.LayerNorm.{part}": (768,) for part in ("weight", "bias")}
        found |= {f"{at}.intermediate.dense.weight": (3072, 768), f"{at}.intermediate.dense.bias": (3072,)}
        found |= {f"{at}.output.dense.weight": (768, 3072), f"{at}.output.dense.bias": (768,)}
        found |= {f"{at}.output.LayerNorm.{part}": (768,) for part in ("weight", "bias")}
    widths = (768, 1024, 128, 64, 16, 1)
    for place, (into, out) in zip((0, 2, 4, 6, 7), itertools.pairwise(widths), strict=True):
        found |= {f"mlp.layers.{place}.weight": (out, into), f"mlp.layers.{place}.bias": (out,)}
    return found


def test_every_tensor_of_the_published_file_finds_its_place():
    with torch.device("meta"):
        model = BlipScorer(**PRESETS["full"])
    tensors = {name: torch.empty(shape, device="meta") for name, shape in published_shapes().items()}
    tensors["blip.text_encoder.embeddings.position_ids"] = torch.zeros(1, 512, dtype=torch.long)
    found = renamed(tensors)
    own = {name: value.shape for name, value in model.named_parameters()}
    assert {name: value.shape for name, value in found.items() if value.is_floating_point()} == own


def test_tokens_are_berts(tmp_path):
    vocabulary = ["[PAD]"] + [f"[unused{i}]" for i in range(99)] + ["[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocabulary += ["a", "red", "boat", "##s", "boats", "run", "##ning"]
    (tmp_path / "vocab.txt").write_text("\n".join(vocabulary))
    reward = ImageRewardModel(ImageRewardOptions(weights="random", architecture="tiny"), **CPU)
    from transformers import BertTokenizer
    from vader_rewards.image_reward import word_pieces

    reward._tokeniser = word_pieces(tmp_path / "vocab.txt")
    texts = ["A red boat", "running boats, red", "a " * 60]
    theirs = BertTokenizer(str(tmp_path / "vocab.txt"))(
        texts, padding=True, truncation=True, max_length=35, return_tensors="pt"
    )
    ids, mask = reward.tokens(texts)
    assert torch.equal(ids, theirs["input_ids"])
    assert torch.equal(mask, theirs["attention_mask"])


def test_padding_and_neighbours_do_not_count():
    reward = ImageRewardModel(ImageRewardOptions(weights="random", architecture="tiny"), **CPU)
    video = torch.rand(2, 2, 3, 70, 90, generator=torch.Generator().manual_seed(1))
    prompts = [Prompt("a boat"), Prompt("two dogs run over a field of snow in the evening")]
    together = reward(video, prompts, Randomness(0)).score
    for row in range(2):
        alone = reward(video[row : row + 1], prompts[row : row + 1], Randomness(0)).score
        assert float(alone) == pytest.approx(float(together[row]), abs=1e-5)
    swapped = reward(video, prompts[::-1], Randomness(0)).score
    assert float((swapped - together).abs().min()) > 1e-5
