"""A run within a notebook: progress while it goes, clips and the report where they belong."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from vader_core.errors import MissingDependencyError, VaderError
from vader_core.paths import entered


def _display() -> Any:
    try:
        from IPython import display
    except ImportError:
        raise MissingDependencyError("IPython", "a notebook", "pip install ipykernel") from None
    return display


class Inline:
    """A listener that shows a run in one line below the cell, and its validations above it.

    Pass it to :func:`vader_core.api.train.train`.
    """

    def __init__(self) -> None:
        self._display = _display()
        self._line = self._display.display(self._display.HTML("starting …"), display_id=True)
        self._steps = 0

    def plan(self, facts: Mapping[str, Any]) -> None:
        """What begins."""
        self._steps = int(facts["steps"])
        self.say(f"{facts['backbone']} · {facts['video']} · {facts['rewards'] or facts['objective']}")

    def record(self, record: Mapping[str, Any]) -> None:
        """A step, or a validation."""
        scores = {**record.get("rewards", {}), **record.get("monitors", {})}
        shown = "  ".join(f"{name} {value:.4g}" for name, value in scores.items())
        if record["kind"] == "train":
            self._show(f"step {record['step']}/{self._steps}  {shown}  {record['seconds']:.2f} s")
        elif record["kind"] == "validation":
            self.say(f"step {record['step']}  validation  {shown}")

    def say(self, message: str) -> None:
        """A line that stays."""
        self._display.display(self._display.HTML(f"<pre>{escape(message)}</pre>"))

    def phase(self, doing: str, done: int, total: int) -> None:
        """How far a phase is."""
        self._show(f"{doing} {done}/{total}" if total else f"{doing} …")

    def _show(self, text: str) -> None:
        self._line.update(self._display.HTML(f"<pre>{escape(text)}</pre>"))


def show_report(run: str | Path, *, height: int = 640) -> Any:
    """The web page of a run, as a notebook shows it.

    Args:
        run: A run directory.
        height: Pixels.

    Raises:
        VaderError: The run has no page yet.
    """
    page = entered(run) / "report.html"
    if not page.is_file():
        raise VaderError(f"{page} is not there: vader report {run} writes it")
    text = escape(page.read_text(encoding="utf-8"), quote=True)
    frame = f'<iframe srcdoc="{text}" style="width:100%;height:{height}px;border:0" sandbox="allow-scripts">'
    return _display().HTML(f"<div>{frame}</iframe></div>")  # IPython warns of a bare frame


def show_clips(clips: Sequence[str | Path], captions: Sequence[str] = (), *, width: int = 160) -> Any:
    """Clips side by side, playing, as a notebook shows them; they are held in the notebook itself.

    Args:
        clips: mp4 files.
        captions: One per clip, or none.
        width: Pixels of each.
    """
    tiles = []
    for number, clip in enumerate(clips):
        data = base64.b64encode(entered(clip).read_bytes()).decode()
        caption = escape(captions[number]) if number < len(captions) else ""
        tiles.append(
            f'<figure style="display:inline-block;margin:4px;width:{width}px;vertical-align:top">'
            f'<video src="data:video/mp4;base64,{data}" width="{width}" autoplay loop muted playsinline>'
            "</video>"
            f"<figcaption>{caption}</figcaption></figure>"
        )
    return _display().HTML("".join(tiles))
