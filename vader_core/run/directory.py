"""The run directory: the truth about a run."""

from __future__ import annotations

import json
import os
import platform
import shutil
import stat
import sys
from collections.abc import Iterable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import yaml

from vader_core.errors import MachineError, VaderError
from vader_core.files import replacing, strange_in, sync, unfinished_in
from vader_core.run.checkpoint import step_name, sweep
from vader_core.run.config import RunConfig, validated
from vader_core.run.layers import read_settings, to_yaml
from vader_core.run.names import ABOUT, CONFIG, ENVIRONMENT, METRICS, STAGES, SUMMARY
from vader_core.tokens import without_tokens

#: Held by the process that writes the run.
LOCK = ".lock"
#: The settings of a run that is being replaced; while it is there, the folder is no run.
REPLACED = ".config.yaml.old"
#: The settings before a change, in ``environment.json`` while the change is written.
BEFORE = "config_before"
#: What reading a file that somebody else wrote may raise.
_UNREADABLE = (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError)

#: More are a mistake in a file.
MOST_PROCESSES = 100_000


class Run:
    """A run directory that this process holds alone.

    Args:
        folder: The directory; it exists.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._made = False
        self._lock: IO[str] | None = None

    # -- opening -----------------------------------------------------------------------------------------

    @classmethod
    def create(cls, folder: Path, config: RunConfig, *, overwrite: bool = False, processes: int = 1) -> Run:
        """A new run; a run that is there is refused unless it made no step, or ``overwrite`` is given.

        One in which a run ended before it had begun is taken as empty.

        Raises:
            VaderError: The folder exists, or another process holds it.
            MachineError: It cannot be written.
        """
        try:
            if not _startable(folder):
                if not overwrite and not cls(folder).is_unbegun:
                    raise VaderError(
                        f"--out {folder} exists: continue it with --resume {folder}, replace it with "
                        "--overwrite, or choose another --out"
                    )
                if not (folder / CONFIG).is_file():
                    raise VaderError(
                        f"--out {folder} is not a run directory, so --overwrite does not touch it"
                    )
            made = not folder.exists()
            folder.mkdir(parents=True, exist_ok=True)
            run = cls(folder)
            run._made = made
            run.acquire()
            try:
                if not overwrite and (folder / CONFIG).exists() and not run.is_unbegun:
                    # another process was faster
                    raise VaderError(f"--out {folder} exists: choose another --out")
                _empty(folder)
                run.record(config, processes)
                sync(folder.parent)
            except BaseException:
                run.release()
                raise
        except OSError as error:
            raise MachineError(f"cannot write --out {folder}: {error.strerror or error}") from error
        return run

    @classmethod
    def open(cls, folder: Path) -> Run:
        """A run that is there, to be continued.

        Raises:
            VaderError: Not a run directory, or another process holds it.
        """
        if not (folder / CONFIG).is_file():
            begun = "; it was only begun: give the same command again" if _begun(folder) else ""
            raise VaderError(f"{folder} is not a run directory: it has no {CONFIG}{begun}")
        run = cls(folder)
        run.acquire()
        try:
            run._tidy()
        except OSError as error:
            run.release()
            raise MachineError(f"cannot write {folder}: {error.strerror or error}") from error
        except BaseException:
            run.release()
            raise
        return run

    def _tidy(self) -> None:
        """Remove what a killed process left behind; refuse what would lead writing out of the folder."""
        strange = strange_in(self.folder)
        if strange is not None:
            raise VaderError(
                f"{strange} is a link out of the run directory, or no plain file: nothing is written into "
                "such a run. Remove it, or put a copy of what it points to in its place"
            )
        for folder in (self.folder, *(self.folder / "samples").glob("step-*")):
            for path in unfinished_in(folder):
                path.unlink()
        sweep(self.checkpoints)
        if self._environment() is None:  # lost, or not what a run writes: nothing else can be compared with
            self.write(ENVIRONMENT, json.dumps(environment() | {"config": to_yaml(self.config())}, indent=1))

    def _environment(self) -> dict[str, Any] | None:
        """What ``environment.json`` holds, or ``None`` where it is not what a run writes."""
        try:
            held = json.loads(_plain_text(self.folder / ENVIRONMENT))
        except _UNREADABLE:
            return None
        return held if isinstance(held, dict) else None

    def acquire(self) -> None:
        """Hold the directory until this process ends.

        Raises:
            VaderError: Another process holds it.
        """
        import fcntl

        path = self.folder / LOCK
        try:  # never through a link: the file is emptied
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                os.close(descriptor)
                raise VaderError(f"{path} is no plain file, as a run's lock is: remove it")
        except OSError as error:
            if path.is_symlink():
                raise VaderError(f"{path} is a link, which no run makes: remove it") from error
            raise MachineError(
                f"cannot write {path}: {error.strerror}; a run's folder must be writable"
            ) from error
        stream = os.fdopen(descriptor, "r+", errors="replace")
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = stream.read(32).strip() or "unknown"
            stream.close()
            raise VaderError(
                f"{self.folder} is in use by another process (pid {holder}); wait for it or end it"
            ) from error
        except OSError as error:  # a file system without locks
            stream.close()
            raise MachineError(
                f"cannot lock {path}: {error.strerror}; put the run on a file system that has locks"
            ) from error
        self._lock = stream
        try:
            stream.truncate(0)
            stream.write(str(os.getpid()))
            stream.flush()
        except OSError as error:
            self.release()
            raise MachineError(f"cannot write {path}: {error.strerror}; free the disk") from error

    def release(self) -> None:
        """Let go of the directory."""
        if self._lock is not None:
            with suppress(OSError):  # what could not be written could not be flushed either
                self._lock.close()
            self._lock = None

    def discard(self) -> None:
        """Take away a new run that was refused before it had written more than what was asked for."""
        names = [LOCK, ENVIRONMENT, ABOUT, CONFIG]
        with suppress(OSError):  # what is left is a run that was only begun, or empty
            if not {path.name for path in self.folder.iterdir()} <= {*names, STAGES}:
                return
            if (self.folder / STAGES).is_dir():
                (self.folder / STAGES).rmdir()
            for name in reversed(names):
                (self.folder / name).unlink(missing_ok=True)
            if self._made:
                self.folder.rmdir()

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

        It stands in ``environment.json``; where that cannot be read, ``config.yaml`` is taken. A change that
        was cut off before ``config.yaml`` had it did not happen.
        """
        try:
            held = self._environment() or {}
            if held.get(BEFORE) == _plain_text(self.folder / CONFIG):
                return self.config()
            return validated(read_settings(held["config"]))
        except (*_UNREADABLE, yaml.YAMLError, VaderError):
            return self.config()

    def processes(self) -> int:
        """How many processes the run was last started with; 1 where nothing readable says so."""
        found = (self._environment() or {}).get("processes", 1)
        return found if isinstance(found, int) and 1 <= found <= MOST_PROCESSES else 1

    def record(self, config: RunConfig, processes: int | None = None) -> None:
        """Write what the run began on for comparison, and the configuration for people."""
        text, path = to_yaml(config), self.folder / CONFIG
        held = (self._environment() if path.is_file() else None) or environment()
        held = {key: value for key, value in held.items() if key != BEFORE}
        if processes is not None:
            held["processes"] = processes
        before = {BEFORE: path.read_text(encoding="utf-8", errors="replace")} if path.is_file() else {}
        self.write(ENVIRONMENT, json.dumps(held | before | {"config": text}, indent=1))
        self.write(CONFIG, text)  # with it the folder is a run
        if before:
            self.write(ENVIRONMENT, json.dumps(held | {"config": text}, indent=1))

    def write(self, name: str, text: str) -> None:
        """Write a file beside its place and rename it into it."""
        with replacing(self.folder / name) as beside:
            beside.write_text(text, encoding="utf-8")

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """Write ``summary.json``."""
        self.write(SUMMARY, json.dumps(dict(summary), indent=1) + "\n")

    def summary(self) -> dict[str, Any]:
        """What :meth:`write_summary` wrote; empty where it did not, or cannot be read."""
        try:
            found = json.loads(_plain_text(self.folder / SUMMARY))
        except (OSError, ValueError, RecursionError):
            return {}
        return found if isinstance(found, dict) else {}

    @property
    def is_unbegun(self) -> bool:
        """Whether it is a run that ended before its first step: nothing would be lost with it."""
        if not (self.folder / CONFIG).is_file() or any(self.checkpoints.glob("*")):
            return False
        if not all(Run(stage).is_unbegun for stage in (self.folder / STAGES).glob("*")):
            return False
        return not any(record.get("kind") == "train" for record in self.metrics())

    def append(self, record: Mapping[str, Any]) -> None:
        """Add a line to ``metrics.jsonl``; it is on the disk when this returns.

        Raises:
            MachineError: The disk is full.
        """
        try:
            with (self.folder / METRICS).open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(dict(record)) + "\n")
                stream.flush()
                os.fsync(stream.fileno())
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


