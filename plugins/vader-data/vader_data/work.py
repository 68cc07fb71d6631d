"""A shard's way through the stages: the same chain of steps in one process, in many, on Daft and on Ray.

A step takes a shard's rows as text and gives them back as text, so that any engine can carry them. The first
step reads the shard's rows, the last one writes its table and renames it into place; where a process dies,
the work of its shards alone is lost.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vader_core.errors import MachineError, VaderError

from . import stages
from .components import component
from .manifest import Row, read_manifest, write_manifest
from .plan import Plan
from .reading import DECODING

Stage = Callable[[list[Row]], list[Row]]

#: The two passes over all shards; duplicates are found between them.
CLIPS, CAPTIONS = "clips", "captions"


@dataclass(frozen=True)
class Step:
    """One step of a chain.

    Args:
        name: ``load``, ``cut``, ``score``, ``fingerprint``, ``images``, ``caption``, ``tidy`` or ``save``.
        columns: For ``score``: the scores that are computed together.
        gpu: It runs a network.
    """

    name: str
    columns: tuple[str, ...] = ()
    gpu: bool = False

    def __str__(self) -> str:
        return f"{self.name} {' '.join(self.columns)}".strip()


@dataclass(frozen=True)
class Context:
    """What every step of a run knows.

    Args:
        plan: The plan as JSON.
        folder: The run's folder.
        phase: ``clips`` or ``captions``.
    """

    plan: str
    folder: str
    phase: str

    @property
    def read(self) -> Plan:
        """The plan itself."""
        return Plan.model_validate_json(self.plan)

    @property
    def root(self) -> Path:
        """The run's folder."""
        return Path(self.folder)


def chain(plan: Plan, phase: str) -> tuple[Step, ...]:
    """The steps of a phase."""
    if phase == CLIPS:
        return (
            Step("load"),
            Step("cut"),
            *score_steps(plan, after_captions=False),
            Step("fingerprint", gpu=_is_gpu("embedder", plan.duplicates.embedder)),
            Step("tidy"),
            Step("save"),
        )
    steps = [Step("load")]
    if plan.images.middle_frame:
        steps.append(Step("images"))
    if plan.captions.name != "none":
        steps.append(Step("caption", gpu=_is_gpu("captioner", plan.captions.name)))
    return (*steps, *score_steps(plan, after_captions=True), Step("tidy"), Step("save"))


def score_steps(plan: Plan, *, after_captions: bool) -> list[Step]:
    """Scores that run on the CPU share one step, and one decoding; a network has a step of its own."""
    steps: list[Step] = []
    for name, scorer in plan.scorers.items():
        if scorer.after_captions != after_captions:
            continue
        if _is_gpu("scorer", scorer.scorer):
            steps.append(Step("score", (name,), gpu=True))
        elif steps and not steps[-1].gpu:
            steps[-1] = Step("score", (*steps[-1].columns, name))
        else:
            steps.append(Step("score", (name,)))
    return steps


def _is_gpu(kind: Any, name: str) -> bool:
    return name != "none" and component(kind, name).gpu


# -- one step ----------------------------------------------------------------------------------------------


def execute(step: Step, payload: str, context: Context) -> str:
    """One step of one shard.

    Args:
        step: Which.
        payload: JSON: ``shard``, ``rows``, ``timings``, and ``error`` where an earlier step failed.
        context: Of the run.

    Returns:
        The payload after it. A mistake of the user's and a failure of the machine travel in it as
        ``error``, so that they come back as they are from whatever engine.
    """
    shard = json.loads(payload)
    if "error" in shard:
        return payload
    began = time.perf_counter()
    DECODING.take()
    live = sum(not row["reject_reason"] for row in shard["rows"])
    try:
        if step.name == "load":
            shard["rows"] = _load(shard["shard"], context)
        elif step.name == "save":
            shard = _save(shard, context)
        else:
            shard["rows"] = _opened(step, context)(shard["rows"])
    except VaderError as error:
        failed = {"shard": shard["shard"], "error": str(error), "machine": isinstance(error, MachineError)}
        return json.dumps(failed)
    if step.name not in ("load", "save", "tidy"):
        seconds, frames = DECODING.take()
        shard["timings"][str(step)] = {
            "seconds": round(time.perf_counter() - began, 4),
            "decoding": round(seconds, 4),
            "frames": frames,
            "clips": len(shard["rows"]) if step.name == "cut" else live,
        }
    return json.dumps(shard)


def run_shard(shard: int, steps: Sequence[Step], context: Context) -> str:
    """All steps of one shard, one after the other."""
    payload = first_payload(shard)
    for step in steps:
        payload = execute(step, payload, context)
    return payload


def first_payload(shard: int) -> str:
    """What the first step is given."""
    return json.dumps({"shard": shard, "rows": [], "timings": {}})


def raise_error(payload: str) -> dict[str, Any]:
    """The payload of a finished shard.

    Raises:
        VaderError: A step of it failed.
    """
    shard: dict[str, Any] = json.loads(payload)
    if "error" in shard:
        raise (MachineError if shard["machine"] else VaderError)(shard["error"])
    return shard


