"""The files that components want, as plain data: whether they are here, their size and licence."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vader_core.weights import WeightFile

#: Repositories that are not on the hub begin so; their files are fetched by hand.
_ELSEWHERE = ("github.com/", "http://", "https://")


def present(wanted: WeightFile) -> Path | None:
    """Where the file (of a whole repository, its newest snapshot) lies in the hub's cache, if it does."""
    from huggingface_hub import constants, try_to_load_from_cache
    from huggingface_hub.file_download import repo_folder_name

    if not on_hub(wanted):
        return None
    if wanted.file:
        found = try_to_load_from_cache(
            wanted.repository, wanted.file, revision=wanted.revision, repo_type=wanted.repository_type
        )
        return Path(found) if isinstance(found, str) else None
    folder = repo_folder_name(repo_id=wanted.repository, repo_type=wanted.repository_type)
    snapshots = sorted((Path(constants.HF_HUB_CACHE) / folder / "snapshots").glob("*"), key=_changed)
    return snapshots[-1] if snapshots else None


def _changed(path: Path) -> float:
    return path.stat().st_mtime


def on_hub(wanted: WeightFile) -> bool:
    """Whether the hub's client can fetch it."""
    return not wanted.repository.startswith(_ELSEWHERE)


def file_facts(wanted: WeightFile) -> dict[str, Any]:
    """A wanted file as plain data."""
    here = present(wanted)
    size = wanted.size
    if here is not None:
        files = [here] if here.is_file() else [path for path in here.rglob("*") if path.is_file()]
        size = sum(path.stat().st_size for path in files)
    return {
        "repository": wanted.repository,
        "file": wanted.file,
        "revision": wanted.revision,
        "sha256": wanted.sha256,
        "size": size,
        "licence": wanted.licence,
        "gated": wanted.gated,
        "note": wanted.note,
        "path": str(here) if here is not None else None,
    }


def size_words(size: int | None) -> str:
    """Bytes as a person reads them.

    >>> size_words(3715200), size_words(2**31), size_words(None)
    ('3.5 MiB', '2.0 GiB', 'size not known')
    """
    if size is None:
        return "size not known"
    value = float(size)
    for unit in ("B", "KiB", "MiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} GiB"
