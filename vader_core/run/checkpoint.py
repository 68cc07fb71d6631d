"""Checkpoints: renamed into place, checked by checksum, pruned but never the best."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from vader_core.errors import MachineError, VaderError
from vader_core.files import sha256_of
from vader_core.weights import load_tensors

CHECKSUMS = "checksums.json"
_NAME = re.compile(r"step-(\d{6,})")
_ASIDE = re.compile(r"\.step-(\d{6,})\.old")


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was read.

    Args:
        step: Optimizer steps done.
        place: Its folder, where what learns and the objective find their own files.
        tensors: Optimizer, loss scaler and averaged weights: plain containers of tensors and numbers.
        position: Counters and the watch's memory, as JSON.
    """

    step: int
    place: Path
    tensors: Mapping[str, Any]
    position: Mapping[str, Any]


def step_name(step: int) -> str:
    """``step-NNNNNN``."""
    return f"step-{step:06d}"


def begin_checkpoint(folder: Path, step: int) -> Path:
    """An empty folder beside the place of the checkpoint, to be filled and then finished.

    Raises:
        MachineError: It cannot be made.
    """
    beside = unfinished(folder, step)
    with _writing(folder / step_name(step)):
        folder.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(beside, ignore_errors=True)
        beside.mkdir()
    return beside


def unfinished(folder: Path, step: int) -> Path:
    """Where the checkpoint of ``step`` is written before it is finished."""
    return folder / f".{step_name(step)}.part"


def rank_folder(place: Path, rank: int) -> Path:
    """Where one process keeps the state of its objective."""
    return place / "objective" / f"rank-{rank}"


def check_ranks(place: Path, count: int) -> None:
    """Refuse a checkpoint whose objective kept a state for another number of processes.

    Raises:
        VaderError: Naming both numbers.
    """
    folder = place / "objective"
    kept = len(list(folder.glob("rank-*"))) if folder.is_dir() else count
    if kept != count:
        raise VaderError(
            f"checkpoint {place}: the objective kept a state for each of {kept} processes that make videos, "
            f"and now there are {count}: continue with as many as before"
        )


def save_rank(save: Callable[[Path], None], place: Path, rank: int) -> None:
    """Let ``save`` write into the rank's folder; nothing is left of one that stays empty."""
    own = rank_folder(place, rank)
    own.mkdir(parents=True, exist_ok=True)
    save(own)
    if not any(own.iterdir()):
        own.rmdir()


def finish_checkpoint(
    folder: Path, step: int, tensors: Mapping[str, Any], position: Mapping[str, Any]
) -> Path:
    """Add the state, the position and the checksums, and rename the folder into its place.

    Whatever is killed in between leaves no folder of that name, or the one that was there.

    Args:
        folder: Holds the checkpoints.
        step: Optimizer steps done.
        tensors: Plain containers of tensors and numbers.
        position: JSON.

    Raises:
        MachineError: The disk is full or cannot be written.
    """
    place, beside = folder / step_name(step), unfinished(folder, step)
    old = folder / f".{place.name}.old"
    with _writing(place):
        objective = beside / "objective"
        if objective.is_dir() and not any(objective.iterdir()):
            objective.rmdir()
        torch.save(dict(tensors), beside / "state.pt")
        (beside / "position.json").write_text(json.dumps(dict(position), indent=1))
        files = sorted(path for path in beside.rglob("*") if path.is_file())
        sums = {path.relative_to(beside).as_posix(): sha256_of(path) for path in files}
        (beside / CHECKSUMS).write_text(json.dumps(sums, indent=1))
        for path in [*files, beside / CHECKSUMS]:
            with path.open("rb") as stream:
                os.fsync(stream.fileno())
        shutil.rmtree(old, ignore_errors=True)
        if place.exists():
            place.rename(old)
        beside.rename(place)
        shutil.rmtree(old, ignore_errors=True)
    return place


@contextmanager
def _writing(place: Path) -> Iterator[None]:
    """A failure to write as one message."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        raise MachineError(f"cannot write {place}: {error}; free the disk and use --resume") from error


def fault(place: Path) -> str | None:
    """What is wrong with a checkpoint's files, or ``None``."""
    try:
        sums = json.loads((place / CHECKSUMS).read_text())
    except (OSError, ValueError):
        return f"{CHECKSUMS} is missing or unreadable"
    for name, expected in sums.items():
        path = place / name
        if not path.is_file():
            return f"{name} is missing"
        if sha256_of(path) != expected:
            return f"{name} does not match its checksum"
    return None


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints of a run, oldest first, whole or not.

    One that was moved aside for a successor which never came is among them.
    """
    if not folder.is_dir():
        return []
    found = [path for path in folder.iterdir() if path.is_dir() and _NAME.fullmatch(path.name)]
    here = {path.name for path in found}
    aside = [path for path in folder.iterdir() if path.is_dir() and _ASIDE.fullmatch(path.name)]
    found += [path for path in aside if path.name[1:].removesuffix(".old") not in here]
    return sorted(found, key=step_of)


def step_of(place: Path) -> int:
    """The step of a checkpoint, by its name."""
    return int(place.name.strip(".").removesuffix(".old").removeprefix("step-"))


def sweep(folder: Path) -> None:
    """Put back what was moved aside and has no successor, and remove what was never finished.

    Only for the process that holds the run.
    """
    if not folder.is_dir():
        return
    for path in folder.iterdir():
        if path.name.endswith(".part") and path.name.startswith("."):
            shutil.rmtree(path, ignore_errors=True)
        elif path.name.endswith(".old") and path.name.startswith("."):
            place = folder / path.name[1:].removesuffix(".old")
            if place.exists():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.rename(place)


def newest_whole(folder: Path) -> tuple[Path | None, list[str]]:
    """The newest checkpoint whose files match their checksums, and what was wrong with every newer one."""
    faults: list[str] = []
    for place in reversed(checkpoints(folder)):
        wrong = fault(place)
        if wrong is None:
            return place, faults
        faults.append(f"{place}: {wrong}")
    return None, faults


def read_checkpoint(place: Path) -> Checkpoint:
    """Read a checkpoint.

    Raises:
        VaderError: Torn or unreadable.
    """
    wrong = fault(place)
    if wrong is not None:
        raise VaderError(f"checkpoint {place} cannot be used: {wrong}")
    position = json.loads((place / "position.json").read_text())
    tensors = load_tensors(place / "state.pt", needed_for="checkpoint")
    return Checkpoint(step_of(place), place, tensors, position)


def prune(folder: Path, keep: int) -> list[Path]:
    """Remove all but the newest ``keep`` checkpoints; ``best`` is a folder of its own and stays."""
    removed = checkpoints(folder)[:-keep] if keep > 0 else []
    for place in removed:
        shutil.rmtree(place, ignore_errors=True)
    return removed


def keep_best(folder: Path, save: Callable[[Path], None], facts: Mapping[str, Any]) -> Path:
    """Replace ``folder/best`` by what ``save`` writes, with the facts that made it the best."""
    place, beside, old = folder / "best", folder / ".best.part", folder / ".best.old"
    with _writing(place):
        folder.mkdir(parents=True, exist_ok=True)
        for stale in (beside, old):
            shutil.rmtree(stale, ignore_errors=True)
        beside.mkdir()
        save(beside)
        (beside / "best.json").write_text(json.dumps(dict(facts), indent=1))
        if place.exists():
            place.rename(old)
        beside.rename(place)
        shutil.rmtree(old, ignore_errors=True)
    return place
