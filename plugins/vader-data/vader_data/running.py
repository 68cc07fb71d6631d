"""A run: footage in; clips, table, exports and report out. Killed anywhere, it goes on."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vader_core.errors import VaderError

from . import __version__
from .duplicates import dedup
from .engines import carry, chosen_engine
from .exports import write_exports
from .manifest import ordered, write_manifest
from .plan import Plan
from .run_folder import begin, finished, rows_of, shard_count, write_text
from .work import CAPTIONS, CLIPS, Context, chain, raise_error

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
    write_text(place, json.dumps(same, indent=1))


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
