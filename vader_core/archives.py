"""Files within tar archives, read where they lie: ``clips-00000.tar/00000001.mp4`` is a path like any other.

A webdataset is a folder of such archives. Nothing is unpacked: a member is a stretch of its archive's bytes.
"""

from __future__ import annotations

import io
import stat
import tarfile
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

from vader_core.errors import VaderError

#: The ending by which archives are known.
TAR = ".tar"
#: An archive of a webdataset has a thousand; more members than this are none.
_MOST_MEMBERS = 2_000_000


class _Stretch(io.RawIOBase):
    """A stretch of a file as a file of its own."""

    def __init__(self, file: BinaryIO, start: int, size: int) -> None:
        self._file, self._start, self._size, self._at = file, start, size, 0

    def readable(self) -> bool:
        """It can be read."""
        return True

    def seekable(self) -> bool:
        """Any place in it can be gone to."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a place in the stretch."""
        origin = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        self._at = max(0, origin + offset)
        return self._at

    def tell(self) -> int:
        """The place in the stretch."""
        return self._at

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """Read on."""
        wanted = min(len(buffer), max(0, self._size - self._at))
        self._file.seek(self._start + self._at)
        found = self._file.read(wanted)
        buffer[: len(found)] = found
        self._at += len(found)
        return len(found)

    def close(self) -> None:
        """Close the archive too."""
        self._file.close()
        super().close()


def members(archive: Path) -> dict[str, tuple[int, int]]:
    """Where the regular files of an archive lie in it: (first byte, bytes) by name.

    Raises:
        VaderError: It is no plain tar archive, is cut off, or has too many members.
    """
    try:
        facts = archive.stat()
    except OSError as error:
        raise VaderError(f"archive {archive}: {error.strerror}") from error
    if not stat.S_ISREG(facts.st_mode):
        raise VaderError(f"archive {archive}: not a regular file")
    return _members(archive, facts.st_size, facts.st_mtime_ns)


@lru_cache(maxsize=64)
def _members(archive: Path, size: int, _changed: int) -> dict[str, tuple[int, int]]:
    found: dict[str, tuple[int, int]] = {}
    try:
        with tarfile.open(archive, "r:") as tar:
            for member in tar:
                if len(found) > _MOST_MEMBERS:
                    raise VaderError(f"archive {archive}: it has more than {_MOST_MEMBERS:,} members")
                if member.isreg() and not member.issparse():
                    if member.offset_data + member.size > size:
                        raise VaderError(f"archive {archive}: it is cut off within {member.name!r}")
                    found[member.name] = (member.offset_data, member.size)
    except (tarfile.TarError, OSError, ValueError, OverflowError, RecursionError) as error:
        raise VaderError(f"archive {archive}: not a plain tar archive: {error}") from error
    return found


def archive_of(path: Path) -> tuple[Path, str] | None:
    """The archive that a path leads into, and the member's name; ``None`` for a path of the file system."""
    for place in path.parents:
        if place.suffix == TAR and place.is_file():
            return place, path.relative_to(place).as_posix()
    return None


def is_file(path: Path) -> bool:
    """Whether there is such a file, or such a member of an archive."""
    within = archive_of(path)
    if within is None:
        return path.is_file()
    try:
        return within[1] in members(within[0])
    except VaderError:
        return False


def open_bytes(path: Path) -> BinaryIO:
    """A file, or a member of an archive, for reading.

    Raises:
        OSError: There is none.
        VaderError: The archive cannot be read.
    """
    within = archive_of(path)
    if within is None:
        return path.open("rb")
    archive, name = within
    place = members(archive).get(name)
    if place is None:
        raise FileNotFoundError(2, "no such member of the archive", str(path))
    return io.BufferedReader(_Stretch(archive.open("rb"), *place))


def samples(archive: Path) -> Iterator[dict[str, Path]]:
    """The samples of a webdataset's archive, in its order: path by ending, the files of one name together."""
    found: dict[str, dict[str, Path]] = {}
    for name in members(archive):
        stem, dot, ending = Path(name).name.partition(".")
        if dot and stem:
            key = (Path(name).parent / stem).as_posix()
            found.setdefault(key, {})[f".{ending.lower()}"] = archive / name
    yield from found.values()
