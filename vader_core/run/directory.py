"""The run directory: the truth about a run."""

from __future__ import annotations

import json
import os
import platform
import shutil
import sys
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import yaml

from vader_core.errors import MachineError, VaderError
from vader_core.files import replacing
from vader_core.run.checkpoint import step_name, sweep
from vader_core.run.config import RunConfig, validated
from vader_core.run.layers import to_yaml
from vader_core.run.names import CONFIG, ENVIRONMENT, METRICS, SUMMARY
from vader_core.values import read_document


class Run:
    """A run directory that this process holds alone.

    Args:
        folder: The directory; it exists.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock: IO[str] | None = None

    # -- opening -----------------------------------------------------------------------------------------

    @classmethod
    def create(cls, folder: Path, config: RunConfig, *, overwrite: bool = False) -> Run:
        """A new run; an existing folder is refused unless it is a run and ``overwrite`` is given.

        Raises:
            VaderError: The folder exists, or another process holds it.
            MachineError: It cannot be written.
        """
        if folder.exists() and any(folder.iterdir() if folder.is_dir() else [folder]):
            if not overwrite:
                raise VaderError(
                    f"--out {folder} exists: continue it with --resume {folder}, replace it with "
                    "--overwrite, "
                    "or choose another --out"
                )
            if not (folder / CONFIG).is_file():
                raise VaderError(f"--out {folder} is not a run directory, so --overwrite does not touch it")
            with cls(folder):
                _empty(folder)
        run = cls(folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise MachineError(f"cannot write --out {folder}: {error.strerror}") from error
        run.acquire()
        run.record(config)
        return run

    @classmethod
    def open(cls, folder: Path) -> Run:
        """A run that is there, to be continued.

        Raises:
            VaderError: Not a run directory, or another process holds it.
        """
        if not (folder / CONFIG).is_file():
            raise VaderError(f"{folder} is not a run directory: it has no {CONFIG}")
        run = cls(folder)
        run.acquire()
        sweep(run.checkpoints)
        return run

    def acquire(self) -> None:
        """Hold the directory until this process ends.

        Raises:
            VaderError: Another process holds it.
        """
        import fcntl

        stream = (self.folder / ".lock").open("a+")
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            stream.seek(0)
            holder = stream.read().strip() or "unknown"
            stream.close()
            raise VaderError(
                f"{self.folder} is in use by another process (pid {holder}); wait for it or end it"
            ) from error
        stream.seek(0)
        stream.truncate()
        stream.write(str(os.getpid()))
        stream.flush()
        self._lock = stream

    def release(self) -> None:
        """Let go of the directory."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def __enter__(self) -> Run:
        if self._lock is None:
            self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    # -- files -------------------------------------------------------------------------------------------

    @property
    def checkpoints(self) -> Path:
        """Where checkpoints lie."""
        return self.folder / "checkpoints"

    def samples(self, step: int) -> Path:
        """Where the samples of a validation lie."""
        return self.folder / "samples" / step_name(step)

    def config(self) -> RunConfig:
        """The configuration the run was made with."""
        from vader_core.run.layers import read_yaml

        return validated(read_yaml(self.folder / CONFIG))

    def recorded(self) -> RunConfig:
        """The configuration that the run was last started with, whatever ``config.yaml`` says by now.

        It stands in ``environment.json``; where that cannot be read, ``config.yaml`` is taken.
        """
        try:
            held = json.loads((self.folder / ENVIRONMENT).read_text(encoding="utf-8"))
            return validated(read_document(held["config"]))
        except (OSError, ValueError, LookupError, TypeError, RecursionError, yaml.YAMLError, VaderError):
            return self.config()

    def record(self, config: RunConfig) -> None:
        """Write the configuration for people, and beside what the run began on for comparison."""
        text = to_yaml(config)
        self.write(CONFIG, text)
        try:
            held = dict(json.loads((self.folder / ENVIRONMENT).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError, RecursionError):
            held = environment()
        self.write(ENVIRONMENT, json.dumps(held | {"config": text}, indent=1))

    def write(self, name: str, text: str) -> None:
        """Write a file beside its place and rename it into it."""
        with replacing(self.folder / name) as beside:
            beside.write_text(text, encoding="utf-8")

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """Write ``summary.json``."""
        self.write(SUMMARY, json.dumps(dict(summary), indent=1) + "\n")

    def append(self, record: Mapping[str, Any]) -> None:
        """Add a line to ``metrics.jsonl``.

        Raises:
            MachineError: The disk is full.
        """
        try:
            with (self.folder / METRICS).open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(dict(record)) + "\n")
        except OSError as error:
            raise MachineError(f"cannot write {self.folder / METRICS}: {error.strerror}") from error

    def metrics(self) -> list[dict[str, Any]]:
        """Every whole line of ``metrics.jsonl``; a torn or corrupt line alone is left out."""
        path = self.folder / METRICS
        return (
            list(_whole_lines(path.read_text(encoding="utf-8", errors="replace"))) if path.is_file() else []
        )

    def cut_metrics(self, step: int) -> None:
        """Drop every record of a step past ``step``: the resumed run writes them again."""
        kept = [record for record in self.metrics() if _step_of(record) <= step]
        self.write(METRICS, "".join(json.dumps(record) + "\n" for record in kept))


def _step_of(record: Mapping[str, Any]) -> float:
    step = record.get("step", 0)
    return step if isinstance(step, int | float) else 0


def _whole_lines(text: str) -> Iterable[dict[str, Any]]:
    for line in text.split("\n"):
        try:
            found = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(found, dict):
            yield found


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        if path.name == ".lock":
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def environment() -> dict[str, Any]:
    """Versions, devices and the command line."""
    import torch

    devices = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    names = ("torch", "accelerate", "peft", "diffusers", "transformers", "safetensors", "pydantic")
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu_threads": torch.get_num_threads(),
        "devices": devices,
        "packages": {name: found for name in names if (found := _version(name))},
        "plugins": {
            distribution.name: distribution.version
            for distribution in metadata.distributions()
            if any(point.group == "vader" for point in distribution.entry_points)
        },
    }


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
