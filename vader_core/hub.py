"""Files of the hub: fetched within bounds, whatever the hub answers, and continued where a call was cut off.

The hub's client names files by what the hub answers. Each answer is checked before the client or this module
uses it. The bytes are fetched here: over https alone, to no other host with the user's token, no more than
were announced, and on from where an earlier call, even a killed one, stopped. The client finds them in its
own cache and links them, as every other program does.
"""

from __future__ import annotations

import errno
import fcntl
import http.client
import os
import re
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import IO, Any, Protocol
from urllib.parse import urlsplit

from vader_core.errors import MachineError, VaderError
from vader_core.files import replacing, sha256_of

_BLOCK = 1 << 20
_ATTEMPTS = 5
_TIMEOUT_SECONDS = 30.0
#: No file of a model is larger.
_MOST_BYTES = 1 << 42
#: No repository that is read has more files.
_MOST_FILES = 20_000
#: What the client takes for names of files and folders of its cache.
_ETAG, _COMMIT = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,127}"), re.compile(r"[0-9a-f]{40,64}")
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


class Wanted(Protocol):
    """What is fetched; a :class:`~vader_core.weights.WeightFile` is one."""

    @property
    def repository(self) -> str:
        """``OWNER/NAME``."""

    @property
    def file(self) -> str:
        """Path in it; ``""`` is the whole repository."""

    @property
    def revision(self) -> str | None:
        """Branch, tag or commit."""

    @property
    def repository_type(self) -> str:
        """``model`` or ``dataset``."""

    @property
    def folders(self) -> tuple[str, ...]:
        """Those of a whole repository that are read; all where there are none."""


class Unseen:
    """Progress that nobody watches."""

    def begin(self, name: str, done: int, total: int) -> None:
        """Ignored."""

    def advance(self, size: int) -> None:
        """Ignored."""


def fetched(wanted: Wanted, progress: Progress | None = None) -> Path:
    """The local path of a file of the hub, or of a repository's snapshot where no file is named.

    Args:
        wanted: Which; of a repository with ``folders``, these and the JSON files beside them.
        progress: Told how far it is.

    Raises:
        VaderError: The hub's answer is none that is followed, or the file arrived damaged.
        MachineError: It cannot be kept.
        Exception: Whatever the hub's client raises: offline, gated, not found.
    """
    shown = progress or Unseen()
    with guarded():
        if wanted.file:
            return _file(wanted.repository, wanted.file, wanted.revision, wanted.repository_type, shown)
        return _snapshot(wanted, shown)


def _file(repository: str, file: str, revision: str | None, kind: str, progress: Progress) -> Path:
    from huggingface_hub import hf_hub_download

    try:
        _complete(repository, file, revision, kind, progress)
    except (
        _UnreachableError
    ) as unreachable:  # what an earlier call fetched will do; nothing is fetched past us
        try:
            found = hf_hub_download(
                repository, file, revision=revision, repo_type=kind, local_files_only=True
            )
        except Exception:
            raise unreachable.error from None
        return Path(found)
    return Path(hf_hub_download(repository, file, revision=revision, repo_type=kind))


