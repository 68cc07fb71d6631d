"""Where a run's events go: its metrics file, the trackers, whoever listens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from vader_core.run.directory import Run
from vader_core.run.tracking import Listener, Silence, Trackers
from vader_core.training.processes import SingleProcess


class Journal:
    """Writes on the first process; the others are silent.

    Args:
        processes: Say which is the first.
        run: The run directory; ``None`` writes nothing.
        listener: Hears of everything.
        trackers: Names of the trackers that write into the run.
    """

    def __init__(
        self,
        processes: SingleProcess,
        run: Run | None = None,
        listener: Listener | None = None,
        trackers: Sequence[str] = (),
    ) -> None:
        self.processes = processes
        self.run = run if processes.first else None
        self.trackers = None if self.run is None else Trackers(self.run.folder, trackers)
        self.listener = listener or Silence()

    def record(self, record: Mapping[str, Any]) -> None:
        """A line of ``metrics.jsonl``."""
        if not self.processes.first:
            return
        if self.run is not None:
            self.run.append(record)
        if self.trackers is not None:
            self.trackers.record(record)
        self.listener.record(record)

    def say(self, message: str) -> None:
        """Something a person should read."""
        if self.processes.first:
            self.listener.say(message)

    def close(self) -> None:
        """The run is over."""
        if self.trackers is not None:
            self.trackers.close()
