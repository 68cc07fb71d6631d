"""The folders that the studio may touch, and what is found in them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vader_core.errors import VaderError
from vader_core.paths import entered

#: Files that are adapters or weights, by their ending.
TENSORS = (".safetensors", ".pt", ".pth", ".ckpt", ".bin")
#: Words that stand before a path in an option's value.
_FORMS = ("file:", "images:", "videos:", "cache:", "text:", "hub:")
_REFERENCE = re.compile(r'"reference_path"\s*:\s*"((?:[^"\\]|\\.)*)"')


@dataclass(frozen=True)
class Found:
    """An adapter or weights that were found.

    Args:
        place: What ``--lora`` or ``--weights`` is given.
        name: How a person tells it from the others.
        kind: ``run``, ``checkpoint`` or ``file``.
    """

    place: str
    name: str
    kind: str


@dataclass(frozen=True)
class Places:
    """The folders; all absolute, links resolved.

    Args:
        runs: Of run directories.
        clips: Where batches lie and new ones go.
        state: The queue and what was uploaded.
        loras: Of adapter files.
        weights: Of backbone weights.
        data: Of prompts, pictures and clips to learn from.
    """

    runs: Path
    clips: Path
    state: Path
    loras: tuple[Path, ...] = ()
    weights: tuple[Path, ...] = ()
    data: tuple[Path, ...] = ()

    @property
    def all(self) -> tuple[Path, ...]:
        """Every folder from which something may be read."""
        return (self.runs, self.clips, self.state, *self.loras, *self.weights, *self.data)

    def check(self, tree: Any, where: str = "") -> None:
        """Refuse values that name a file elsewhere.

        Args:
            tree: Options as they go into a configuration.
            where: The key they stand at.

        Raises:
            VaderError: Naming the key.
        """
        for key, text in _texts(tree, where):
            for place in _paths_in(text):
                if not self.holds(place):
                    raise VaderError(
                        f"{key}={text!r} is not allowed: it lies outside the folders that the studio was "
                        "started for (see `vader studio --help`)"
                    )

    def holds(self, place: str) -> bool:
        """Whether a path, its links followed, lies within one of the folders."""
        try:
            found = entered(place).resolve()
        except (OSError, RuntimeError, ValueError, VaderError):
            return False
        return any(found == folder or found.is_relative_to(folder) for folder in self.all)

    # -- what is found -----------------------------------------------------------------------------------

    def run(self, name: str) -> Path:
        """The run of that name.

        Raises:
            VaderError: There is none.
        """
        path = child(self.runs, name)
        if path is None or not (path / "config.yaml").is_file():
            raise VaderError(f"there is no run {name!r}")
        return path

    def batch(self, name: str) -> Path:
        """The folder of clips of that name.

        Raises:
            VaderError: There is none.
        """
        path = child(self.clips, name)
        if path is None or not (path / "prompts.json").is_file():
            raise VaderError(f"there is no batch {name!r}")
        return path

    def batches(self) -> list[str]:
        """Names of the folders of clips, the newest first."""
        if not self.clips.is_dir():
            return []
        found = [
            place
            for place in self.clips.iterdir()
            if child(self.clips, place.name) is not None and (place / "prompts.json").is_file()
        ]
        return [place.name for place in sorted(found, key=_changed, reverse=True)]

    def adapters(self) -> list[Found]:
        """Runs, their checkpoints, and files, the newest runs first."""
        found: list[Found] = []
        runs = [place for place in _folders(self.runs) if (place / "config.yaml").is_file()]
        for run in sorted(runs, key=_changed, reverse=True):
            kept = [place for place in _folders(run / "checkpoints") if not place.name.startswith(".")]
            if not kept:
                continue
            found.append(Found(str(run), run.name, "run"))
            found += [
                Found(str(place), f"{run.name}, {place.name}", "checkpoint")
                for place in sorted(kept, key=lambda one: one.name)
            ]
        for folder in self.loras:
            found += [Found(str(path), path.name, "file") for path in _tensors(folder)]
        return found

    def weight_files(self) -> list[Found]:
        """Files and model folders that may be weights."""
        found = []
        for folder in self.weights:
            found += [Found(str(path), path.name, "file") for path in _tensors(folder)]
            found += [Found(str(path), path.name, "folder") for path in _folders(folder)]
        return found


def child(folder: Path, *parts: str) -> Path | None:
    """The path of ``parts`` below ``folder``; ``None`` where a part is none, hidden, or a link."""
    path = folder
    for part in parts:
        if not part or part.startswith(".") or any(mark in part for mark in ("/", "\\", "\0")):
            return None
        path = path / part
        try:
            if path.is_symlink():
                return None
        except (OSError, ValueError):
            return None
    try:
        inside = path.resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError, ValueError):
        return None
    return path if inside else None


def _texts(tree: Any, where: str) -> Iterator[tuple[str, str]]:
    if isinstance(tree, Mapping):
        for key, value in tree.items():
            yield from _texts(value, f"{where}.{key}" if where else str(key))
    elif isinstance(tree, list | tuple):
        for value in tree:
            yield from _texts(value, where)
    elif isinstance(tree, str):
        yield where, str(tree)


def _paths_in(text: str) -> Iterator[str]:
    """The paths that a value may name: more rather than fewer."""
    for match in _REFERENCE.finditer(text):
        yield from (part for part in match[1].replace("\\/", "/").split(";") if part)
    form = next((form for form in _FORMS if text.startswith(form)), "")
    rest = text.removeprefix(form)
    if form in ("text:", "hub:"):
        return
    looks = form or rest.startswith(("/", "~", ".", "\\")) or "/" in rest or rest.endswith(TENSORS)
    if looks or _exists(rest):
        yield rest


def _exists(text: str) -> bool:
    try:
        return bool(text) and len(text) < 4096 and Path(text).exists()
    except (OSError, ValueError):
        return False


def _folders(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return [place for place in folder.iterdir() if place.is_dir() and not place.is_symlink()]


def _tensors(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    found = [path for path in folder.rglob("*") if path.suffix in TENSORS and path.is_file()]
    return sorted(path for path in found if not path.is_symlink())


def _changed(place: Path) -> float:
    try:
        return place.stat().st_mtime
    except OSError:
        return 0.0
