"""Seconds and peak memory by phase of a step."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from vader_core.assembly.parts import Assembly
from vader_core.device import peak_gib, reset_peak
from vader_core.method.mixture import FrameChoice, Mixture, MixtureOutput
from vader_core.randomness import Randomness
from vader_core.training.optimizer import Updates

PHASES = (
    "text",
    "no-grad steps",
    "differentiated steps",
    "decode",
    "reward",
    "backward",
    "optimizer",
    "other",
)


class Stopwatch:
    """Seconds by phase; the device is synchronised at each boundary.

    Args:
        device: Whose work is timed.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds: dict[str, float] = defaultdict(float)
        self.peaks: dict[str, float] = defaultdict(float)

    def now(self) -> float:
        """Wall-clock seconds with the device idle."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Within, time and peak memory count for ``name``; memory before it counts for ``other``."""
        begun = self.now()
        self.note_peak("other")
        yield
        self.seconds[name] += self.now() - begun
        self.note_peak(name)

    def note_peak(self, name: str) -> None:
        """Count the peak since the last call for ``name``."""
        self.peaks[name] = max(self.peaks[name], self.take_peak())

    def take_peak(self) -> float:
        """The peak memory in GiB since the last call."""
        found = peak_gib(self.device)
        reset_peak(self.device)
        return found

    def wrap(self, function: Callable[..., Any], name: Callable[[], str]) -> Callable[..., Any]:
        """``function``, timed under the phase that ``name`` gives at the call."""

        def timed(*args: Any, **kwargs: Any) -> Any:
            with self.phase(name()):
                return function(*args, **kwargs)

        return timed


class SilentStopwatch(Stopwatch):
    """A stopwatch whose phases cost nothing."""

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Does nothing."""
        yield


class _TimedMixture(Mixture):
    """A mixture whose scoring is timed."""

    def __call__(self, video: Tensor, frames: FrameChoice, prompts: Any, rng: Randomness) -> MixtureOutput:
        """Score, timed as ``reward``."""
        with self.stopwatch.phase("reward"):  # type: ignore[attr-defined]
            return super().__call__(video, frames, prompts, rng)


@contextmanager
def timed_parts(assembly: Assembly, stopwatch: Stopwatch) -> Iterator[None]:
    """Within, the backbone's calls and the rewards are timed."""
    backbone, objective = assembly.backbone, assembly.objective
    assert objective is not None
    names: dict[str, Callable[[], str]] = {
        "encode_text": lambda: "text",
        "predict": lambda: "differentiated steps" if torch.is_grad_enabled() else "no-grad steps",
        "decode": lambda: "decode",
    }
    before = {name: vars(backbone).get(name) for name in names}
    for name, phase in names.items():
        setattr(backbone, name, stopwatch.wrap(getattr(backbone, name), phase))
    rewards = _TimedMixture(assembly.rewards.terms)
    object.__setattr__(rewards, "stopwatch", stopwatch)
    objective.use(rewards)
    try:
        yield
    finally:
        objective.use(assembly.rewards)
        for name, own in before.items():
            delattr(backbone, name)
            if own is not None:
                setattr(backbone, name, own)


@contextmanager
def timed_updates(updates: Updates, stopwatch: Stopwatch) -> Iterator[None]:
    """Within, backward passes and optimizer steps are timed."""
    processes = updates.processes
    own = {"backward": processes.backward, "finish": updates.finish}
    processes.backward = stopwatch.wrap(processes.backward, lambda: "backward")  # type: ignore[method-assign]
    updates.finish = stopwatch.wrap(updates.finish, lambda: "optimizer")  # type: ignore[method-assign]
    try:
        yield
    finally:
        processes.backward = own["backward"]  # type: ignore[method-assign,assignment]
        updates.finish = own["finish"]  # type: ignore[method-assign]
