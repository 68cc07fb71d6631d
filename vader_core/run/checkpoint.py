"""Checkpoints: renamed into place, checked by checksum, pruned but never the best."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field

from vader_core.errors import DivergedError, MachineError, VaderError
from vader_core.files import sha256_of, strange_in, sync
from vader_core.weights import load_tensors
from vader_core.wrappings import refuse_not_finite

CHECKSUMS, POSITION, STATE = "checksums.json", "position.json", "state.pt"
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
        DivergedError: The weights are not finite.
    """
    place, beside = folder / step_name(step), unfinished(folder, step)
    old = folder / f".{place.name}.old"
    with _writing(place):
        objective = beside / "objective"
        if objective.is_dir() and not any(objective.iterdir()):
            objective.rmdir()
        torch.save(dict(tensors), beside / STATE)
        (beside / POSITION).write_text(json.dumps(dict(position), indent=1))
        _refuse_diverged(beside, folder)
        files = sorted(path for path in beside.rglob("*") if path.is_file())
        sums = {path.relative_to(beside).as_posix(): sha256_of(path) for path in files}
        (beside / CHECKSUMS).write_text(json.dumps(sums, indent=1))
        _put(beside, place, old)
    return place


def _refuse_diverged(beside: Path, folder: Path) -> None:
    """Keep no weights that are not finite: what was written is removed.

    Raises:
        DivergedError: Naming the tensor, and the last good checkpoint.
    """
    from safetensors import safe_open

    for path in sorted(beside.glob("*.safetensors")):
        with safe_open(path, "pt") as tensors:
            try:
                for name in tensors.keys():  # noqa: SIM118 - it is no mapping
                    refuse_not_finite({name: tensors.get_tensor(name)}, what="the weights")
            except VaderError as error:
                shutil.rmtree(beside, ignore_errors=True)
                good = newest_whole(folder)[0]
                where = f"the last good checkpoint is {good}" if good else "no good checkpoint was written"
                raise DivergedError(
                    f"{str(error).partition(',')[0]}, so no checkpoint of them is kept; {where}. Lower --lr, "
                    "or use --precision fp32 or bf16"
                ) from error


def _put(beside: Path, place: Path, old: Path) -> None:
    """Move a filled folder into its place, over the one that is there; all of it is on the disk first."""
    inside = sorted(beside.rglob("*"))
    for path in (*inside, beside):
        sync(path)
    shutil.rmtree(old, ignore_errors=True)
    if place.exists():
        place.rename(old)
    beside.rename(place)
    sync(place.parent)
    shutil.rmtree(old, ignore_errors=True)


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
        strange = strange_in(place)
        if place.is_symlink() or strange is not None:
            return f"{(strange or place).name} is a link out of it, or no plain file"
        sums = json.loads((place / CHECKSUMS).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return f"{CHECKSUMS} is missing or unreadable"
    if not isinstance(sums, dict) or not {STATE, POSITION} <= sums.keys():
        return f"{CHECKSUMS} is not what a run writes"
    for name, expected in sums.items():
        path = place / name
        if ".." in Path(name).parts or Path(name).is_absolute() or "\0" in name:
            return f"{CHECKSUMS} names a file outside the checkpoint"
        if not path.is_file():
            return f"{name} is missing"
        try:
            found = sha256_of(path)
        except OSError as error:
            return f"{name} cannot be read: {error.strerror}"
        if found != expected:
            return f"{name} does not match its checksum"
    return None


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints of a run, oldest first, whole or not.

    One that was moved aside for a successor which never came is among them.
    """
    if not folder.is_dir() or folder.is_symlink():
        return []
    try:
        there = [path for path in folder.iterdir() if path.is_dir()]
    except OSError as error:
        raise MachineError(f"{folder} cannot be read: {error.strerror}") from error
    found = [path for path in there if _NAME.fullmatch(path.name)]
    here = {path.name for path in found}
    aside = [path for path in there if _ASIDE.fullmatch(path.name)]
    found += [path for path in aside if path.name[1:].removesuffix(".old") not in here]
    return sorted(found, key=step_of)


def step_of(place: Path) -> int:
    """The step of a checkpoint, by its name."""
    return int(place.name.strip(".").removesuffix(".old").removeprefix("step-"))


def sweep(folder: Path) -> None:
    """Put back what was moved aside and has no successor, and remove what was never finished or is pruned.

    Only for the process that holds the run.

    Raises:
        OSError: A name could not be changed.
    """
    if not folder.is_dir():
        return
    for path in folder.iterdir():
        if not path.name.startswith("."):
            continue
        place = folder / path.name[1:].removesuffix(".old")
        if path.name.endswith(".old") and not place.exists():
            path.rename(place)
        elif path.name.endswith((".part", ".old", ".gone")):
            shutil.rmtree(path, ignore_errors=True)


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
    try:
        position = _Position.model_validate(json.loads((place / POSITION).read_text())).model_dump()
    except (OSError, ValueError, RecursionError) as error:
        raise VaderError(f"checkpoint {place} cannot be used: {POSITION} is not what a run writes") from error
    tensors = load_tensors(place / STATE, needed_for="checkpoint")
    return Checkpoint(step_of(place), place, tensors, position)


class _Seen(BaseModel):
    """A validation that the watch remembers."""

    model_config = ConfigDict(extra="allow", strict=True)

    step: int
    reward: float
    monitors: dict[str, float]
    alarms: list[str]


class _Watch(BaseModel):
    """What the watch remembers, of unknown origin."""

    model_config = ConfigDict(extra="allow", strict=True)

    history: list[_Seen]
    best_step: int | None
    best_reward: float


class _Position(BaseModel):
    """``position.json``, of unknown origin."""

    model_config = ConfigDict(extra="allow", strict=True)

    reward_queries: int = Field(ge=0)
    train_seconds: float = Field(ge=0, allow_inf_nan=False)
    skipped: int = Field(ge=0)
    nonfinite_in_a_row: int = Field(ge=0)
    lr_factor: float = Field(ge=0, allow_inf_nan=False)
    watch: _Watch


@contextmanager
def restoring(place: Path) -> Iterator[None]:
    """Within, a checkpoint is put back; whatever its contents make of that is one message.

    Raises:
        VaderError: Its files are whole, but not what this run wrote.
    """
    try:
        yield
    except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RuntimeError) as error:
        detail = (str(error).splitlines() or [""])[0][:200]
        raise VaderError(
            f"checkpoint {place} cannot be used: it is not of this run, or was damaged "
            f"({type(error).__name__}: {detail}); remove it to continue from the one before"
        ) from error


def prune(folder: Path, keep: int, newest: int | None = None) -> list[Path]:
    """Remove all but the newest ``keep`` checkpoints; ``best`` is a folder of its own and stays.

    Args:
        folder: Holds the checkpoints.
        keep: 0 keeps all.
        newest: Step of the one just written; what lies past it was passed over as damaged, and does not
            count among those that are kept.
    """
    found = [place for place in checkpoints(folder) if newest is None or step_of(place) <= newest]
    removed = found[:-keep] if keep > 0 else []
    for place in removed:
        gone = folder / f".{place.name.strip('.')}.gone"
        shutil.rmtree(gone, ignore_errors=True)
        with suppress(OSError):  # at once: half a checkpoint has no checkpoint's name
            shutil.rmtree(place.rename(gone), ignore_errors=True)
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
        _put(beside, place, old)
    return place
