"""Pages of runs and batches: written to a file, or as what a server puts into its own page."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from vader_core.clip_forms import FORMS
from vader_core.paths import entered
from vader_core.report import batch_body as _batch_body
from vader_core.report import breakable as breakable
from vader_core.report import number as number
from vader_core.report import resource, write_report
from vader_core.report import run_body as _run_body
from vader_core.report.batch import forms_of
from vader_core.run.batch import read_batch
from vader_core.run.record import read_record


def report(run: str | Path) -> Path:
    """Write the web page of a run again, from the run directory alone.

    Returns:
        Its ``report.html``.

    Raises:
        VaderError: Not a run directory, or a file in it that cannot be read.
    """
    return write_report(entered(run))


def run_body(run: str | Path, address: Callable[[Path], str]) -> str:
    """The run's page as HTML without head and script, whether the run has ended or not.

    Args:
        run: The run directory.
        address: The address of a file of it.

    Raises:
        VaderError: As for :func:`report`.
    """
    return _run_body(read_record(entered(run)), address)


def batch_body(folder: str | Path, address: Callable[[Path], str], *, convertible: bool = False) -> str:
    """The clips of a folder that ``sample`` wrote, as HTML without head and script.

    Args:
        folder: The folder.
        address: The address of a file of it.
        convertible: Offer every clip in every form of :func:`~vader_core.clip_forms.convert`, there or not.

    Raises:
        VaderError: It holds no list of clips.
    """
    forms = _every_form if convertible else forms_of
    return _batch_body(read_batch(entered(folder)), address, forms)


def _every_form(clip: Path) -> list[Path]:
    return [clip, *(clip.with_suffix(f".{form}") for form in FORMS)]


def page_style() -> str:
    """The style sheet that the bodies above are made for."""
    return str(resource("style.css"))


def page_script() -> str:
    """The script that plays, enlarges and wipes their clips."""
    return str(resource("controls.js"))