def is_run(folder: Path) -> bool:
    """Whether ``folder`` holds a run."""
    return (folder / CONFIG).is_file()


def _plain_text(path: Path) -> str:
    """A plain file's text; what is none (a pipe, a device) would be waited for without end.

    Raises:
        OSError: It is none, or cannot be read.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is no plain file")
    return path.read_text(encoding="utf-8")


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


def _startable(folder: Path) -> bool:
    """Whether a run can begin in ``folder``: nothing is there, or a run that was begun and no more."""
    if not folder.exists():
        if folder.is_symlink():
            raise VaderError(f"--out {folder} is a link to nothing: remove it, or choose another --out")
        return True
    if not folder.is_dir():
        raise VaderError(f"--out {folder} is a file: choose another --out")
    return not any(folder.iterdir()) or _begun(folder)


def _begun(folder: Path) -> bool:
    """Whether a process was killed here before its run had settings, or while it replaced an older run."""
    if (folder / CONFIG).exists() or not (folder / LOCK).is_file():
        return False
    if (folder / REPLACED).is_file():
        return True
    rest = {path.name for path in folder.iterdir()} - {LOCK, ENVIRONMENT}
    return all(name.startswith(".") and name.endswith(".part") for name in rest)


def _empty(folder: Path) -> None:
    """Remove a run, all but its lock; first its settings, so that what is killed in between is no run."""
    if (folder / CONFIG).exists():
        (folder / CONFIG).replace(folder / REPLACED)
        sync(folder)
    for path in sorted(folder.iterdir(), key=lambda path: path.name == REPLACED):
        if path.name == LOCK:
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def environment() -> dict[str, Any]:
    """Versions, devices and the command line."""
    import torch

    devices = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    names = ("torch", "diffusers", "transformers", "safetensors", "pydantic")
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": [Path(sys.argv[0]).name, *map(without_tokens, sys.argv[1:])],
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
