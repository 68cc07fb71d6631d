"""What a person, or a program, sees of a run while it goes."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import click

from vader_core.progress import counted

#: Seconds between two lines of one phase where the output is no terminal.
QUIET_SECONDS = 30.0


class PhaseLine:
    """One line on standard error for what is being done: how far it is, its pace, the time left.

    In a terminal the line changes in its place. Elsewhere a line is printed when a phase of several begins,
    and again from time to time.

    Args:
        quiet: Show nothing.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        from rich.console import Console

        self.console = Console(stderr=True, quiet=quiet)
        self._status: Any = None
        self._what: tuple[str, int] = ("", 0)
        self._begun = self._told = 0.0

    def __enter__(self) -> PhaseLine:
        self._status = self.console.status("starting …")
        self._status.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._status.stop()

    def __call__(self, doing: str, done: int, total: int) -> None:
        """As :data:`vader_core.progress.Progress`."""
        now = time.monotonic()
        # "checking scores 5/15" goes on with "checking options 2/15"
        what = (doing.partition(" ")[0], total) if total else (doing, 0)
        begins = what != self._what or done == 0
        if begins:
            self._what, self._begun, self._told = what, now, now
        text = phase_words(doing, done, total, now - self._begun)
        if self.console.is_terminal:
            self._status.update(text)
        elif (begins and total > 1) or now - self._told > QUIET_SECONDS:
            self._told = now
            self.say(text)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Within, the line is away: something else is written."""
        self._status.stop()
        try:
            yield
        finally:
            self._status.start()

    def say(self, message: str) -> None:
        """A line of its own, never broken: who reads it in a file can search it."""
        self.console.print(message, highlight=False, markup=False, soft_wrap=True)

    def show(self, text: str) -> None:
        """The line as it is to be: in its place in a terminal, else a line of its own."""
        self._what = ("", 0)
        if self.console.is_terminal:
            self._status.update(text)
        else:
            self.say(text)


def phase_words(doing: str, done: int, total: int, seconds: float) -> str:
    """A phase's line.

    >>> phase_words("validating", 3, 8, 6.0)
    'validating 3/8  2.0 s each  0:10 left'
    >>> phase_words("loading the model", 0, 0, 1.0)
    'loading the model …'
    """
    if not total:
        return f"{doing} …"
    if not done:
        return f"{doing} 0/{total:,}"
    each = seconds / done
    return f"{doing} {done:,}/{total:,}  {each:.1f} s each  {clock(each * (total - done))} left"


class ProgressListener(PhaseLine):
    """A live line: reward, loss, gradient norm, seconds per step, time left, memory."""

    def __init__(self, max_steps: int) -> None:
        super().__init__()
        self.max_steps = max_steps
        self._durations: list[float] = []
        self._alarms: list[str] = []

    def __enter__(self) -> ProgressListener:
        super().__enter__()
        return self

    def phase(self, doing: str, done: int, total: int) -> None:
        """How far a phase is."""
        self(doing, done, total)

    def plan(self, facts: Mapping[str, Any]) -> None:
        """A line on what begins."""
        gradient = f" · gradient {facts['gradient']}" if facts["gradient"] else ""
        reward = f"reward {facts['rewards']}" if facts["rewards"] else f"{facts['objective']}"
        modules = f" in {facts['lora_modules']} modules" if facts["tuning"] == "lora" else ""
        self.console.print(
            f"[bold]{facts['backbone']}[/] · {facts['video']} · {facts['sampler']}{gradient}\n"
            f"{reward} · {facts['trainable_parameters']:,} trainable parameters{modules} · batch "
            f"{facts['effective_batch']} · {counted(facts['steps'], 'step')} · "
            f"{facts['precision']} on {facts['device']}",
            highlight=False,
            soft_wrap=True,
        )
        if facts["held_out_prompts"] == 0:
            self.say("no prompt is held out: validation and evaluation use those that are trained on")

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
            if shown:
                self.say(f"step {record['step']:>4}  validation  {shown}")

    def _train(self, record: Mapping[str, Any]) -> None:
        self._durations.append(float(record["seconds"]))
        recent = self._durations[-20:]
        pace = sum(recent) / len(recent)
        left = pace * (self.max_steps - int(record["step"]))
        rewards = "".join(f"  {name} {value:.4g}" for name, value in record["rewards"].items())
        text = (
            f"step {record['step']}/{self.max_steps}{rewards}{_loss_words(record)}  "
            f"grad {record['grad_norm']:.3g}  {pace:.2f} s/step  {clock(left)} left  "
            f"{record['memory_gib']:.1f} GiB{'  SKIPPED' if record['skipped'] else ''}"
            f"{'  ALARM ' + ', '.join(self._alarms) if self._alarms else ''}"
        )
        self.show(text)

    def finish(self, summary: Mapping[str, Any], out: Path) -> None:
        """The result."""
        from vader_core.api.train import summary_lines

        for line in summary_lines(summary):
            self.say(line)
        self.say(f"report: {out / 'report.html'}")


def _loss_words(record: Mapping[str, Any]) -> str:
    """The loss, unless it is a single reward's with the sign turned, which says it already."""
    scores, loss = list(record["rewards"].values()), record["loss"]
    if len(scores) == 1 and abs(scores[0] + loss) <= 1e-5 * max(1.0, abs(loss)):
        return ""
    return f"  loss {loss:.4g}"


def clock(seconds: float) -> str:
    """Minutes and seconds, with hours where there are some."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


class JsonListener:
    """One JSON object per line on standard output."""

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

    def phase(self, doing: str, done: int, total: int) -> None:
        """``{"kind": "phase", …}``."""
        self._print({"kind": "phase", "doing": doing, "done": done, "total": total})

    def finish(self, summary: Mapping[str, Any], out: Path) -> None:
        """``{"kind": "summary", …}``."""
        self._print({"kind": "summary", "out": str(out), **summary})


class QuietListener(JsonListener):
    """The result alone, and what a person must read."""

    def plan(self, facts: Mapping[str, Any]) -> None:
        """Not shown."""

    def record(self, record: Mapping[str, Any]) -> None:
        """Not shown."""

    def phase(self, doing: str, done: int, total: int) -> None:
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
