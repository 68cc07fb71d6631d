"""Downloads from the hub that a later call continues where an earlier one, even a killed one, stopped."""

from __future__ import annotations

import errno
import fcntl
import http.client
import os
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Protocol
from urllib.parse import urlsplit

from vader_core.errors import MachineError, VaderError
from vader_core.files import sha256_of
from vader_core.weights import WeightFile, describe, fetch

_BLOCK = 1 << 20
_ATTEMPTS = 5
_TIMEOUT_SECONDS = 30.0
#: What counts as a broken connection, after which the download goes on.
_TRANSIENT = (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError)
#: The machine's own failures.
_NO_PLACE = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS)


class Progress(Protocol):
    """Told how far a download is."""

    def begin(self, name: str, done: int, total: int) -> None:
        """A file of ``total`` bytes begins; ``done`` of them are here already."""

    def advance(self, size: int) -> None:
        """``size`` more bytes are here."""


def download(wanted: WeightFile, progress: Progress, *, needed_for: str) -> Path:
    """The local path of a hub file, or of a repository's snapshot, fetching what is missing.

    What an earlier call fetched of a file is kept beside its place in the hub's own cache, under the file's
    checksum, and continued. Every other program that uses the hub's cache finds the result.

    Args:
        wanted: A file, or a whole repository.
        progress: Told how far it is.
        needed_for: What asks; begins messages.

    Raises:
        VaderError: Offline, gated, not found, or damaged on the way.
    """
    try:
        for file in _files(wanted):
            _complete(wanted, file, progress)
    except VaderError:
        raise
    except Exception as error:  # the hub's client says in its own words what is wrong, or does without us
        if isinstance(error, OSError) and error.errno in _NO_PLACE:
            raise MachineError(f"{needed_for}: cannot keep {describe(wanted)}: {error.strerror}") from error
    return fetch(wanted, needed_for=needed_for)


def _files(wanted: WeightFile) -> list[str]:
    from huggingface_hub import HfApi

    if wanted.file:
        return [wanted.file]
    return HfApi().list_repo_files(
        wanted.repository, revision=wanted.revision, repo_type=wanted.repository_type
    )


def _complete(wanted: WeightFile, file: str, progress: Progress) -> None:
    """Put the file under its checksum into the hub's cache, from where the hub's client links it."""
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url
    from huggingface_hub.file_download import repo_folder_name

    url = hf_hub_url(wanted.repository, file, revision=wanted.revision, repo_type=wanted.repository_type)
    facts = get_hf_file_metadata(url)
    if facts.etag is None or facts.size is None or constants.HF_HUB_OFFLINE:
        return
    folder = repo_folder_name(repo_id=wanted.repository, repo_type=wanted.repository_type)
    blob = Path(constants.HF_HUB_CACHE) / folder / "blobs" / facts.etag
    if blob.exists():
        return
    blob.parent.mkdir(parents=True, exist_ok=True)
    part = blob.with_name(f"{facts.etag}.part")
    with _held(part) as stream:
        stream.seek(0, os.SEEK_END)
        progress.begin(file, stream.tell(), facts.size)
        _fill(stream, facts.location, _headers(url, facts.location), facts.size, progress)
        _check(part, facts.etag, facts.size, wanted, file)
        part.replace(blob)


@contextmanager
def _held(part: Path) -> Iterator[IO[bytes]]:
    with part.open("ab") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise VaderError(f"another process downloads {part.stem}: wait for it") from error
        yield stream


def _headers(url: str, location: str) -> dict[str, str]:
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]  # public, not re-exported

    headers = dict(build_hf_headers())
    if urlsplit(url).netloc != urlsplit(location).netloc:  # the token is for the hub alone
        headers = {name: value for name, value in headers.items() if name.lower() != "authorization"}
    return headers


def _fill(stream: IO[bytes], location: str, headers: dict[str, str], size: int, progress: Progress) -> None:
    """Append to ``stream`` until it holds ``size`` bytes, reconnecting where the connection breaks."""
    attempts = 0
    while stream.tell() < size:
        before = stream.tell()
        try:
            with _open(location, headers, before) as response:
                if response.status != 206 and before:  # the server starts over
                    stream.truncate(0)
                    stream.seek(0)
                    progress.advance(-before)
                while block := response.read(_BLOCK):
                    stream.write(block)
                    stream.flush()
                    progress.advance(len(block))
        except _TRANSIENT as error:
            refused = isinstance(error, urllib.error.HTTPError) and error.code < 500
            if refused or attempts >= _ATTEMPTS:
                raise
        attempts = attempts + 1 if stream.tell() <= before else 0
        if attempts > _ATTEMPTS:
            raise ConnectionError(f"{location} ends before its {size} bytes are here")
        if attempts:
            time.sleep(0.2 * 2**attempts)


def _open(location: str, headers: dict[str, str], start: int) -> Any:
    ranged = headers | ({"Range": f"bytes={start}-"} if start else {})
    return urllib.request.urlopen(urllib.request.Request(location, headers=ranged), timeout=_TIMEOUT_SECONDS)


def _check(part: Path, etag: str, size: int, wanted: WeightFile, file: str) -> None:
    """Large files have their SHA-256 as etag; what is damaged is deleted."""
    damaged = part.stat().st_size != size or (len(etag) == 64 and sha256_of(part) != etag)
    if damaged:
        part.unlink()
        raise VaderError(f"{describe(wanted)}: {file or 'the file'} arrived damaged; run the command again")
