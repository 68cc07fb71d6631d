"""The page: a run directory in, ``report.html`` out."""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from vader_core.files import replacing
from vader_core.printable import printable
from vader_core.report.clips import Gallery, Source, embedded, gallery
from vader_core.report.curves import breakable
from vader_core.report.figures import (
    evaluation_rows,
    reward_charts,
    timings,
    training_charts,
    watch_charts,
    watched_rows,
)
from vader_core.report.headline import aligned, cards, commands, facts, glossary, sentence
from vader_core.report.numbers import number
from vader_core.run.record import Record
from vader_core.run.staged_record import read_run

NAME = "report.html"


def write_report(run_directory: Path) -> Path:
    """Write the run's page from the run directory alone.

    Args:
        run_directory: What the run has not written yet is left out of the page.

    Returns:
        ``report.html`` in it: no request to anywhere, clips inside, readable without scripts. Whatever the
        run's files say is shown as text, never as markup; what cannot be shown is named at the end.

    Raises:
        VaderError: Not a run directory, or a file in it that cannot be read.
    """
    record = read_run(Path(run_directory))
    path = record.folder / NAME
    with replacing(path) as beside:
        beside.write_text(page(record), encoding="utf-8")
    return path


def page(record: Record) -> str:
    """The page as text."""
    return rendered("page.html", **_told(record, embedded))


def run_body(record: Record, source: Source) -> str:
    """What stands between the page's beginning and end, for a page that is served.

    Args:
        record: The run.
        source: The address of each clip.
    """
    return fragment("run.html", **_told(record, source))


def fragment(template: str, **told: Any) -> str:
    """A part of a page."""
    return _templates().get_template(template).render(**told)


def _told(record: Record, source: Source) -> dict[str, Any]:
    clips: Gallery | None = gallery(record, source)
    return {
        "record": record,
        "aligned": aligned(record),
        "sentence": sentence(record),
        "glossary": glossary(record),
        "commands": commands(record),
        "facts": facts(record),
        "cards": cards(record),
        "clips": clips,
        "evaluation": evaluation_rows(record),
        "reward_charts": reward_charts(record),
        "watch_charts": watch_charts(record),
        "watched": watched_rows(record),
        "training_charts": training_charts(record),
        "timings": timings(record),
        "environment": {name.replace("_", " "): value for name, value in record.environment.items()},
        "omissions": record.omissions + (clips.unreadable if clips else []),
    }


def rendered(template: str, **told: Any) -> str:
    """A whole page: one file with its style sheet, its script and its policy."""
    style, script = resource("style.css"), resource("controls.js")
    policy = _policy(style, script)
    return _templates().get_template(template).render(policy=policy, style=style, script=script, **told)


@cache
def _templates() -> Environment:
    """The templates. Everything is escaped but ``Markup``, which is made of this package's own text alone.

    What cannot stand in a page (half a surrogate pair of a file's name) is replaced, wherever it came from.
    """
    environment = Environment(
        loader=PackageLoader("vader_core.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=lambda value: printable(value) if type(value) is str else value,
    )
    environment.filters["number"] = number
    environment.filters["breakable"] = breakable
    return environment


@cache
def resource(name: str) -> Markup:
    """A file of this package that goes into pages as it is."""
    return Markup(resources.files(__package__).joinpath(name).read_text(encoding="utf-8"))


def _policy(style: str, script: str) -> str:
    """The content security policy: this style sheet, this script, and clips from within or beside."""
    hashes = (
        base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii") for text in (style, script)
    )
    styles, scripts = (f"'sha256-{one}'" for one in hashes)
    return (
        f"default-src 'none'; style-src {styles}; script-src {scripts}; media-src data: 'self'; "
        "img-src data: 'self'; base-uri 'none'; form-action 'none'"
    )
