"""The page: a manifest in, ``report.html`` out."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from vader_core.errors import VaderError
from vader_core.files import replacing
from vader_core.printable import printable

from ..filtering import STAGE, passes
from ..manifest import Manifest, Row, read_manifest, reasons
from ..plan import Plan, ScorerPlan
from ..run_folder import timings_of
from .histogram import histogram, number
from .previews import preview

NAME = "report.html"

#: Clips shown on each side of a threshold, and kept clips shown with their captions.
_NEAR, _CAPTIONED = 4, 12


def write_report(folder: Path) -> Path:
    """Write a run's page, or a manifest's, from what lies in its folder.

    Returns:
        ``report.html``: one file with everything in it, no request to anywhere, readable without scripts.

    Raises:
        VaderError: There is no manifest.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    path = manifest.folder / NAME
    with replacing(path) as beside:
        beside.write_text(page(manifest, _timings(manifest.folder)), encoding="utf-8")
    return path


def _timings(folder: Path) -> dict[str, dict[str, float]]:
    if not (folder / "sources.json").is_file():
        return {}
    return timings_of(folder)


def page(manifest: Manifest, timings: dict[str, dict[str, float]]) -> str:
    """The page as text.

    Args:
        manifest: With the plan among its facts, where a run wrote it.
        timings: Seconds, seconds of decoding, frames and clips by step; may be empty.

    Raises:
        VaderError: The plan is none.
    """
    try:
        plan = Plan.model_validate(manifest.facts.get("plan", {}))
    except ValidationError as error:
        raise VaderError(
            f"{manifest.folder}: the plan is none that a run wrote ({error.error_count()} mistakes)"
        ) from error
    name = escape(printable(manifest.folder.resolve().name))
    sections = (
        _head(manifest, plan, name),
        _stages(manifest.rows),
        _reasons(manifest.rows),
        *(_score(manifest, column, plan.scorers.get(column)) for column in manifest.scores),
        _captions(manifest),
        _times(timings),
        _plan(plan),
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{name}: footage to clips</title><style>{_resource('style.css')}</style></head>\n<body>"
        f"{''.join(sections)}<script>{_resource('play.js')}</script></body></html>\n"
    )


