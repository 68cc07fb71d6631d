"""The runs of a folder, as far as a list shows them."""

from __future__ import annotations

import json
import os
import re
import stat
import threading
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from vader_core.paths import entered
from vader_core.printable import printable
from vader_core.run.names import CONFIG, METRICS, SUMMARY

#: The end of ``metrics.jsonl`` that is read for the last step.
_TAIL = 16_384
#: Steps whose mean time tells how long the rest takes.
_PACES = 20
#: A list reads no more than this of a configuration.
_MOST = 200_000
#: The sections of a configuration that a list shows, as a run writes them: all would take four times as long.
_SECTIONS = re.compile(r"^(?:backbone|reward|trainer):.*\n?(?:[ #-].*\n?|\n)*", re.M)
_reading = threading.Lock()


@dataclass(frozen=True)
class RunFacts:
    """A run in a list.

    Args:
        folder: The run directory.
        name: Its name.
        state: ``running``, ``finished`` or ``stopped``.
        step: Optimizer steps done.
        max_steps: Steps that were asked for.
        backbone: Name.
        rewards: Names of the trained rewards.
        changed: When anything last happened, in seconds since 1970.
        outcome: By reward, base and tuned mean of the closing evaluation.
        pace: Seconds per step of late; ``None`` before the first.
    """

    folder: Path
    name: str
    state: str
    step: int
    max_steps: int | None
    backbone: str
    rewards: tuple[str, ...]
    changed: float
    outcome: dict[str, tuple[float, float]]
    pace: float | None = None


def runs(folder: str | Path) -> list[RunFacts]:
    """The runs directly in ``folder``, the newest first, each as far as it can be read; no links.

    Raises:
        VaderError: A path that no folder can have.
    """
    root = entered(folder)
    if not root.is_dir():
        return []
    held = _held()
    with os.scandir(root) as places:
        folders = [one.path for one in places if not one.is_symlink() and _stamp(f"{one.path}/{CONFIG}")]
    found = [run_facts(Path(place), held) for place in folders]
    return sorted(found, key=lambda facts: -facts.changed)


def run_facts(folder: Path, held: frozenset[tuple[int, int]] | None = None) -> RunFacts:
    """What a list shows of a run.

    Args:
        folder: The run directory.
        held: The files that some process holds locked, where that is known already.
    """
    place = os.fspath(folder)
    stamps = tuple(_stamp(f"{place}/{name}") for name in (CONFIG, METRICS, SUMMARY))
    with _reading:  # whoever asks meanwhile waits for what is being read, and does not read it again
        facts = _read(place, stamps)
    running = _is_held(f"{place}/.lock", _held() if held is None else held)
    return replace(facts, state="running") if running else facts


def _stamp(path: str) -> tuple[int, int] | None:
    """When a file last changed, in ns, and its size; ``None`` where it is none."""
    try:
        status = os.stat(path)  # noqa: PTH116 - a list asks hundreds of times, and a Path costs more
    except OSError:
        return None
    return (status.st_mtime_ns, status.st_size) if stat.S_ISREG(status.st_mode) else None


@lru_cache(maxsize=4096)
def _read(place: str, stamps: tuple[tuple[int, int] | None, ...]) -> RunFacts:
    """A run that nobody trains, as its files were at that time: a list is looked at again and again."""
    folder = Path(place)
    tree, summary = _tree(folder / CONFIG), _object(folder / SUMMARY)
    step, pace = _progress(folder)
    evaluation = summary.get("evaluation")
    outcome = {
        printable(str(name)): (float(row["base"]), float(row["tuned"]))
        for name, row in (evaluation.items() if isinstance(evaluation, dict) else ())
        if isinstance(row, dict) and _is_number(row.get("base")) and _is_number(row.get("tuned"))
    }
    rewards = tree.get("reward")
    names = (
        [item.get("name") for item in rewards if isinstance(item, dict)] if isinstance(rewards, list) else []
    )
    return RunFacts(
        folder=folder,
        name=printable(folder.name),
        state="finished" if summary else "stopped",
        step=step,
        max_steps=_whole(_get(tree, "trainer", "max_steps")),
        backbone=printable(str(_get(tree, "backbone", "name") or "")),
        rewards=tuple(printable(str(name)) for name in names if name),
        changed=max((stamp[0] / 1e9 for stamp in stamps if stamp is not None), default=0.0),
        outcome=outcome,
        pace=pace,
    )


def _tree(path: Path) -> dict[str, Any]:
    """What is shown of a configuration, or all of one that is not as a run writes it."""
    try:
        with path.open(encoding="utf-8") as stream:
            text = stream.read(_MOST)
    except (OSError, ValueError):
        return {}
    found = _parsed("".join(_SECTIONS.findall(text)))
    return found if found else _parsed(text)


def _parsed(text: str) -> dict[str, Any]:
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        tree = yaml.load(text, Loader=loader)  # a safe loader, in C where there is one
    except (yaml.YAMLError, ValueError, RecursionError, ArithmeticError, LookupError, TypeError):
        return {}
    return tree if isinstance(tree, dict) else {}


def _object(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _progress(folder: Path) -> tuple[int, float | None]:
    """The step of the last whole record of ``metrics.jsonl``, and the mean time of the last steps."""
    try:
        with (folder / METRICS).open("rb") as stream:
            size = stream.seek(0, os.SEEK_END)
            stream.seek(max(0, size - _TAIL))
            lines = stream.read().split(b"\n")
    except OSError:
        return 0, None
    step, paces = None, []
    for line in reversed(lines):
        try:
            record = json.loads(line)
            found, seconds = _whole(record.get("step")), record.get("seconds")
        except (ValueError, AttributeError, RecursionError):
            continue
        step = found if step is None else step
        if record.get("kind") == "train" and _is_number(seconds):
            paces.append(float(seconds))
        if step is not None and len(paces) == _PACES:
            break
    return step or 0, sum(paces) / len(paces) if paces else None


def _held() -> frozenset[tuple[int, int]]:
    """Device and inode of every file that some process holds locked, where the system tells."""
    found = set()
    try:
        lines = Path("/proc/locks").read_text(encoding="ascii").splitlines()
    except (OSError, UnicodeDecodeError):
        return frozenset()
    for line in lines:
        words = line.split()
        place = next((word for word in words if word.count(":") == 2), None)
        if place is not None and "FLOCK" in words:
            major, minor, inode = place.split(":")
            found.add((os.makedev(int(major, 16), int(minor, 16)), int(inode)))
    return frozenset(found)


def _is_held(lock: str, held: frozenset[tuple[int, int]]) -> bool:
    try:
        status = os.stat(lock)  # noqa: PTH116 - as above
    except OSError:
        return False
    return (status.st_dev, status.st_ino) in held


def _get(tree: dict[str, Any], *keys: str) -> Any:
    value: Any = tree
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 10**15 else None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300
