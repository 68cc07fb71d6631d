"""Files that are written whole or not at all, and their checksums."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from vader_core.errors import MachineError, VaderError


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def check_sha256(path: Path, expected: str | None) -> None:
    """Refuse a file whose SHA-256 is not the expected one; ``None`` expects nothing.

    Raises:
        VaderError: Naming both sums.
    """
    if expected is None:
        return
    found = sha256_of(path)
    if found != expected:
        raise VaderError(
            f"{path}: sha256 is {found}, but {expected} is known for this file; delete it and download it "
            "again"
        )


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path beside ``path`` to write to; renamed over it when the block ends well, removed when it does not.

    The bytes are on the disk before the name is, and the name before this returns.

    Raises:
        MachineError: The disk is full or cannot be written.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        beside.unlink(missing_ok=True)  # a link of that name would be written through
        yield beside
        sync(beside)
        beside.replace(path)
        sync(path.parent)
    except Exception as error:
        if not _is_of_writing(error):
            raise
        reason = getattr(error, "strerror", None) or (str(error).splitlines() or [""])[0]
        raise MachineError(f"cannot write {path}: {reason}; free the disk or choose another --out") from error
    finally:
        with suppress(OSError):
            beside.unlink(missing_ok=True)


def _is_of_writing(error: Exception) -> bool:
    """Whether it says that bytes could not be written: torch's and safetensors' writers have their own."""
    return isinstance(error, OSError | RuntimeError) or type(error).__name__ == "SafetensorError"


def sync(path: Path) -> None:
    """Wait until a file's bytes, or a folder's names, are on the disk.

    Raises:
        OSError: They could not be written.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # file systems that cannot sync a folder
            raise
    finally:
        os.close(descriptor)


def unfinished_in(folder: Path) -> list[Path]:
    """What :func:`replacing` left in a folder whose process was killed."""
    return [path for path in folder.iterdir() if path.name.startswith(".") and path.name.endswith(".part")]


def sweep_unfinished(folder: Path) -> None:
    """Delete what :func:`replacing` left in a folder, but for what a living process may be writing still."""
    import psutil

    for path in unfinished_in(folder):
        number = path.name.split(".")[-2]
        if not (number.isdecimal() and psutil.pid_exists(int(number))):
            path.unlink(missing_ok=True)


def strange_in(folder: Path) -> Path | None:
    """The first path in a folder, at any depth, that is neither a folder, a file nor a link to one within it.

    Raises:
        OSError: A folder cannot be listed.
    """
    root = folder.resolve()
    waiting = [folder]
    while waiting:
        for entry in sorted(os.scandir(waiting.pop()), key=lambda entry: entry.name):
            if entry.is_dir(follow_symlinks=False):
                waiting.append(Path(entry.path))
            elif entry.is_symlink():
                if not _within(Path(entry.path), root):
                    return Path(entry.path)
            elif not entry.is_file(follow_symlinks=False):
                return Path(entry.path)
    return None


def _within(link: Path, root: Path) -> bool:
    try:
        target = link.resolve()
    except (OSError, RuntimeError):  # links in a circle
        return False
    return target.is_relative_to(root) and (target.is_file() or target.is_dir())
