"""`mps` against the published formula, written out over transformers' CLIP, and its file's names."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional as F
from vader_rewards.clip_towers import CLIP_H14, H14_PRESETS, clip_tokens
from vader_rewards.mps import CrossModel, Mps, Scorer, filled_with_ends, published
from vader_rewards.options import MpsOptions
from vader_rewards.preprocessing import clip_processor_pixels

from vader_core.prompts import Prompt
from vader_core.randomness import Randomness

CPU, F32 = torch.device("cpu"), torch.float32
LAYOUT = {
    **H14_PRESETS["tiny"],
    "projection_dim": 128,
    "text_config": {**H14_PRESETS["tiny"]["text_config"], "projection_dim": 128},
    "vision_config": {**H14_PRESETS["tiny"]["vision_config"], "projection_dim": 128},
}
#: High, so that a random text tower leaves some words out.
NEAR = 0.95
PROMPTS = [Prompt("a red boat on a lake"), Prompt("two dogs")]


@pytest.fixture(scope="module")
def reward():
    made = Mps(MpsOptions(weights="random", architecture=LAYOUT, threshold=NEAR), device=CPU, dtype=F32)
    generator = torch.Generator().manual_seed(1)
    for value in made.model.cross_model.parameters():  # so that the cross model counts
        value.data = torch.randn(value.shape, generator=generator) * value.shape[-1] ** -0.5
    return made


def rotary(states):
    """Positions as the original computes them, pair by pair."""
    length, width = states.shape[-2:]
    turned = states.clone()
    for i in range(width // 2):
        angle = torch.arange(length) / 10000 ** (2 * i / width)
        a, b = states[..., i], states[..., i + width // 2]
        turned[..., i] = a * angle.cos() - b * angle.sin()
        turned[..., i + width // 2] = b * angle.cos() + a * angle.sin()
    return turned


def attended(queries, keys, values, mask, heads):
    """One head of keys and values for all heads of queries; one image."""
    out = []
    for one in queries.chunk(heads, dim=-1):
        similar = one * one.shape[-1] ** -0.5 @ keys.T
        similar = similar if mask is None else similar + mask
        out.append(similar.softmax(dim=-1) @ values)
    return torch.cat(out, dim=-1)


def gated(states):
    value, gate = states.chunk(2, dim=-1)
    return F.silu(gate) * value


def cross(model, image, text, mask):
    """The four published blocks for one image."""
    width = image.shape[-1]
    heads = width // 64
    for layer in model.layers:
        block = layer[0].fn
        seen = F.layer_norm(image, (width,), block.norm.weight)
        keys, values = (text @ block.to_kv.weight.T).chunk(2, dim=-1)
        added = attended(seen @ block.to_q.weight.T, keys, values, mask, heads) @ block.to_out.weight.T
        image = image + added + gated(seen @ block.ff[0].weight.T) @ block.ff[2].weight.T
        block = layer[1].fn
        seen = F.layer_norm(image, (width,), block.norm.weight)
        queries, keys, values, wide = (seen @ block.fused_attn_ff_proj.weight.T).split(block.parts, dim=-1)
        queries = torch.cat([rotary(one) for one in queries.chunk(heads, dim=-1)], dim=-1)
        added = attended(queries, rotary(keys), values, None, heads) @ block.attn_out.weight.T
        image = image + added + gated(wide) @ block.ff_out[1].weight.T
    return image


@torch.no_grad()
def test_scores_are_the_published_formulas_one_by_one(reward):
    frames = torch.rand(2, 3, 90, 70, generator=torch.Generator().manual_seed(2))
    found = reward.score_frames(frames, PROMPTS)
    clip = reward.model.model
    hidden = []
    for row, prompt in enumerate(PROMPTS):

        def words(text):
            output = clip.text_model(input_ids=filled_with_ends(clip_tokens([text])))
            return (
                clip.text_projection(output.last_hidden_state)[0],
                clip.text_projection(output.pooler_output)[0],
            )

        every, whole = words(prompt.text)
        condition, _ = words(reward.options.condition)
        near = (condition @ every.T).max(dim=0).values
        mask = torch.where(near / near.max() > NEAR, 0.0, float("-inf"))
        hidden.append(int((mask < 0).sum()))
        pixels = clip_processor_pixels(frames[row : row + 1], reward.size)
        image = clip.visual_projection(clip.vision_model(pixels).last_hidden_state)[0]
        seen = cross(reward.model.cross_model, image, every, mask)[0]
        wanted = reward.scale * F.cosine_similarity(seen, whole, dim=0)
        assert float(found[row]) == pytest.approx(float(wanted), rel=1e-4, abs=1e-4)
    assert any(hidden)


def test_a_text_is_filled_up_as_transformers_does():
    tokens = torch.tensor([[49406, 320, 49407, 0, 0], [49406, 320, 736, 1746, 49407]])
    assert filled_with_ends(tokens).tolist()[0] == [49406, 320, 49407, 49407, 49407]
    assert filled_with_ends(tokens).tolist()[1] == [49406, 320, 736, 1746, 49407]


def test_the_hubs_file_is_read(reward, tmp_path):
    named = {f"mps.{name}": value.contiguous() for name, value in reward.model.state_dict().items()}
    for number in range(4):
        for place in (0, 1):
            named[f"mps.cross_model.layers.{number}.{place}.fn.norm.bias"] = torch.zeros(128)
        named[f"mps.cross_model.layers.{number}.1.fn.rotary_emb.inv_freq"] = torch.ones(32)
    save_file(named, tmp_path / "model.safetensors")
    options = MpsOptions(weights=str(tmp_path), architecture=LAYOUT, threshold=NEAR)
    video = torch.rand(2, 1, 3, 60, 60, generator=torch.Generator().manual_seed(2))
    read = Mps(options, device=CPU, dtype=F32)
    assert torch.equal(read(video, PROMPTS, Randomness(0)).score, reward(video, PROMPTS, Randomness(0)).score)
    assert published({"mps.model.logit_scale": torch.ones(())}).keys() == {"model.logit_scale"}


def test_the_condition_says_what_is_judged(reward):
    frames = torch.rand(1, 3, 60, 60, generator=torch.Generator().manual_seed(2))
    options = MpsOptions(weights="random", architecture=LAYOUT, threshold=NEAR, condition="dogs")
    other = Mps(options, device=CPU, dtype=F32)
    other.model.load_state_dict(reward.model.state_dict())
    assert float(other.score_frames(frames, PROMPTS[1:])) != float(reward.score_frames(frames, PROMPTS[1:]))


def test_the_full_cross_model_has_the_published_shapes():
    with torch.device("meta"):
        model = Scorer(CLIP_H14)
    shapes = {name: tuple(value.shape) for name, value in model.cross_model.state_dict().items()}
    assert shapes["layers.0.0.fn.to_q.weight"] == (1024, 1024)
    assert shapes["layers.0.0.fn.to_kv.weight"] == (128, 1024)
    assert shapes["layers.3.0.fn.ff.0.weight"] == (8192, 1024)
    assert shapes["layers.3.1.fn.fused_attn_ff_proj.weight"] == (1024 + 128 + 8192, 1024)
    assert shapes["layers.3.1.fn.ff_out.1.weight"] == (1024, 4096)
    assert sum(value.numel() for value in model.model.parameters()) == 986_109_441
    assert isinstance(model.cross_model, CrossModel)