class _UnreachableError(Exception):
    """The hub did not answer, or with an error."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


def _snapshot(wanted: Wanted, progress: Progress) -> Path:
    from huggingface_hub import HfApi, constants, snapshot_download

    repository, revision, kind = wanted.repository, wanted.revision, wanted.repository_type
    if constants.HF_HUB_OFFLINE:
        return Path(snapshot_download(repository, revision=revision, repo_type=kind))
    try:
        facts = HfApi().repo_info(repository, revision=revision, repo_type=kind)
    except VaderError:
        raise
    except Exception:  # unreachable, perhaps: what is here already is found offline
        return Path(snapshot_download(repository, revision=revision, repo_type=kind, local_files_only=True))
    commit, names = str(facts.sha), [one.rfilename for one in getattr(facts, "siblings", None) or []]
    names = [name for name in names if _is_read(name, wanted.folders)]
    if not names:
        inside = f" in {', '.join(wanted.folders)}" if wanted.folders else ""
        raise VaderError(f"hub repository {repository}: it has no files{inside}")
    paths = [_file(repository, name, commit, kind, progress) for name in names]
    _name_commit(wanted, commit)
    return paths[0].parents[len(PurePosixPath(names[0]).parts) - 1]


def _name_commit(wanted: Wanted, commit: str) -> None:
    """Note which commit the branch or tag was, as the client does: offline it finds the snapshot by that."""
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    revision = wanted.revision or constants.DEFAULT_REVISION
    check_name(revision, wanted.repository)
    folder = repo_folder_name(repo_id=wanted.repository, repo_type=wanted.repository_type)
    note = Path(constants.HF_HUB_CACHE) / folder / "refs" / revision
    if revision != commit:
        note.parent.mkdir(parents=True, exist_ok=True)
        with replacing(note) as beside:
            beside.write_text(commit, encoding="utf-8")


def _is_read(name: str, folders: tuple[str, ...]) -> bool:
    first, _, rest = name.partition("/")
    return not folders or (first in folders if rest else name.endswith(".json"))


# -- what is asked of an answer ------------------------------------------------------------------------------


@contextmanager
def guarded() -> Iterator[None]:
    """Within, the hub's client is handed no answer that names a place outside its cache."""
    from huggingface_hub import HfApi, file_download
    from huggingface_hub.errors import HfHubHTTPError

    own, own_info = file_download.get_hf_file_metadata, HfApi.repo_info

    def informed(self: Any, repo_id: str, *arguments: Any, **given: Any) -> Any:
        facts = own_info(self, repo_id, *arguments, **given)
        check_repository(repo_id, facts)
        return facts

    def asked(url: str, *arguments: Any, **given: Any) -> Any:
        try:
            facts = own(url, *arguments, **given)
        except HfHubHTTPError as error:  # the client keeps a note of what is missing, by the commit
            commit = error.response.headers.get("X-Repo-Commit") if error.response is not None else None
            if commit is not None and not _COMMIT.fullmatch(commit):
                raise VaderError(f"{url}: the hub answered with {commit[:80]!r} for a commit") from error
            raise
        check_answer(url, facts)
        return replace(facts, xet_file_data=None)  # a protocol of its own, past these checks

    file_download.get_hf_file_metadata = asked
    HfApi.repo_info = informed  # type: ignore[method-assign]
    try:
        yield
    finally:
        file_download.get_hf_file_metadata = own
        HfApi.repo_info = own_info  # type: ignore[method-assign]


def check_repository(repository: str, facts: Any) -> None:
    """Refuse what the hub says of a repository where a name in it would lead outside of the cache.

    Raises:
        VaderError: Saying which.
    """
    names = [str(one.rfilename) for one in getattr(facts, "siblings", None) or []]
    if facts.sha is not None and not _COMMIT.fullmatch(str(facts.sha)):
        raise VaderError(
            f"hub repository {repository}: the hub answered with {str(facts.sha)[:80]!r} for a commit"
        )
    if len(names) > _MOST_FILES:
        raise VaderError(f"hub repository {repository}: it has {len(names):,} files")
    for name in names:
        check_name(name, repository)


def check_answer(url: str, facts: Any) -> None:
    """Refuse an answer to HEAD that would lead outside of the cache, to no https, or to no end.

    Raises:
        VaderError: Saying which part of the answer.
    """
    if facts.etag is None or facts.size is None:
        raise VaderError(f"{url}: the hub does not say the file's size and checksum")
    if not _ETAG.fullmatch(facts.etag):
        raise VaderError(f"{url}: the hub answered with {facts.etag[:80]!r} for a checksum")
    if facts.commit_hash is not None and not _COMMIT.fullmatch(facts.commit_hash):
        raise VaderError(f"{url}: the hub answered with {facts.commit_hash[:80]!r} for a commit")
    if not 0 <= facts.size <= _MOST_BYTES:
        raise VaderError(f"{url}: the hub answered with a size of {facts.size} bytes")
    check_address(facts.location, url)


