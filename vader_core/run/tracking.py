"""Who hears of a run's progress beside metrics.jsonl."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from vader_core.errors import MissingDependencyError


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


class LaterListener:
    """Tells another listener of a stage's events, its steps counted on from the stages before.

    Args:
        listener: Who is told.
        before: Steps of the stages before.
    """

    def __init__(self, listener: Listener, before: int) -> None:
        self.listener, self.before = listener, before

    def plan(self, facts: Mapping[str, Any]) -> None:
        """Handed on."""
        self.listener.plan(facts)

    def record(self, record: Mapping[str, Any]) -> None:
        """Handed on, with the step of the whole run."""
        self.listener.record({**record, "step": record["step"] + self.before})

    def say(self, message: str) -> None:
        """Handed on."""
        self.listener.say(message)


class Trackers:
    """Sends a run's numbers to tensorboard and wandb.

    Args:
        folder: The run directory.
        names: Which trackers.

    Raises:
        MissingDependencyError: One that is not installed.
    """

    def __init__(self, folder: Path, names: Sequence[str]) -> None:
        require_trackers(names)
        self._board: Any = None
        self._wandb: Any = None
        if "tensorboard" in names:
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(str(folder / "vader"))
        if "wandb" in names:
            import wandb

            self._wandb = wandb.init(project="vader", dir=str(folder), name=folder.name)

    def record(self, record: Mapping[str, Any]) -> None:
        """Send a record's numbers."""
        numbers, step = flattened(record), int(record["step"])
        if self._board is not None:
            for name, value in numbers.items():
                self._board.add_scalar(name, value, step)
            self._board.flush()
        if self._wandb is not None and numbers:
            self._wandb.log(numbers, step=step)

    def close(self) -> None:
        """The run is over."""
        if self._board is not None:
            self._board.close()
        if self._wandb is not None:
            self._wandb.finish()


def require_trackers(names: Sequence[str]) -> None:
    """Refuse a tracker that is not installed.

    Raises:
        MissingDependencyError: With the line that installs it.
    """
    if "wandb" in names and find_spec("wandb") is None:
        raise MissingDependencyError("wandb", "run.trackers=[wandb]", "pip install wandb")


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
