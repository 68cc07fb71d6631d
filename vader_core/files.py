"""Files that are written whole or not at all, and their checksums."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
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

    Raises:
        MachineError: The disk is full or cannot be written.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield beside
        with beside.open("rb+") as stream:
            os.fsync(stream.fileno())
        beside.replace(path)
    except OSError as error:
        raise MachineError(
            f"cannot write {path}: {error.strerror or error}; free the disk or choose another --out"
        ) from error
    finally:
        beside.unlink(missing_ok=True)
