"""What a person, or a program, sees of a run while it goes."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import click


def print_plan(facts: Mapping[str, Any], *, as_json: bool) -> None:
    """The plan as a table, or as one JSON object."""
    if as_json:
        click.echo(json.dumps(dict(facts)))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from vader_core.data.summary import from_dict

    table = Table(title="plan", show_header=False, box=None, pad_edge=False)
    for name, value in facts.items():
        if name == "data":
            value = from_dict(value).table()
        table.add_row(name.replace("_", " "), Text(_shown(value)))  # brackets are no markup here
    Console().print(table)


def _shown(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_shown(inner)}" for name, inner in value.items())
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


class ProgressListener:
    """A live line: reward, loss, gradient norm, seconds per step, time left, memory."""

    def __init__(self, max_steps: int) -> None:
        from rich.console import Console

        self.console = Console(stderr=True)
        self.max_steps = max_steps
        self._status: Any = None
        self._durations: list[float] = []
        self._alarms: list[str] = []

    def __enter__(self) -> ProgressListener:
        self._status = self.console.status("loading …")
        self._status.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._status.stop()

    def plan(self, facts: Mapping[str, Any]) -> None:
        """A line on what begins."""
        gradient = f" · gradient {facts['gradient']}" if facts["gradient"] else ""
        reward = f"reward {facts['rewards']}" if facts["rewards"] else f"{facts['objective']}"
        modules = f" in {facts['lora_modules']} modules" if facts["tuning"] == "lora" else ""
        self.console.print(
            f"[bold]{facts['backbone']}[/] · {facts['video']} · {facts['sampler']}{gradient}\n"
            f"{reward} · {facts['trainable_parameters']:,} trainable parameters{modules} · batch "
            f"{facts['effective_batch']} · {facts['steps']} steps · "
            f"{facts['precision']} on {facts['device']}",
            highlight=False,
        )

    def record(self, record: Mapping[str, Any]) -> None:
        """Update the line; print a validation."""
        if record["kind"] == "train":
            self._train(record)
        elif record["kind"] == "validation":
            self._alarms = list(record["alarms"])
            scores = {**record["rewards"], **record["monitors"]}
            watched = record.get("watch", {})
            if "held_out_loss" in watched:
                scores["held-out loss"] = watched["held_out_loss"]
            shown = "  ".join(f"{name} {value:.4g}" for name, value in scores.items())
            self.console.print(f"step {record['step']:>4}  validation  {shown}", highlight=False)

    def _train(self, record: Mapping[str, Any]) -> None:
        self._durations.append(float(record["seconds"]))
        recent = self._durations[-20:]
        pace = sum(recent) / len(recent)
        left = pace * (self.max_steps - int(record["step"]))
        rewards = "  ".join(f"{name} {value:.4g}" for name, value in record["rewards"].items())
        text = (
            f"step {record['step']}/{self.max_steps}  {rewards}  loss {record['loss']:.4g}  "
            f"grad {record['grad_norm']:.3g}  {pace:.2f} s/step  {clock(left)} left  "
            f"{record['memory_gib']:.1f} GiB{'  SKIPPED' if record['skipped'] else ''}"
            f"{'  ALARM ' + ', '.join(self._alarms) if self._alarms else ''}"
        )
        if self.console.is_terminal:
            self._status.update(text)
        else:
            self.console.print(text, highlight=False)

    def say(self, message: str) -> None:
        """A line of its own."""
        self.console.print(message, highlight=False, markup=False)

    def finish(self, summary: Mapping[str, Any], out: Path) -> None:
        """The result."""
        from vader_core.api.train import summary_lines

        for line in summary_lines(summary):
            self.console.print(line, highlight=False, markup=False)
        self.console.print(f"report: {out / 'report.html'}", highlight=False, markup=False)


def clock(seconds: float) -> str:
    """Minutes and seconds, with hours where there are some."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


class JsonListener:
    """One JSON object a line on standard output."""

    def __enter__(self) -> JsonListener:
        self.begun = time.time()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def _print(self, record: Mapping[str, Any]) -> None:
        click.echo(json.dumps(dict(record)))

    def plan(self, facts: Mapping[str, Any]) -> None:
        """The plan, as ``{"kind": "plan", …}``."""
        self._print({"kind": "plan", **facts})

    def record(self, record: Mapping[str, Any]) -> None:
        """The record as it is."""
        self._print(record)

    def say(self, message: str) -> None:
        """``{"kind": "message", …}``."""
        self._print({"kind": "message", "message": message})

    def finish(self, summary: Mapping[str, Any], out: Path) -> None:
        """``{"kind": "summary", …}``."""
        self._print({"kind": "summary", "out": str(out), **summary})


class QuietListener(JsonListener):
    """The result alone, and what a person must read."""

    def plan(self, facts: Mapping[str, Any]) -> None:
        """Not shown."""

    def record(self, record: Mapping[str, Any]) -> None:
        """Not shown."""

    def say(self, message: str) -> None:
        """On standard error."""
        click.echo(message, err=True)

    def finish(self, summary: Mapping[str, Any], out: Path) -> None:
        """The result's lines."""
        from vader_core.api.train import summary_lines

        for line in summary_lines(summary):
            click.echo(line)
        click.echo(f"report: {out / 'report.html'}")


class OtherRankListener(QuietListener):
    """Nothing at all: another process speaks."""

    def say(self, message: str) -> None:
        """Not shown."""

    def finish(self, summary: Mapping[str, Any], out: Path) -> None:
        """Not shown."""


def make_listener(
    *, quiet: bool, as_json: bool, max_steps: int
) -> ProgressListener | JsonListener | QuietListener:
    """The listener that the flags ask for; only the first of several processes speaks."""
    if os.environ.get("RANK", "0") != "0":
        return OtherRankListener()
    if as_json:
        return JsonListener()
    return QuietListener() if quiet else ProgressListener(max_steps)
