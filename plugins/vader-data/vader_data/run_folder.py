"""A run's folder: the plan, the films, and which shards are finished."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from vader_core.errors import VaderError
from vader_core.files import replacing
from vader_core.paths import entered

from . import __version__
from .manifest import Row, read_manifest
from .plan import Plan
from .probe import FILMS, films
from .work import CAPTIONS, CLIPS, read_sources, shard_path


def begin(footage: Path, out: Path, plan: Plan, shard_size: int) -> None:
    """Write the plan and the list of films, or hold them against what is there.

    Raises:
        VaderError: No films, another plan, or other films than when the run began.
    """
    footage = entered(footage).resolve()
    if not footage.exists():
        raise VaderError(f"footage {footage}: no such file or folder")
    found = films(footage)
    if not found:
        raise VaderError(f"footage {footage}: there is no film in it ({', '.join(FILMS)})")
    root = footage if footage.is_dir() else footage.parent
    names = [str(film.relative_to(root)) for film in found]
    (out / "shards").mkdir(parents=True, exist_ok=True)
    _same_plan(out, plan)
    place = out / "sources.json"
    if not place.is_file():
        shards = [names[start : start + shard_size] for start in range(0, len(names), shard_size)]
        write_text(place, json.dumps({"root": str(root), "shards": shards}, indent=1))
        return
    before = read_sources(out)
    known = {name for shard in before.shards for name in shard}
    if before.root != root or known != set(names):
        new, gone = sorted(set(names) - known), sorted(known - set(names))
        what = f"{len(new)} new, {len(gone)} gone" if before.root == root else f"it was {before.root}"
        raise VaderError(
            f"{out} was begun with other footage ({what}): choose another --out, or --overwrite to begin "
            "again"
        )


def _same_plan(out: Path, plan: Plan) -> None:
    place = out / "plan.yaml"
    tree = plan.model_dump(mode="json")
    if not place.is_file():
        write_text(place, yaml.safe_dump({"vader_data": __version__, "plan": tree}, sort_keys=False))
        return
    try:
        before = dict(yaml.safe_load(place.read_text(encoding="utf-8")))["plan"]
    except (OSError, ValueError, TypeError, LookupError, RecursionError, yaml.YAMLError) as error:
        raise VaderError(f"{place} is not what a run writes; --overwrite begins again") from error
    changed = sorted(_changes(before, tree))
    if changed:
        raise VaderError(
            f"{out} was begun with another plan; different: {', '.join(changed[:8])}; choose another "
            "--out, or --overwrite to begin again"
        )


def _changes(before: Any, after: Any, path: str = "") -> list[str]:
    if isinstance(before, dict) and isinstance(after, dict):
        return [
            change
            for key in {**before, **after}
            for change in _changes(before.get(key), after.get(key), f"{path}.{key}".lstrip("."))
        ]
    return [] if before == after else [path]


def write_text(path: Path, text: str) -> None:
    """Write a text beside ``path`` and rename it into place."""
    with replacing(path) as beside:
        beside.write_text(text, encoding="utf-8")


def shard_count(out: Path) -> int:
    """Shards of a run."""
    return len(read_sources(out).shards)


def finished(out: Path, phase: str) -> set[int]:
    """The shards whose table stands."""
    return {shard for shard in range(shard_count(out)) if shard_path(out, phase, shard).is_file()}


def rows_of(out: Path, phase: str) -> list[Row]:
    """The rows of all finished shards."""
    return [
        row
        for shard in sorted(finished(out, phase))
        for row in read_manifest(shard_path(out, phase, shard)).rows
    ]


def timings_of(out: Path) -> dict[str, dict[str, float]]:
    """Seconds, seconds of decoding, frames and clips by step, over all shards."""
    total: dict[str, dict[str, float]] = {}
    for phase in (CLIPS, CAPTIONS):
        for shard in sorted(finished(out, phase)):
            timings = read_manifest(shard_path(out, phase, shard)).facts.get("timings", {})
            for step, values in timings.items():
                into = total.setdefault(step, dict.fromkeys(values, 0.0))
                for name, value in values.items():
                    into[name] = into.get(name, 0.0) + float(value)
    return total
