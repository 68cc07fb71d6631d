"""A run: footage in; clips, table, exports and report out. Killed anywhere, it goes on."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from vader_core.errors import VaderError
from vader_core.files import replacing

from . import __version__
from .duplicates import dedup
from .engines import carry, chosen_engine
from .exports import write_exports
from .manifest import Row, ordered, read_manifest, write_manifest
from .plan import Plan
from .probe import FILMS, films
from .work import CAPTIONS, CLIPS, Context, chain, raise_error, shard_path

#: What :func:`run` calls with every finished shard.
Told = Callable[[str, int, int, dict[str, Any]], None]


@dataclass(frozen=True)
class Settings:
    """How a run is carried out; none of it changes a row.

    Args:
        engine: ``auto``, ``process``, ``daft`` or ``ray``.
        workers: Shards under way at a time.
        address: Of a Ray cluster.
        shard: (i, n): this call works on every n-th shard, beginning with the i-th.
        shard_size: Films per shard, fixed when the run begins.
    """

    engine: str = "auto"
    workers: int = 1
    address: str = ""
    shard: tuple[int, int] = (0, 1)
    shard_size: int = 8


def run(footage: Path, out: Path, plan: Plan, settings: Settings, told: Told = lambda *_: None) -> bool:
    """Carry a plan out, or go on where an earlier call stopped.

    Args:
        footage: A folder of films, or one film.
        out: The run's folder.
        plan: Must be the one that the folder was begun with.
        settings: How.
        told: Called with phase, finished shards, all shards, and the facts of the one just finished.

    Returns:
        Whether the run is complete; ``False`` where shards of other calls (``--shard``) are still missing.

    Raises:
        VaderError: No films, another plan, changed footage, or a mistake met on the way.
    """
    engine = chosen_engine(settings.engine)
    begin(footage, out, plan, settings.shard_size)
    context_of = {phase: Context(plan.model_dump_json(), str(out), phase) for phase in (CLIPS, CAPTIONS)}
    for phase in (CLIPS, CAPTIONS):
        if phase == CAPTIONS:
            find_duplicates(out, plan)
        count = shard_count(out)
        done = finished(out, phase)
        mine = [
            shard
            for shard in range(count)
            if shard not in done and shard % settings.shard[1] == settings.shard[0]
        ]
        carried = carry(
            engine,
            mine,
            chain(plan, phase),
            context_of[phase],
            workers=settings.workers,
            address=settings.address,
        )
        for payload in carried:
            facts = raise_error(payload)
            done.add(facts["shard"])
            told(phase, len(done), count, facts)
        if len(finished(out, phase)) < count:
            return False
    finish(out, plan)
    return True


# -- the folder --------------------------------------------------------------------------------------------


def begin(footage: Path, out: Path, plan: Plan, shard_size: int) -> None:
    """Write the plan and the list of films, or hold them against what is there.

    Raises:
        VaderError: No films, another plan, or other films than when the run began.
    """
    footage = Path(footage).expanduser().resolve()
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
        _write(place, json.dumps({"root": str(root), "shards": shards}, indent=1))
        return
    before = json.loads(place.read_text(encoding="utf-8"))
    known = {name for shard in before["shards"] for name in shard}
    if before["root"] != str(root) or known != set(names):
        new, gone = sorted(set(names) - known), sorted(known - set(names))
        what = (
            f"{len(new)} new, {len(gone)} gone" if before["root"] == str(root) else f"it was {before['root']}"
        )
        raise VaderError(
            f"{out} was begun with other footage ({what}): choose another --out, or --overwrite to begin "
            "again"
        )


def _same_plan(out: Path, plan: Plan) -> None:
    place = out / "plan.yaml"
    tree = plan.model_dump(mode="json")
    if not place.is_file():
        _write(place, yaml.safe_dump({"vader_data": __version__, "plan": tree}, sort_keys=False))
        return
    before = yaml.safe_load(place.read_text(encoding="utf-8"))["plan"]
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


def _write(path: Path, text: str) -> None:
    with replacing(path) as beside:
        beside.write_text(text, encoding="utf-8")


def shard_count(out: Path) -> int:
    """Shards of a run."""
    return len(json.loads((out / "sources.json").read_text(encoding="utf-8"))["shards"])


def finished(out: Path, phase: str) -> set[int]:
    """The shards whose table stands."""
    return {shard for shard in range(shard_count(out)) if shard_path(out, phase, shard).is_file()}


# -- between and after the shards --------------------------------------------------------------------------


def find_duplicates(out: Path, plan: Plan) -> None:
    """Compare the clips of all shards; what is written does not depend on who writes it, or how often."""
    place = out / "shards" / "duplicates.json"
    if place.is_file():
        return
    rows = ordered(rows_of(out, CLIPS))
    same = {
        row["id"]: {name: row[name] for name in ("duplicate_of", "reject_stage", "reject_reason")}
        for row in dedup(rows, plan.duplicates)
        if row["duplicate_of"]
    }
    _write(place, json.dumps(same, indent=1))


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
            timings = read_manifest(shard_path(out, phase, shard)).facts["timings"]
            for step, values in timings.items():
                into = total.setdefault(step, dict.fromkeys(values, 0.0))
                for name, value in values.items():
                    into[name] += value
    return total


def finish(out: Path, plan: Plan) -> None:
    """The table of all rows, the exports, and the report."""
    from .report import write_report

    rows = ordered(rows_of(out, CAPTIONS))
    facts = {"plan": plan.model_dump(mode="json"), "version": __version__}
    write_manifest(out / "manifest.parquet", rows, plan.columns(), facts)
    for folder in ("clips", "shards"):  # where nobody writes any more: what killed processes left
        for beside in (out / folder).rglob(".*.part"):
            beside.unlink(missing_ok=True)
    write_exports(out, rows, plan.exports)
    write_report(out)


def parse_shard(text: str) -> tuple[int, int]:
    """``i/n`` of ``--shard``.

    Raises:
        VaderError: Not of that form, or i is not below n.

    >>> parse_shard("2/8")
    (2, 8)
    """
    first, slash, second = text.partition("/")
    if slash and first.isdigit() and second.isdigit() and int(first) < int(second):
        return int(first), int(second)
    raise VaderError(
        f"--shard {text!r}: write I/N with I from 0 to N-1, e.g. $SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_COUNT"
    )


def table(rows: Sequence[Row]) -> list[tuple[str, str, int]]:
    """Stage, reason and count of the rejected rows, in the order of the first of each."""
    counts: dict[tuple[str, str], int] = {}
    for row in rows:
        if row["reject_reason"]:
            why = row["reject_reason"] if not row["duplicate_of"] else "the same as another clip"
            key = (row["reject_stage"], why)
            counts[key] = counts.get(key, 0) + 1
    return [(stage, why, count) for (stage, why), count in counts.items()]
