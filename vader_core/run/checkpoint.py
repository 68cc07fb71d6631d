"""Checkpoints: renamed into place, checked by checksum, pruned but never the best."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from vader_core.errors import MachineError, VaderError
from vader_core.files import sha256_of
from vader_core.lora.adapter import load_adapter, save_adapter
from vader_core.lora.formats import Adapter
from vader_core.weights import load_tensors

CHECKSUMS = "checksums.json"
_NAME = re.compile(r"step-(\d{6,})")


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint holds.

    Args:
        step: Optimizer steps done.
        adapter: The LoRA.
        tensors: Optimizer, loss scaler and averaged weights: plain containers of tensors and numbers.
        position: Counters and the watch's memory, as JSON.
    """

    step: int
    adapter: Adapter
    tensors: Mapping[str, Any]
    position: Mapping[str, Any]


def step_name(step: int) -> str:
    """``step-NNNNNN``."""
    return f"step-{step:06d}"


def write_checkpoint(folder: Path, checkpoint: Checkpoint) -> Path:
    """Write ``folder/step-NNNNNN``; whatever is killed in between leaves no folder of that name.

    Raises:
        MachineError: The disk is full or cannot be written.
    """
    place = folder / step_name(checkpoint.step)
    beside = folder / f".{place.name}.part"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(beside, ignore_errors=True)
        beside.mkdir()
        save_adapter(checkpoint.adapter, beside)
        torch.save(dict(checkpoint.tensors), beside / "state.pt")
        (beside / "position.json").write_text(json.dumps(dict(checkpoint.position), indent=1))
        sums = {path.name: sha256_of(path) for path in sorted(beside.iterdir())}
        (beside / CHECKSUMS).write_text(json.dumps(sums, indent=1))
        for path in beside.iterdir():
            with path.open("rb") as stream:
                os.fsync(stream.fileno())
        shutil.rmtree(place, ignore_errors=True)
        beside.rename(place)
    except (OSError, RuntimeError) as error:
        raise MachineError(
            f"cannot write the checkpoint {place}: {error}; free the disk and use --resume"
        ) from error
    return place


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
    """The checkpoints of a run, oldest first, whole or not."""
    if not folder.is_dir():
        return []
    found = [path for path in folder.iterdir() if path.is_dir() and _NAME.fullmatch(path.name)]
    return sorted(found, key=lambda path: int(path.name.removeprefix("step-")))


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
    return Checkpoint(int(place.name.removeprefix("step-")), load_adapter(place), tensors, position)


def prune(folder: Path, keep: int) -> list[Path]:
    """Remove all but the newest ``keep`` checkpoints; ``best`` is a folder of its own and stays."""
    removed = checkpoints(folder)[:-keep] if keep > 0 else []
    for place in removed:
        shutil.rmtree(place, ignore_errors=True)
    return removed


def keep_best(folder: Path, adapter: Adapter, facts: Mapping[str, Any]) -> Path:
    """Replace ``folder/best`` by ``adapter``, with the facts that made it the best."""
    place, beside, old = folder / "best", folder / ".best.part", folder / ".best.old"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for stale in (beside, old):
            shutil.rmtree(stale, ignore_errors=True)
        save_adapter(adapter, beside)
        (beside / "best.json").write_text(json.dumps(dict(facts), indent=1))
        if place.exists():
            place.rename(old)
        beside.rename(place)
        shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        raise MachineError(f"cannot write {place}: {error}; free the disk and use --resume") from error
    return place
