"""A registry with the testing plugin, and the command line over it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from levered import Net

from vader_core.registry import Registry, load_registry
from vader_core.testing.plugin import add_testing_plugin


@pytest.fixture(scope="session")
def registry() -> Registry:
    return add_testing_plugin(load_registry())


@pytest.fixture
def vader(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Run a command in process, with the testing plugin installed; returns the exit code."""
    import vader_core.registry
    from vader_core.cli import run

    def call(*arguments: Any) -> int:
        import importlib

        for name in ("train", "sample", "evaluate", "compare", "config", "bench", "gradient_norms"):
            module = importlib.import_module(f"vader_core.cli.{name}")
            monkeypatch.setattr(module, "load_registry", lambda: registry)
        monkeypatch.setattr(vader_core.registry, "load_registry", lambda: registry)
        return run(later_wins([str(argument) for argument in arguments]))

    return call


def later_wins(words: list[str]) -> list[str]:
    """A test's own flags in place of its base's: the command line refuses a flag that is given twice."""
    found: list[str] = []
    for place, word in enumerate(words):
        again = word in words[place + 1 :]
        value = place > 0 and words[place - 1] in ONCE and words[place - 1] in words[place:]
        if not (word in ONCE and again) and not value:
            found.append(word)
    return found


#: Flags that tests give in their base and again.
ONCE = (
    "--max-steps", "--num-steps", "--lr", "--keep", "--out", "--prompts", "--seed", "--batch-size", "--tune",
    "--num-frames", "--height", "--width", "--fps", "--backbone", "--gradient", "--guidance-scale", "--guard",
    "--reward-frames", "--device", "--precision", "--weights", "--accumulate", "--data", "--lora-rank",
    "--sampler",
)  # fmt: skip


@pytest.fixture
def net() -> Iterator[Net]:
    """A small network in float64, the same for every test."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield Net().double()
