"""Every real backbone has an estimate with a reward that holds a number, on one process and on two."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from vader_core.api.plan import plan
from vader_core.registry import load_registry
from vader_core.run.config import validated
from vader_core.run.layers import merged

REGISTRY = load_registry()
TINY = {"weights": "random", "architecture": "tiny"}
SMALL = {"height": 64, "width": 64, "num_frames": 9}

#: Each with what it needs beside random weights, and how two processes may share it.
FAMILIES: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "videocrafter": ({"backbone": TINY, "video": {"height": 64, "width": 64, "num_frames": 4}}, ("shard",)),
    "modelscope": ({"backbone": TINY, "video": {"height": 64, "width": 64, "num_frames": 4}}, ("shard",)),
    "svd": ({"backbone": TINY, "video": {"height": 64, "width": 64, "num_frames": 3}}, ("shard",)),
    "opensora": ({"backbone": TINY, "video": {"height": 64, "width": 64, "num_frames": 17}}, ("shard",)),
    "opensora11": ({"backbone": TINY, "video": {"height": 64, "width": 64, "num_frames": 4}}, ("shard",)),
    "easyanimate": ({"backbone": TINY, "video": {"height": 64, "width": 64, "num_frames": 9}}, ("shard",)),
    "wan": ({"backbone": TINY, "video": SMALL}, ("shard", "context")),
    "wan_i2v": ({"backbone": TINY, "video": SMALL}, ("shard", "context")),
    "ltx": ({"backbone": TINY, "video": SMALL}, ("shard", "context")),
    "ltx2": ({"backbone": TINY, "video": SMALL}, ("shard",)),
    "cogvideox": ({"backbone": TINY, "video": SMALL}, ("shard",)),
    "hunyuan_video": ({"backbone": TINY, "video": SMALL}, ("shard",)),
    "hunyuan_video15": ({"backbone": TINY, "video": SMALL}, ("shard",)),
}


def facts(name: str, folder: Path, processes: int = 1, **more: Any) -> dict[str, Any]:
    source = "text:a dog"
    if name in ("svd", "wan_i2v"):
        Image.new("RGB", (64, 64)).save(folder / "one.png")
        source = f"images:{folder}"
    base = {
        "backbone": {"name": name},
        "reward": [{"name": "hps", "weights": "random", "architecture": "tiny"}],
        "prompts": {"source": source},
        "validation": {"prompts": 1, "seeds": 1},
    }
    found = plan(validated(merged(base, FAMILIES[name][0], more)), registry=REGISTRY, processes=processes)
    assert found["estimated_peak_gib"], found["estimate"]
    return found


#: Those that `make test` looks at: a mask of the text, a split of the sequence.
QUICK = ("ltx",)


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.soak) for name in FAMILIES]
)
def test_every_backbone_has_an_estimate(name: str, tmp_path: Path) -> None:
    alone = facts(name, tmp_path)
    assert alone["estimated_validation_gib"] > 0
    assert alone["estimated_parts_gib"]["rewards"] > 0
    for way in FAMILIES[name][1]:
        shared = facts(name, tmp_path, 2, parallel={way: 2})
        assert shared["estimated_sent_per_step_gib"]["weights" if way == "shard" else "sequence"] > 0


@pytest.mark.slow
def test_full_weights_in_pieces_have_an_estimate(tmp_path: Path) -> None:
    found = facts("opensora", tmp_path, 2, parallel={"shard": 2}, tuning={"kind": "full"})
    assert found["estimated_sent_per_step_gib"]["gradients"] > 0