def check_address(location: str, origin: str) -> None:
    """Refuse an address that is not https; a hub of one's own that is asked over http may stay with it.

    Raises:
        VaderError: Naming the address.
    """
    allowed = {"https", urlsplit(origin).scheme}
    try:
        parts = urlsplit(location)
        fine = parts.scheme in allowed - {"file", "ftp", "data"} and bool(parts.hostname)
    except ValueError:
        fine = False
    if not fine:
        raise VaderError(f"{origin}: the hub leads to {location[:120]!r}, which is not an https address")


def check_name(name: str, repository: str) -> None:
    """Refuse a file's name that leads out of its repository.

    Raises:
        VaderError: Naming it.
    """
    path = PurePosixPath(name)
    odd = path.is_absolute() or ".." in path.parts or "\\" in name or not name.isprintable() or not path.parts
    if odd:
        raise VaderError(f"hub repository {repository}: it has a file of the name {name[:80]!r}")


# -- the bytes -----------------------------------------------------------------------------------------------


def _complete(repository: str, file: str, revision: str | None, kind: str, progress: Progress) -> None:
    """Put the file under its checksum into the hub's cache, from where the hub's client links it."""
    from huggingface_hub import constants, file_download, hf_hub_url
    from huggingface_hub.file_download import repo_folder_name

    if constants.HF_HUB_OFFLINE:
        return
    url = hf_hub_url(repository, file, revision=revision, repo_type=kind)
    try:
        facts = file_download.get_hf_file_metadata(url)
    except VaderError:
        raise
    except Exception as error:  # offline, gated, not there
        raise _UnreachableError(error) from error
    etag, size = str(facts.etag), int(facts.size or 0)  # both are there: the answer was checked
    folder = repo_folder_name(repo_id=repository, repo_type=kind)
    blob = Path(constants.HF_HUB_CACHE) / folder / "blobs" / etag
    if blob.exists():
        return
    try:
        blob.parent.mkdir(parents=True, exist_ok=True)
        part = blob.with_name(f"{etag}.part")
        with _held(part) as stream:
            stream.seek(0, os.SEEK_END)
            progress.begin(file, stream.tell(), size)
            _fill(stream, facts.location, _headers(url, facts.location), size, progress)
            _check(part, etag, size, f"hub repository {repository}: {file}")
            part.replace(blob)
    except OSError as error:
        if error.errno in _NO_PLACE:
            raise MachineError(f"cannot keep {file} of {repository}: {error.strerror}") from error
        raise


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
    return headers if _same_host(url, location) else _without_token(headers)


def _same_host(one: str, other: str) -> bool:
    left, right = urlsplit(one), urlsplit(other)
    return (left.scheme, left.netloc) == (right.scheme, right.netloc)


def _without_token(headers: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in headers.items() if name.lower() not in ("authorization", "cookie")}


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
                while block := response.read(min(_BLOCK, size - stream.tell())):
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


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects to https alone, and to another host without the token."""

    def redirect_request(
        self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        """The request that follows.

        Raises:
            VaderError: To an address that is not followed.
        """
        check_address(newurl, req.full_url)
        made = super().redirect_request(req, fp, code, msg, headers, newurl)
        if made is not None and not _same_host(req.full_url, newurl):
            made.headers = _without_token(dict(made.headers))
            made.unredirected_hdrs = _without_token(dict(made.unredirected_hdrs))
        return made


def _open(location: str, headers: dict[str, str], start: int) -> Any:
    """An answer over http or https: no file, no other scheme, whatever a redirect says."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        urllib.request.UnknownHandler(),
        _Redirects(),
    ):
        opener.add_handler(handler)
    ranged = headers | ({"Range": f"bytes={start}-"} if start else {})
    return opener.open(urllib.request.Request(location, headers=ranged), timeout=_TIMEOUT_SECONDS)


def _check(part: Path, etag: str, size: int, what: str) -> None:
    """Large files have their SHA-256 as etag; what is damaged is deleted."""
    damaged = part.stat().st_size != size or (len(etag) == 64 and sha256_of(part) != etag)
    if damaged:
        part.unlink()
        raise VaderError(f"{what} arrived damaged; run the command again")
