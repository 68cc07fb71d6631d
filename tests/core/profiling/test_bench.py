"""``vader bench``: what is measured is the trainer's own optimizer step, with all its micro-steps."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from vader_core.api.configure import complete, configure
from vader_core.assembly.parts import Assembly
from vader_core.assembly.prepare import prepare
from vader_core.method.reward_gradient import RewardGradient
from vader_core.profiling.bench import Bench, load
from vader_core.profiling.stopwatch import PHASES, SilentStopwatch, Stopwatch, timed_parts
from vader_core.registry import Registry
from vader_core.testing.tiny import TinyBackbone
from vader_core.training.processes import SingleProcess
from vader_core.training.setup import make_trainer
from vader_core.training.trainer import Trainer

CPU = torch.device("cpu")


def _loaded(registry: Registry, *, trainer: dict[str, Any], **sections: Any) -> Assembly:
    config = configure(
        registry=registry,
        backbone="tiny",
        reward=["brightness"],
        prompts="fixed",
        trainer={"device": "cpu", "lr": 1e-2, **trainer},
        **sections,
    )
    return load(prepare(complete(config, registry), registry))


class _Counting(Stopwatch):
    """Counts its phases."""

    def __init__(self) -> None:
        super().__init__(CPU)
        self.phases: Counter[str] = Counter()

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Counted."""
        self.phases[name] += 1
        with super().phase(name):
            yield


def _adapter(assembly: Assembly) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in assembly.model.tuning.parameters().items()}


@pytest.mark.parametrize(
    ("trainer", "objective"),
    [
        ({"accumulate": 3, "batch_size": 2}, {}),
        ({"lr_schedule": "linear", "max_steps": 4, "warmup_steps": 2, "ema": 0.9}, {}),
        ({"accumulate": 2}, {"inner_updates": 2}),
    ],
)
def test_what_is_measured_is_what_the_trainer_does(
    registry: Registry, trainer: dict[str, Any], objective: dict[str, Any]
) -> None:
    sections = {"objective": {"reward_gradient": objective}}
    bench = Bench(_loaded(registry, trainer=trainer, **sections))
    began = _adapter(bench.assembly)
    other = _loaded(registry, trainer=trainer, **sections)
    other.model.tuning.restore(began)
    own = make_trainer(other, SingleProcess(CPU), None)
    losses = []
    with timed_parts(bench.assembly, Stopwatch(CPU)):
        found = [bench.step(number, Stopwatch(CPU)) for number in range(2)]
    found.append(bench.step(2, SilentStopwatch(CPU)))
    for _ in range(3):
        own.train_step()
        losses.append(own.last_loss)
    assert found == losses
    measured, trained = _adapter(bench.assembly), _adapter(other)
    assert all(torch.equal(measured[name], value) for name, value in trained.items())
    assert not any(torch.equal(measured[name], value) for name, value in began.items())


def test_a_step_with_accumulation_is_timed_with_all_its_micro_steps(registry: Registry) -> None:
    bench = Bench(_loaded(registry, trainer={"accumulate": 8}, sampler={"num_steps": 3}))
    stopwatch = _Counting()
    with timed_parts(bench.assembly, stopwatch):
        bench.step(0, stopwatch)
    assert stopwatch.phases["no-grad steps"] == 8 * 2
    assert stopwatch.phases["differentiated steps"] == 8
    assert stopwatch.phases["decode"] == stopwatch.phases["reward"] == stopwatch.phases["backward"] == 8
    assert stopwatch.phases["optimizer"] == 1
    assert set(stopwatch.phases) <= set(PHASES)


@pytest.mark.parametrize("accumulate", [1, 8])
def test_the_command_measures_every_micro_step(
    vader: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, accumulate: int
) -> None:
    micro, steps, drawn = [], [], []
    step, train_step = RewardGradient.step, Trainer.train_step

    def stepped(self: Any, model: Any, prepared: Any, *rest: Any) -> Any:
        micro.append(len(prepared.batch))
        drawn.extend(prepared.batch.rng.samples)
        return step(self, model, prepared, *rest)

    monkeypatch.setattr(RewardGradient, "step", stepped)
    monkeypatch.setattr(Trainer, "train_step", lambda self: steps.append(self.step) or train_step(self))
    command = ["bench", "--backbone", "tiny", "--reward", "brightness", "--device", "cpu", "--steps", "1"]
    command += ["--max-steps", "5", "--batch-size", "2", "-o", f"trainer.accumulate={accumulate}"]
    assert vader(*command, "--no-operations", "--out", tmp_path / "bench.json") == 0
    found = json.loads((tmp_path / "bench.json").read_text())
    assert steps == [0, 1, 2]  # warm-up, as a whole, by phase
    assert micro == [2] * (3 * accumulate)
    assert drawn == list(range(2 * 3 * accumulate))
    assert len(found["losses"]) == 3
    assert found["plan"]["effective_batch"] == 2 * accumulate
    assert found["training_seconds"] == 5 * found["seconds_per_step"]


def test_the_profiled_prediction_is_whole(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    shortened = {"guidance_cache": 2, "fold_adapter": True}
    bench = Bench(_loaded(registry, trainer={"batch_size": 2}, performance=shortened))
    (folding,) = bench.assembly.model.levers
    seen = []
    predict = TinyBackbone.predict

    def noted(self: Any, latents: Tensor, *given: Any) -> Any:
        seen.append((len(latents), folding.folded))
        return predict(self, latents, *given)

    monkeypatch.setattr(TinyBackbone, "predict", noted)
    found = bench.kernels()
    assert seen == [(4, True)] * 3  # both branches of two samples
    assert not folding.folded
    assert found["launches"] > 0
    assert torch.is_grad_enabled()


def test_no_text_is_encoded_while_steps_are_timed(vader, monkeypatch, capsys):
    """A run encodes all its texts before the first step, so a step's time holds no encoder."""
    encoded: list[bool] = []
    encode = TinyBackbone.encode_texts
    measuring: list[bool] = []
    measure = Bench.measure

    def counted(self: TinyBackbone, texts: Any) -> Any:
        encoded.append(bool(measuring))
        return encode(self, texts)

    def measured(self: Bench, *given: Any, **more: Any) -> Any:
        measuring.append(True)
        return measure(self, *given, **more)

    monkeypatch.setattr(TinyBackbone, "encode_texts", counted)
    monkeypatch.setattr(Bench, "measure", measured)
    arguments = ["bench", "--backbone", "tiny", "--reward", "brightness", "--prompts", "animal", "--json"]
    assert vader(*arguments, "--steps", 2, "--num-steps", 2, "--device", "cpu", "--no-operations") == 0
    assert encoded
    assert not any(encoded)
