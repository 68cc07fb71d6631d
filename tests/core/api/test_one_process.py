"""Training, sampling and scoring in one process: nothing of one is left behind for the next."""

from __future__ import annotations

import random
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from vader_core.api import configure, sample, score, train
from vader_core.nn import feature_cache
from vader_core.nn.functional import Switch
from vader_core.registry import Registry
from vader_core.run.layers import changed
from vader_core.testing.tiny import TinyBackbone


def _process() -> dict[str, Any]:
    """What belongs to the process alone."""
    return {
        "fused kernels": Switch.on,
        "kernel search": Switch.find,
        "cudnn.benchmark": torch.backends.cudnn.benchmark,
        "grad mode": torch.is_grad_enabled(),
        "inference mode": torch.is_inference_mode_enabled(),
        "autocast": torch.is_autocast_enabled("cpu"),
        "default dtype": torch.get_default_dtype(),
        "threads": torch.get_num_threads(),
        "torch's numbers": torch.get_rng_state().tolist(),
        "numpy's numbers": np.random.get_state()[1].tolist(),
        "Python's numbers": random.getstate(),
        "open feature cache": feature_cache._open,
        "on interrupt": signal.getsignal(signal.SIGINT),
        "on termination": signal.getsignal(signal.SIGTERM),
    }


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether the fused kernels were on at each prediction."""
    found: list[bool] = []
    predict = TinyBackbone.predict

    def noted(self: Any, *given: Any) -> Any:
        found.append(Switch.on)
        return predict(self, *given)

    monkeypatch.setattr(TinyBackbone, "predict", noted)
    return found


def _config(registry: Registry, **performance: Any) -> Any:
    config = configure(
        registry=registry,
        backbone="tiny",
        reward=["brightness"],
        prompts="fixed",
        sampler={"num_steps": 2},
        trainer={"device": "cpu", "max_steps": 2, "batch_size": 1, "lr": 1e-2},
        validation={"prompts": 1, "seeds": 1},
        performance=performance,
    )
    return changed(config, run={"trackers": []})


def test_train_then_sample_then_score_leave_nothing_behind(
    registry: Registry, tmp_path: Path, seen: list[bool]
) -> None:
    before = _process()
    plain = _config(registry, fused_kernels=False, fold_adapter=True, guidance_cache=2)
    summary = train(plain, out=tmp_path / "run", registry=registry)
    assert summary["steps"] == 2
    assert seen
    assert not any(seen)
    assert _process() == before

    seen.clear()
    fused = _config(registry)
    made = sample(fused, out=tmp_path / "clips", lora=str(tmp_path / "run"), max_prompts=1, registry=registry)
    assert len(made.videos) == 1
    assert seen
    assert all(seen)
    assert _process() == before

    (clip,) = (tmp_path / "clips").glob("*.mp4")
    scored = score([clip], ["brightness"], device="cpu", registry=registry)
    assert scored["videos"][0]["scores"]["brightness"] != 0
    assert scored["videos"][0]["prompt"] == made.pairs[0].prompt.text
    assert _process() == before

    again = train(_config(registry), out=tmp_path / "again", registry=registry)
    assert again["reward_queries"] == summary["reward_queries"] == 2
    assert _process() == before


@pytest.mark.parametrize("call", ["train", "sample"])
def test_what_fails_leaves_nothing_behind(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    def fails(self: Any, *given: Any) -> Any:
        assert not Switch.on
        raise ValueError("in the middle")

    monkeypatch.setattr(TinyBackbone, "predict", fails)
    before = _process()
    function = {"train": train, "sample": sample}[call]
    with pytest.raises(ValueError, match="in the middle"):
        function(_config(registry, fused_kernels=False), out=tmp_path / "run", registry=registry)
    assert _process() == before


def test_an_open_model_computes_with_its_own_switches_and_leaves_the_callers(registry, monkeypatch):
    from vader_core.api.configure import configure
    from vader_core.api.open_model import open_model
    from vader_core.nn.functional import Switch
    from vader_core.prompts import Prompt
    from vader_core.randomness import Randomness
    from vader_core.testing.tiny import TinyBackbone

    seen = []
    predict = TinyBackbone.predict
    monkeypatch.setattr(TinyBackbone, "predict", lambda *given: seen.append(Switch.on) or predict(*given))
    config = configure(backbone="tiny", performance={"fused_kernels": False}, trainer={"device": "cpu"},
                       prompts="fixed")  # fmt: skip
    model = open_model(config, registry=registry)
    with torch.no_grad():
        rng = Randomness(0)
        model.rollout(model.condition([Prompt("a boat")], model.geometry, rng), model.geometry, rng)
    assert seen
    assert not any(seen)
    assert Switch.on
