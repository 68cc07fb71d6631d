"""`video_reward` and `hps_v3` against transformers' own classes and peft, from files as published."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file
from vader_rewards import hps_v3, video_reward
from vader_rewards.hps_v3 import HpsV3, ranknet
from vader_rewards.mps import Mps
from vader_rewards.options import HpsV3Options, VideoRewardOptions
from vader_rewards.pick_score import PickScore
from vader_rewards.qwen_scorer import HeadedQwen, published, question_of, rank_scale
from vader_rewards.qwen_vl import DIALOGUE, SEEN, RandomTokeniser, fitted_size
from vader_rewards.video_reward import DIMENSIONS, TOKENS, VideoReward, newest
from vader_rewards.vqa_yes import VqaYes

from vader_core.device import GIB
from vader_core.errors import VaderError
from vader_core.profiling.estimate import memory_facts
from vader_core.prompts import Prompt
from vader_core.randomness import Randomness
from vader_core.registry import load_registry
from vader_core.run.config import validated
from vader_core.testing.plugin import add_testing_plugin

CPU, F32 = torch.device("cpu"), torch.float32
PROMPTS = [Prompt("a red boat"), Prompt("two dogs on a field of snow <|VQ_reward|> <|Reward|>")]
ALPHA, RANK = 24, 3
SETTINGS = {
    "peft_lora_config": {"lora_r": RANK, "lora_alpha": ALPHA},
    "inference_config": {"VQ_mean": 0.2, "VQ_std": 0.5, "MQ_mean": -0.1, "MQ_std": 2.0}
    | {"TA_mean": 0.3, "TA_std": 0.7},
}


def videos(frames, height=70, width=100):
    return torch.rand(2, frames, 3, height, width, generator=torch.Generator().manual_seed(3))


def tokenizer_file(folder):
    """A small tokenizer.json: 256 words, then the special tokens of the tiny layout."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = question_of("video_reward").split() + question_of("hps_v3").split()
    known = dict.fromkeys(word for word in words if not word.startswith("<|"))
    first = ["[UNK]", *known, *(f"word{i}" for i in range(256))][:256]
    made = Tokenizer(models.WordLevel({word: i for i, word in enumerate(first)}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made.add_special_tokens(list(RandomTokeniser.SPECIAL))
    made.save(str(folder / "tokenizer.json"))
    return str(folder / "tokenizer.json")


def official(layout, head):
    """As both projects build it: the whole of Qwen2-VL, with a head beside the words."""
    from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

    torch.manual_seed(0)
    given = {key: value for key, value in layout.items() if key != "model_type"}
    model = Qwen2VLForConditionalGeneration(Qwen2VLConfig(**given)).eval()
    model.rm_head = head.eval()
    return model


def older(name):
    """A name of transformers 5 as version 4 had it."""
    return name.replace("model.visual.", "visual.").replace("model.language_model.", "model.")


@torch.no_grad()
def answers(model, tower, reward, video, prompt, tokens):
    """What the official forward pass answers about one video: the head at the special tokens."""
    judge = reward.scorer.judge
    patches, grid = judge.patches(video[None])
    kind = judge.kind
    pads = SEEN.replace("{kind}", kind)
    pads = pads.replace(f"<|{kind}_pad|>", f"<|{kind}_pad|>" * (grid[0] * grid[1] * grid[2] // 4))
    text = DIALOGUE.format(video=pads, text=reward.scorer.asked(prompt.text))
    ids = torch.tensor([judge.tokeniser.encode(text)])
    seen = ids == judge.placeholder
    clips = kind == "video"
    given = ("pixel_values_videos", "video_grid_thw") if clips else ("pixel_values", "image_grid_thw")
    states = tower(
        input_ids=ids,
        mm_token_type_ids=(2 if clips else 1) * seen.int(),
        **dict(zip(given, (patches, torch.tensor([grid])), strict=True)),
    )[0]
    special = sum(ids == judge.tokeniser.encode(token)[0] for token in tokens).bool()
    assert int(special.sum()) == len(tokens)
    return model.rm_head(states)[special]


@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
    """VideoReward as its repository has it, small; and the model that peft makes of it."""
    from peft import LoraConfig, get_peft_model

    folder = tmp_path_factory.mktemp("video_reward")
    model = official(video_reward.PRESETS["tiny"], torch.nn.Linear(32, 1, bias=False))
    names = [
        name
        for name, layer in model.named_modules()
        if isinstance(layer, torch.nn.Linear) and "language_model" in name
    ]
    wrapped = get_peft_model(model, LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=names)).eval()
    for name, value in wrapped.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(value, std=0.1)
    (folder / "checkpoint-11").mkdir()
    (folder / "checkpoint-9").mkdir()
    torch.save(
        {older(name): value for name, value in wrapped.state_dict().items()},
        folder / "checkpoint-11" / "model.pth",
    )
    (folder / "model_config.json").write_text(json.dumps(SETTINGS))
    options = VideoRewardOptions(
        weights=str(folder), architecture="tiny", tokeniser=tokenizer_file(folder), mq=0.5
    )
    return folder, wrapped, VideoReward(options, device=CPU, dtype=F32)


@pytest.mark.parametrize("frames", [4, 3])
def test_a_video_is_judged_as_by_the_original_with_its_lora(tuned, frames):
    _, wrapped, reward = tuned
    video = videos(frames)
    found, whole = reward.judgements(video, PROMPTS), reward(video, PROMPTS, Randomness(0))
    told = SETTINGS["inference_config"]
    for row, prompt in enumerate(PROMPTS):
        plain = wrapped.base_model.model
        raw = answers(plain, plain.model, reward, video[row], prompt, TOKENS)[:, 0]
        wanted = [
            (float(raw[i]) - told[f"{name}_mean"]) / told[f"{name}_std"] for i, name in enumerate(DIMENSIONS)
        ]
        torch.testing.assert_close(found[row], torch.tensor(wanted), rtol=1e-4, atol=1e-5)
        assert float(whole.score[row]) == pytest.approx(wanted[0] + 0.5 * wanted[1] + wanted[2], abs=1e-4)
    assert torch.equal(whole.loss, -whole.score)
    assert not torch.allclose(found[0], found[1])


def test_without_its_lora_it_says_other_things(tuned):
    _, wrapped, reward = tuned
    video = videos(4)
    with wrapped.disable_adapter():
        plain = wrapped.base_model.model
        raw = answers(plain, plain.model, reward, video[0], PROMPTS[0], TOKENS)[:, 0]
    found = reward.judgements(video, PROMPTS)[0] * reward.deviation + reward.mean
    assert float((found - raw).abs().max()) > 1e-2


def test_the_newest_checkpoint_is_taken(tuned):
    folder, _, _ = tuned
    assert newest(str(folder)) == str(folder / "checkpoint-11" / "model.pth")
    assert newest(str(folder / "checkpoint-11")) == str(folder / "checkpoint-11")
    assert newest("random") == "random"


def test_the_head_is_not_rounded_to_the_towers_dtype(tuned):
    folder, wrapped, _ = tuned
    options = VideoRewardOptions(
        weights=str(folder), architecture="tiny", tokeniser=str(folder / "tokenizer.json")
    )
    reward = VideoReward(options, device=CPU, dtype=torch.bfloat16)
    assert next(reward.model.model.parameters()).dtype == torch.bfloat16
    assert torch.equal(reward.model.rm_head.weight, wrapped.state_dict()["base_model.model.rm_head.weight"])


def test_missing_settings_are_named(tuned, tmp_path):
    folder, _, _ = tuned
    (tmp_path / "away").mkdir()
    (tmp_path / "away" / "model.pth").write_bytes((folder / "checkpoint-11" / "model.pth").read_bytes())
    options = VideoRewardOptions(weights=str(tmp_path / "away"), architecture="tiny")
    with pytest.raises(VaderError, match=r"no model_config\.json .* take it from hub:KlingTeam/VideoReward"):
        VideoReward(options, device=CPU, dtype=F32)


def test_a_tokeniser_of_another_model_is_refused(tuned, tmp_path):
    folder, _, _ = tuned
    tree = json.loads((folder / "tokenizer.json").read_text())
    tree["added_tokens"] += [{**tree["added_tokens"][-1], "id": 262, "content": "<|more|>"}]
    (tmp_path / "tokenizer.json").write_text(json.dumps(tree))
    options = VideoRewardOptions(
        weights=str(folder), architecture="tiny", tokeniser=str(tmp_path / "tokenizer.json")
    )
    with pytest.raises(VaderError, match=r"makes \[265\] of <\|TA_reward\|>, and the model has 265 tokens"):
        VideoReward(options, device=CPU, dtype=F32)


def test_a_prompt_holds_no_reward_token():
    reward = VideoReward(VideoRewardOptions(weights="random", architecture="tiny"), device=CPU, dtype=F32)
    ids, _ = reward.scorer.judge.dialogue([reward.scorer.asked(one.text) for one in PROMPTS], (2, 4, 4))
    for token in reward.scorer.tokens:
        assert (ids == token).sum(dim=1).tolist() == [1, 1]


def test_a_frame_is_preferred_as_by_the_original(tmp_path):
    model = official(hps_v3.PRESETS["tiny"], ranknet(64))
    save_file(
        {older(name): value.clone() for name, value in model.state_dict().items()},
        tmp_path / "HPSv3.safetensors",
    )
    options = HpsV3Options(weights=str(tmp_path), architecture="tiny", tokeniser=tokenizer_file(tmp_path))
    reward = HpsV3(options, device=CPU, dtype=F32)
    video = videos(2)
    found = reward(video, PROMPTS, Randomness(0))
    for row, prompt in enumerate(PROMPTS):
        means = [
            float(answers(model, model.model, reward, frame[None], prompt, ("<|Reward|>",))[0, 0])
            for frame in video[row]
        ]
        assert float(found.score[row]) == pytest.approx(sum(means) / 2, abs=1e-5)
    assert torch.equal(found.loss, -found.score)


def test_a_pictures_patches_are_the_processors():
    from transformers import Qwen2VLImageProcessor

    reward = HpsV3(HpsV3Options(weights="random", architecture="tiny"), device=CPU, dtype=F32)
    frames = 0.3 + 0.4 * videos(1)  # so that no overshoot of the resize is cut, as bytes would cut it
    least, most = reward.scorer.judge.limits
    processor = Qwen2VLImageProcessor(size={"shortest_edge": least, "longest_edge": most}, do_rescale=False)
    theirs = processor(images=list(frames[:, 0]), return_tensors="pt")
    patches, grid = reward.scorer.judge.patches(frames)
    assert theirs["image_grid_thw"].tolist() == [list(grid)] * 2
    torch.testing.assert_close(patches, theirs["pixel_values"], rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("limits", "shape", "size"),
    [
        (video_reward.PIXELS, (480, 832), (336, 588)),
        (video_reward.PIXELS, (320, 512), (308, 504)),
        ((hps_v3.PIXELS, hps_v3.PIXELS), (480, 832), (336, 588)),
        ((hps_v3.PIXELS, hps_v3.PIXELS), (256, 256), (448, 448)),
    ],
)
def test_sizes_of_the_originals(limits, shape, size):
    from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

    wanted = smart_resize(*shape, factor=28, min_pixels=limits[0], max_pixels=limits[1])
    assert fitted_size(*shape, 28, *limits) == tuple(wanted) == size


@pytest.mark.parametrize(
    ("module", "head", "count"),
    [
        (video_reward, lambda width: torch.nn.Linear(width, 1, bias=False), 2_208_563_200),
        (hps_v3, ranknet, 0),
    ],
)
def test_the_full_architectures(module, head, count):
    with torch.device("meta"):
        model = HeadedQwen(module.PRESETS["full"], head)
    embedding = model.model.language_model.embed_tokens.weight
    assert len(embedding) == module.PRESETS["full"]["vocab_size"]
    counted = sum(value.numel() for value in model.parameters())
    # Qwen2-VL-7B has 8,291,375,616 with both of its vocabularies of 152,064 words.
    whole = 8_291_375_616 - 2 * 152_064 * 3584 + 151_658 * 3584 + 3584 * 1024 + 1024 + 1024 * 16 + 16 + 34
    assert counted == (count or whole)


def test_a_module_that_peft_trained_whole_is_its_trained_copy():
    found = published(
        {
            "base_model.model.rm_head.original_module.weight": torch.zeros(1, 2),
            "base_model.model.rm_head.modules_to_save.default.weight": torch.ones(1, 2),
        },
        None,
        what="reward",
    )
    assert list(found) == ["rm_head.weight"]
    assert float(found["rm_head.weight"].sum()) == 2


def test_a_lora_without_its_settings_or_of_another_kind_is_refused():
    lora = {"model.layers.0.q.base_layer.weight": torch.zeros(2, 2)}
    lora |= {f"model.layers.0.q.lora_{part}.default.weight": torch.ones(2, 2) for part in "AB"}
    with pytest.raises(VaderError, match="the weights hold a LoRA"):
        published(lora, None, what="reward")
    merged = published(lora, rank_scale(8.0, by_root=True), what="reward")
    expected = torch.full((2, 2), 2 * 8.0 / 2**0.5)
    torch.testing.assert_close(merged["model.language_model.layers.0.q.weight"], expected)
    with pytest.raises(VaderError, match="a LoRA of a kind that is not read"):
        published({"model.embed_tokens.lora_embedding_A": torch.ones(2, 2)}, None, what="reward")


def test_they_are_no_independent_judges_of_each_other():
    assert set(VideoReward.families) & set(HpsV3.families) & set(VqaYes.families)
    assert set(Mps.families) & set(PickScore.families)


@pytest.mark.quick_cases("VqaYes")
@pytest.mark.parametrize("kind", [VideoReward, HpsV3, VqaYes])
def test_a_run_with_one_can_be_estimated(kind):
    registry = add_testing_plugin(load_registry())
    config = validated(
        {
            "backbone": {"name": "tiny", "width": 16, "depth": 1},
            "video": {"height": 32, "width": 48, "num_frames": 4},
            "sampler": {"num_steps": 2},
            "reward": [{"name": kind.name, "weights": "random", "architecture": "tiny"}],
            "prompts": {"source": "fixed"},
            "trainer": {"precision": "fp32"},
            "validation": {"prompts": 0},
        }
    )
    facts = memory_facts(config, registry, validation=False)
    options = registry.get("reward", kind.name).config(weights="random", architecture="tiny")
    model = kind(options, device=CPU, dtype=F32).model
    held = sum(one.numel() * one.element_size() for one in model.parameters()) / GIB
    found = facts["estimated_parts_gib"]["rewards"]
    assert held < found < 1.3 * held  # a small tensor takes up a whole grain
    assert facts["estimated_phases_gib"]["reward"] > found
