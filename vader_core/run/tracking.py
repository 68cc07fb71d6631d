"""Who hears of a run's progress beside metrics.jsonl."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol


class Listener(Protocol):
    """Told of every event of a run, on the main process."""

    def plan(self, facts: Mapping[str, Any]) -> None:
        """The run is about to begin."""

    def record(self, record: Mapping[str, Any]) -> None:
        """A line went to metrics.jsonl."""

    def say(self, message: str) -> None:
        """Something a person should read."""


class Silence:
    """A listener that hears nothing."""

    def plan(self, facts: Mapping[str, Any]) -> None:
        """Ignored."""

    def record(self, record: Mapping[str, Any]) -> None:
        """Ignored."""

    def say(self, message: str) -> None:
        """Ignored."""


def flattened(record: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a record under names that trackers show as groups.

    >>> flattened({"kind": "train", "step": 1, "loss": 0.5, "rewards": {"hps": 0.3}})
    {'train/loss': 0.5, 'train/rewards/hps': 0.3}
    """
    kind = record.get("kind", "run")
    found: dict[str, float] = {}
    for name, value in record.items():
        if name in ("kind", "step"):
            continue
        if isinstance(value, Mapping):
            found.update({f"{kind}/{name}/{key}": float(inner) for key, inner in value.items()})
        elif isinstance(value, int | float) and not isinstance(value, bool):
            found[f"{kind}/{name}"] = float(value)
    return found
