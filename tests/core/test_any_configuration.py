"""Whatever is typed: a dry run completes, or one message says why not, with exit code 2."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

#: Every flag with values that fit and values that do not; hypothesis mixes them.
FLAGS = {
    "--backbone": ["tiny", "tiny_image", "tinny", ""],
    "--weights": ["random", "pretrained", "/nowhere", "hub:x", "hub:a/b/c@d"],
    "--height": ["16", "32", "15", "0", "-8", "many"],
    "--width": ["16", "24", "17", "99999999999"],
    "--num-frames": ["4", "1", "8", "2s", "0", "-1", "1e3"],
    "--fps": ["8", "0", "-1", "nan"],
    "--sampler": ["rectified_flow", "ddim", "euler", "dpmpp", "none"],
    "--num-steps": ["1", "2", "5", "0", "-3", "x"],
    "--guidance-scale": ["1", "2.5", "1:3", "1:2:3", "strong"],
    "--gradient": [
        "last", "last:2", "last:0", "random", "from:1", "from:9", "steps:0,1", "steps:", "refl",
        "refl:0-1", "refl:1-0", "x"
    ],
    "--reward": ["brightness", "motion", "motion:2", "brightness:-1", "motion:x", "britghness", ""],
    "--monitor": ["motion", "brightness", "nothing"],
    "--reward-frames": ["random", "first", "fml", "0", "-1", "99", "some"],
    "--prompts": [
        "fixed", "text:a cat", "animal", "file:/nowhere.csv", "images:/nowhere", "fixxed", "text:"
    ],
    "--negative-prompt": ["ugly", ""],
    "--lora-rank": ["1", "4", "0", "-1"],
    "--lora-alpha": ["1", "0", "-2"],
    "--lora-targets": ["to_q", "to_q,to_v", "all", "nothing", ","],
    "--lora": ["/nowhere", "hub:x"],
    "--lr": ["0.001", "0", "-1", "inf"],
    "--batch-size": ["1", "3", "0"],
    "--accumulate": ["1", "2", "0"],
    "--max-steps": ["0", "5", "-1"],
    "--max-grad-norm": ["1", "0"],
    "--precision": ["fp32", "bf16", "fp16", "fp8"],
    "--seed": ["0", "7", "-1"],
    "--device": ["cpu", "cuda", "tpu"],
    "--keep": ["0", "3", "-1"],
    "--guard": ["off", "stop", "adapt", "pray"],
    "--recipe": ["nothing"],
    "--num-processes": ["1", "0", "-2"],
    "-o": [
        "backbone.width=24", "backbone.width=7", "backbone.widht=8", "backbone.schedule=epsilon",
        "sampler.shift=2",
        "sampler.split_guidance=true", "sampler.nothing=1", "prompts.count=3", "prompts.count=none",
        "reward.motion.cap=1",
        "reward.motion.cap=x", "reward.nothing.x=1", "reward.motion", "trainer.ema=0.9", "trainer.ema=2",
        "objective.reward_gradient.segments=2", "objective.reward_gradient.segments=0",
        "objective.reward_gradient.gradient_segments=[0]",
        "objective.reward_gradient.gradient_segments=[5]",
        "objective.reward_gradient.low_variance=2", "trainer.lr_schedule=cosine",
        "trainer.lr_schedule=square",
        "objective.reward_gradient.base_weight=0.1", "objective.reward_gradient.inner_updates=2",
        "objective.reward_gradient.inner_updates=0", "performance.fp8=true",
        "performance.guidance_cache=2", "performance.guidance_cache=0", "performance.guidance_interval=0-1",
        "performance.guidance_interval=4", "performance.feature_cache=2",
        "run.trackers=[]", "run.trackers=[paper]", "validation.monitor_limit=0",
        "lora.dropout=0.5", "lora.dropout=1",
        "x", "x=1", "x.y=1", "=", "trainer.=1", "reward..=1",
    ],
}  # fmt: skip

flag = st.sampled_from(sorted(FLAGS)).flatmap(
    lambda name: st.tuples(st.just(name), st.sampled_from(FLAGS[name]))
)
scalar = st.none() | st.booleans() | st.integers(-3, 99) | st.floats() | st.text(max_size=6)
tree = st.dictionaries(
    st.sampled_from(
        [
            "backbone",
            "video",
            "sampler",
            "objective",
            "reward",
            "prompts",
            "lora",
            "trainer",
            "traner",
            "rewards",
        ]
    ),
    scalar
    | st.dictionaries(
        st.sampled_from(["name", "reward_gradient", "height", "lr", "rank", "source", "x"]),
        scalar,
        max_size=3,
    )
    | st.lists(st.dictionaries(st.sampled_from(["name", "weight"]), scalar, max_size=2), max_size=2),
    max_size=4,
)
SANE = [["--backbone", "tiny"], ["--reward", "brightness"], ["--prompts", "fixed"]]


def run_any(vader, capsys, sane, flags, config):
    arguments = ["train", "--dry-run"]
    for keep, pair in zip(sane, SANE, strict=True):
        arguments += pair if keep else []
    for name, value in flags:
        arguments += [name, value]
    with tempfile.TemporaryDirectory() as folder:
        if config is not None:
            path = Path(folder) / "run.yaml"
            path.write_text(yaml.safe_dump(config, allow_unicode=True))
            arguments += ["--config", str(path)]
        code = vader(*arguments)
        assert [path.name for path in Path(folder).iterdir()] == ([] if config is None else ["run.yaml"])
    printed = capsys.readouterr()
    assert code in (0, 2), (arguments, printed.err)
    assert "Traceback" not in printed.err, arguments
    if code == 2:
        assert printed.err.strip(), arguments
    else:
        assert "trains   " in printed.out, arguments
        assert "writes   " in printed.out, arguments


CASE = {
    "sane": st.tuples(st.booleans(), st.booleans(), st.booleans()) | st.just((True, True, True)),
    "flags": st.lists(flag, max_size=4),
    "config": st.none() | tree,
}
COMMON = {
    "deadline": None,
    "derandomize": True,
    "database": None,
    "suppress_health_check": [HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
}


@given(**CASE)
@settings(max_examples=5, **COMMON)
def test_some_configurations_run_dry_or_end_in_one_message(vader, capsys, sane, flags, config):
    run_any(vader, capsys, sane, flags, config)


@pytest.mark.slow
@given(**CASE)
@settings(max_examples=40, **COMMON)
def test_any_configuration_runs_dry_or_ends_in_one_message(vader, capsys, sane, flags, config):
    run_any(vader, capsys, sane, flags, config)


@pytest.mark.soak
@given(**CASE)
@settings(max_examples=1000, **COMMON)
def test_a_thousand_configurations(vader, capsys, sane, flags, config):
    run_any(vader, capsys, sane, flags, config)
