"""The files that components want, as plain data: whether they are here, their size and licence."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vader_core.component import KINDS
from vader_core.tensor_files import ENDINGS

if TYPE_CHECKING:
    from pydantic import BaseModel

    from vader_core.component import Component
    from vader_core.weights import WeightFile, WeightSource

#: Repositories that are not on the hub begin so; their files are fetched by hand.
_ELSEWHERE = ("github.com/", "http://", "https://")


def present(wanted: WeightFile) -> Path | None:
    """Where the file lies in the hub's cache, if it does.

    Of a whole repository, its newest snapshot: one with weights in it and each folder that is read, since a
    plan fetches the JSON files alone.
    """
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
    found = [one for one in snapshots if all((one / name).is_dir() for name in wanted.folders)]
    return next((one for one in reversed(found) if _holds_weights(one)), None)


def _holds_weights(folder: Path) -> bool:
    return any(path.suffix in ENDINGS for path in folder.rglob("*"))


def _changed(path: Path) -> float:
    return path.stat().st_mtime


def on_hub(wanted: WeightFile) -> bool:
    """Whether the hub's client can fetch it."""
    return not wanted.repository.startswith(_ELSEWHERE)


def files_read(component: Component, given: Mapping[str, Any]) -> tuple[WeightFile, ...]:
    """The files that a component reads with these options, the optional ones too.

    Args:
        component: With the files that it may want.
        given: Its options, unchecked.

    Raises:
        VaderError: An option that it does not take.
    """
    from vader_core.weights import WeightFile

    if not component.weights:
        return ()
    options = component.options(dict(given))
    names = {"weights", *(name for wanted in component.weights for name, _ in wanted.when)}
    sources = {name: _source(component, name, options) for name in names if name.endswith("weights")}
    source = sources["weights"]
    if source is None or source.kind == "pretrained":
        return tuple(wanted for wanted in component.weights if _is_read(wanted, options))
    if source.kind == "random":
        return ()
    beside = [wanted for wanted in component.weights if _has_own(wanted) and _is_read(wanted, options)]
    if source.kind == "path":
        return tuple(beside)
    known = [wanted for wanted in component.weights if wanted.repository == source.repository]
    if not known or source.file or source.revision:
        known = [WeightFile(source.repository, source.file, source.revision)]
    return (*known, *beside)


def _has_own(wanted: WeightFile) -> bool:
    """Whether an option beside ``weights`` says where the file comes from."""
    return any(name.endswith("_weights") for name, _ in wanted.when)


def _source(component: Component, name: str, options: BaseModel) -> WeightSource | None:
    """What an option that ends in ``weights`` means; ``None`` where it is left out."""
    from vader_core.errors import VaderError
    from vader_core.weights import parse_weights

    value = _value(options, name)
    if value is None:
        return None
    try:
        return parse_weights(str(value))
    except VaderError as error:
        key = KINDS[component.kind].key.format(name=component.name, option=name)
        raise VaderError(f"{component} (-o {key}=PATH): {error}") from error


def _value(options: BaseModel, name: str) -> Any:
    found: Any = options
    for part in name.split("."):
        found = getattr(found, part, None)
    return found


def _is_read(wanted: WeightFile, options: BaseModel) -> bool:
    parts = {name.rpartition(".")[0] for name, _ in wanted.when if "." in name}
    if any(_value(options, f"{part}.weights") == "random" for part in parts):
        return False
    return all(_value(options, name) in values for name, values in wanted.when)


def when_words(component: Component, wanted: WeightFile) -> str:
    """As ``-o`` has them, the options with which a component reads a file; empty where it does by default."""
    if _is_read(wanted, component.options({})):
        return ""
    key = KINDS[component.kind].key
    default = component.options({})
    return " ".join(
        f"-o {key.format(name=component.name, option=name)}={values[-1]}"
        for name, values in wanted.when
        if _value(default, name) not in values
    )


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
        "folders": list(wanted.folders),
        "revision": wanted.revision,
        "sha256": wanted.sha256,
        "size": size,
        "numbers": wanted.numbers,
        "licence": wanted.licence,
        "gated": wanted.gated,
        "note": wanted.note,
        "path": str(here) if here is not None else None,
    }


def size_words(size: int | None, numbers: int | None = None) -> str:
    """Bytes as a person reads them; where they are not known, what the numbers take.

    >>> size_words(3715200), size_words(2**31), size_words(None)
    ('3.5 MiB', '2.0 GiB', 'size not known')
    >>> size_words(None, 2**31)
    'about 4.0 GiB in 16 bit, 8.0 GiB in 32'
    """
    if size is None:
        return (
            f"about {_told(2 * numbers)} in 16 bit, {_told(4 * numbers)} in 32"
            if numbers
            else "size not known"
        )
    return _told(size)


def total_words(files: Iterable[Mapping[str, Any]]) -> str:
    """What files take together; those that are only counted in 32 bit, the most they may be.

    >>> total_words([{"size": 2**30, "numbers": None}, {"size": None, "numbers": 2**28}])
    'at most 2.0 GiB'
    >>> total_words([{"size": 2**30, "numbers": None}, {"size": None, "numbers": None}])
    '1.0 GiB and 1 of a size that is not known'
    """
    held = list(files)
    unknown = sum(one["size"] is None and not one["numbers"] for one in held)
    counted = any(one["size"] is None and one["numbers"] for one in held)
    known = sum(one["size"] or 4 * (one["numbers"] or 0) for one in held)
    words = [f"{'at most ' if counted else ''}{_told(known)}"] if known else []
    words += [f"{unknown} of a size that is not known"] if unknown else []
    return " and ".join(words)


def _told(size: int) -> str:
    value = float(size)
    for unit in ("B", "KiB", "MiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} GiB"