def _resource(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


# -- the top -----------------------------------------------------------------------------------------------


def _head(manifest: Manifest, plan: Plan, name: str) -> str:
    clips = [row for row in manifest.rows if row["type"] != "image"]
    kept = [row for row in clips if not row["reject_reason"]]
    images = sum(row["type"] == "image" and not row["reject_reason"] for row in manifest.rows)
    films = len({row["source"] for row in clips})
    found, left = _seconds(clips), _seconds(kept)
    cards = [
        (str(films), "film" if films == 1 else "films"),
        (str(len(clips)), f"clips found, {_duration(found)}"),
        (str(len(kept)), f"clips kept, {_duration(left)}"),
        (f"{left / found:.0%}" if found else "–", "of the footage kept"),
    ]
    if images:
        cards.append((str(images), "images"))
    shown = "".join(f'<div class="card"><b>{escape(value)}</b>{escape(what)}</div>' for value, what in cards)
    preset = f"preset {escape(plan.preset)}" if plan.preset else "a manifest made by hand"
    return f'<header><h1>{name}</h1><p class="soft">{preset}</p><div class="cards">{shown}</div></header>'


def _seconds(rows: Sequence[Row]) -> float:
    return sum(row["duration"] or 0.0 for row in rows)


def _duration(seconds: float) -> str:
    """Words for a length of time.

    >>> _duration(75.0), _duration(4000.0)
    ('1 min 15 s', '1 h 6 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def _stages(rows: Sequence[Row]) -> str:
    left = len(rows)
    stages: dict[str, int] = {}
    for row in rows:
        if row["reject_reason"]:
            stages[row["reject_stage"]] = stages.get(row["reject_stage"], 0) + 1
    lines = []
    for stage, count in sorted(stages.items(), key=lambda item: _place(item[0])):
        left -= count
        bar = f'<span class="bar" style="width:{8 * left / len(rows):.2f}rem"></span>'
        lines.append(f"<tr><td>{escape(stage)}</td><td>{count}</td><td>{left}</td><td>{bar}</td></tr>")
    body = "".join(lines) or '<tr><td colspan="4">Nothing was rejected.</td></tr>'
    return (
        '<section id="stages"><h2>What each stage left</h2><div class="scroll"><table><thead><tr>'
        f"<th>stage</th><th>rejected</th><th>left</th><th></th></tr></thead><tbody>{body}</tbody></table></div></section>"
    )


_ORDER = ("cut", "score", STAGE, "dedup", "images", "caption")


def _place(stage: str) -> tuple[int, str]:
    first = stage.partition(" ")[0]
    return (_ORDER.index(first) if first in _ORDER else len(_ORDER), stage)


def _reasons(rows: Sequence[Row]) -> str:
    found = sorted(reasons(rows), key=lambda line: (_place(line[0]), -line[2]))
    if not found:
        return ""
    most = max(count for _, _, count in found)
    lines = [
        f"<tr><td>{escape(stage)}</td><td>{escape(why)}</td><td>{count} "
        f'<span class="bar out" style="width:{6 * count / most:.2f}rem"></span></td></tr>'
        for stage, why, count in found
    ]
    return (
        '<section id="reasons"><h2>Why clips were rejected</h2><div class="scroll"><table class="words">'
        "<thead><tr><th>stage</th><th>reason</th><th>clips</th></tr>"
        f"</thead><tbody>{''.join(lines)}</tbody></table></div></section>"
    )


# -- scores ------------------------------------------------------------------------------------------------


def _score(manifest: Manifest, name: str, bounds: ScorerPlan | None) -> str:
    bounds = bounds or ScorerPlan(scorer="")
    scored = [row for row in manifest.rows if row.get(name) is not None]
    figure = histogram(name, [row[name] for row in scored], bounds.min, bounds.max)
    if not figure:
        return ""
    sides = [
        _threshold(scored, name, bound, bounds, manifest.folder)
        for bound in (bounds.min, bounds.max)
        if bound is not None
    ]
    if not sides:
        extremes = sorted(scored, key=lambda row: row[name])
        low, high = extremes[:_NEAR], extremes[_NEAR:][-_NEAR:]
        sides = [_sides("the lowest", low, "the highest", high, name, manifest.folder)]
    return f'<section class="score"><h2>{escape(name)}</h2>{figure}{"".join(sides)}</section>'


def _threshold(scored: Sequence[Row], name: str, bound: float, bounds: ScorerPlan, folder: Path) -> str:
    is_max = bound == bounds.max
    below = sorted((row for row in scored if row[name] < bound), key=lambda row: -row[name])
    above = sorted((row for row in scored if row[name] > bound), key=lambda row: row[name])
    equal = [row for row in scored if row[name] == bound]
    if passes(bound, bounds) == is_max:
        below = equal + below
    else:
        above = equal + above
    verdicts = ("kept", "rejected") if is_max else ("rejected", "kept")
    words = [
        f"{side} {number(bound)}: {verdict}"
        for side, verdict in zip(("below", "above"), verdicts, strict=True)
    ]
    return _sides(words[0], below[:_NEAR], words[1], above[:_NEAR], name, folder)


def _sides(left: str, low: Sequence[Row], right: str, high: Sequence[Row], name: str, folder: Path) -> str:
    halves = []
    for title, rows in ((left, low), (right, high)):
        clips = "".join(_clip(row, f"{name} {number(row[name])}", folder) for row in rows)
        halves.append(f'<div><h3>{escape(title)}</h3><div class="clips">{clips or "none"}</div></div>')
    return f'<div class="sides">{"".join(halves)}</div>'


def _clip(row: Row, told: str, folder: Path, words: str = "") -> str:
    address = preview(row, folder)
    film = (
        f'<video muted loop playsinline controls preload="auto" src="{address}"></video>'
        if address
        else '<div class="none">the film is not there any more</div>'
    )
    fate = f" · {row['reject_reason']}" if row["reject_reason"] else ""
    quoted = f"<q>{escape(words)}</q>" if words else ""
    return (
        f'<figure class="clip">{film}<figcaption>{quoted}{escape(told)}'
        f'<br><span title="{escape(row["id"], quote=True)}">{escape(_short(row["id"]))}</span>{escape(fate)}'
        "</figcaption></figure>"
    )


def _short(text: str, most: int = 42) -> str:
    return text if len(text) <= most else f"…{text[-most + 1 :]}"


# -- the rest ----------------------------------------------------------------------------------------------


def _captions(manifest: Manifest) -> str:
    kept = [row for row in manifest.kept() if row["text"]]
    if not kept:
        return ""
    step = max(len(kept) / _CAPTIONED, 1.0)
    chosen = [kept[int(place * step)] for place in range(min(_CAPTIONED, len(kept)))]
    shown = "".join(_clip(row, row["type"], manifest.folder, row["text"]) for row in chosen)
    lengths = sorted(len(row["text"].split()) for row in kept)
    told = (
        f"{len(kept)} captions of {lengths[0]} to {lengths[-1]} words, median {lengths[len(lengths) // 2]}."
    )
    return (
        f'<section id="captions"><h2>Captions</h2><p class="soft">{told}</p>'
        f'<div class="clips wide">{shown}</div></section>'
    )


def _times(timings: dict[str, dict[str, float]]) -> str:
    if not timings:
        return ""
    lines = []
    for step, found in timings.items():
        seconds = found["seconds"]
        pace = found["clips"] / seconds if seconds else 0.0
        share = found["decoding"] / seconds if seconds else 0.0
        lines.append(
            f"<tr><td>{escape(step)}</td><td>{int(found['clips'])}</td><td>{seconds:.2f}</td><td>{pace:.1f}</td>"
            f"<td>{share:.0%}</td><td>{int(found['frames'])}</td></tr>"
        )
    return (
        '<section id="times"><h2>What it took</h2><div class="scroll"><table>'
        "<thead><tr><th>step</th><th>clips</th>"
        "<th>seconds</th><th>clips per second</th><th>decoding</th><th>frames</th></tr></thead>"
        f"<tbody>{''.join(lines)}</tbody></table></div></section>"
    )


def _plan(plan: Plan) -> str:
    tree: dict[str, Any] = plan.model_dump(mode="json")
    text = escape(yaml.safe_dump(tree, sort_keys=False, allow_unicode=True))
    return (
        f"<section><h2>Plan</h2><details><summary>all options</summary><pre>{text}</pre></details></section>"
    )