def shard_path(folder: Path, phase: str, shard: int) -> Path:
    """Where a shard's table lies when it is finished."""
    return folder / "shards" / f"{phase}-{shard:05d}.parquet"


def log(folder: Path, **entry: Any) -> None:
    """Add a line to ``log.jsonl``; one write, so that lines of several processes do not mix."""
    with (folder / "log.jsonl").open("ab", buffering=0) as stream:
        stream.write(json.dumps({"process": os.getpid(), **entry}).encode() + b"\n")


def _load(shard: int, context: Context) -> list[Row]:
    log(context.root, begun=f"{context.phase}-{shard:05d}")
    if context.phase == CLIPS:
        sources = read_sources(context.root)
        films = [sources.root / film for film in sources.shards[shard]]
        return stages.film_rows(films, sources.root)
    rows = read_manifest(shard_path(context.root, CLIPS, shard)).rows
    same = read_written(context.root / "shards" / "duplicates.json", dict)
    return [{**row, **same.get(row["id"], {})} for row in rows]


@dataclass(frozen=True)
class Sources:
    """``sources.json``: the films of a run by shard, each relative to ``root``."""

    root: Path
    shards: list[list[str]]


def read_sources(folder: Path) -> Sources:
    """The films of a run.

    Raises:
        VaderError: The file is not what a run writes.
    """
    place = folder / "sources.json"
    found = read_written(place, dict)
    root, shards = found.get("root"), found.get("shards")
    lists = isinstance(shards, list) and all(isinstance(shard, list) for shard in shards)
    if not isinstance(root, str) or not lists or not all(isinstance(n, str) for s in shards or [] for n in s):
        raise VaderError(f"{place} is not what a run writes; --overwrite begins again")
    return Sources(Path(root), shards or [])


def read_written(place: Path, kind: type) -> Any:
    """A JSON file of a run, of the kind that a run writes there.

    Raises:
        VaderError: It cannot be read, or is of another kind.
    """
    try:
        found = json.loads(place.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise VaderError(f"{place} cannot be read ({error}); --overwrite begins again") from error
    if not isinstance(found, kind):
        raise VaderError(f"{place} is not what a run writes; --overwrite begins again")
    return found


def _save(shard: dict[str, Any], context: Context) -> dict[str, Any]:
    name = f"{context.phase}-{shard['shard']:05d}"
    path = shard_path(context.root, context.phase, shard["shard"])
    write_manifest(path, shard["rows"], context.read.columns(), {"timings": shard["timings"]})
    log(context.root, done=name, rows=len(shard["rows"]), timings=shard["timings"])
    kept = sum(not row["reject_reason"] for row in shard["rows"])
    return {"shard": shard["shard"], "rows": len(shard["rows"]), "kept": kept, "timings": shard["timings"]}


_HELD = threading.local()
_NETWORKS: dict[tuple[Step, Context], Stage] = {}
_LOCK = threading.Lock()


def _opened(step: Step, context: Context) -> Stage:
    """The stage of a step: a network once per process, for one thread at a time; others once per thread."""
    key = (step, context)
    if step.gpu:
        with _LOCK:
            if key not in _NETWORKS:
                for other in [other for other in _NETWORKS if other[1] != context]:
                    del _NETWORKS[other]
                _NETWORKS[key] = _one_at_a_time(_made(step, context))
            return _NETWORKS[key]
    held: dict[tuple[Step, Context], Stage] = getattr(_HELD, "stages", {})
    if key not in held:
        held = {other: stage for other, stage in held.items() if other[1] == context}
        held[key] = _made(step, context)
        _HELD.stages = held
    return held[key]


def _one_at_a_time(stage: Stage) -> Stage:
    lock = threading.Lock()

    def guarded(rows: list[Row]) -> list[Row]:
        with lock:
            return stage(rows)

    return guarded


def _made(step: Step, context: Context) -> Stage:
    plan, folder = context.read, context.root
    if step.name == "cut":
        detector = component("detector", plan.detector.name).make(plan.detector.options)
        return lambda rows: stages.cut_rows(rows, detector, plan.cut, folder)
    if step.name == "score":
        wanted = {name: plan.scorers[name] for name in step.columns}
        scorers = {
            name: (component("scorer", scorer.scorer).make(scorer.options), scorer)
            for name, scorer in wanted.items()
        }
        return lambda rows: stages.score_rows(rows, scorers, folder)
    if step.name == "fingerprint":
        named = plan.duplicates.embedder
        embedder = None if named == "none" else component("embedder", named).make(plan.duplicates.options)
        return lambda rows: stages.fingerprint_rows(rows, embedder, folder)
    if step.name == "images":
        return lambda rows: stages.image_rows(rows, folder)
    if step.name == "caption":
        captioner = component("captioner", plan.captions.name).make(plan.captions.options)
        return lambda rows: stages.caption_rows(rows, captioner, plan.captions, folder)
    return lambda rows: list(rows) if plan.cut.keep_rejected else stages.tidy_rows(rows, folder)
