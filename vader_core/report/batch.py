"""The page of a folder of clips: ``index.html`` beside them."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any
from urllib.parse import quote

from vader_core.clip_forms import FORMS
from vader_core.files import replacing
from vader_core.report.clips import Gallery, Pair, Side, Source, changes
from vader_core.report.page import fragment, rendered
from vader_core.run.batch import Batch, BatchClip, read_batch

NAME = "index.html"

#: The files that a page offers of a clip.
Forms = Callable[[Path], Iterable[Path]]


def write_batch_page(folder: Path) -> Path:
    """Write the page of a folder of clips, from the folder alone.

    Returns:
        ``index.html`` in it, which plays the clips that lie beside it.

    Raises:
        VaderError: It holds no list of clips, or one that cannot be read.
    """
    batch = read_batch(folder)
    path = folder / NAME
    with replacing(path) as beside:
        beside.write_text(batch_page(batch), encoding="utf-8")
    return path


def batch_page(batch: Batch) -> str:
    """The page as text."""
    return rendered("batch.html", **_told(batch, lambda path: _beside(batch, path), forms_of))


def batch_body(batch: Batch, source: Source, forms: Forms) -> str:
    """The clips, as what stands between a page's beginning and end."""
    return fragment("batch_body.html", **_told(batch, source, forms))


def forms_of(clip: Path) -> list[Path]:
    """A clip's files that lie in its folder: the mp4, and what stands beside it."""
    beside = (clip.with_suffix(f".{form}") for form in FORMS)
    return [clip, *(path for path in beside if path.is_file() and not path.is_symlink())]


def _told(batch: Batch, source: Source, forms: Forms) -> dict[str, Any]:
    small = any(clip.is_small for clip in batch.clips)
    return {
        "batch": batch,
        "clips": batch_gallery(batch, source, forms),
        "small": small,
        "omissions": batch.omissions,
    }


def _beside(batch: Batch, path: Path) -> str:
    return quote(path.relative_to(batch.folder).as_posix())


def batch_gallery(batch: Batch, source: Source, forms: Forms) -> Gallery:
    """The clips, a base twin beside the tuned one."""
    groups: dict[tuple[str, int | None, str | None], list[BatchClip]] = {}
    for clip in batch.clips:
        groups.setdefault((clip.prompt, clip.seed, str(clip.picture)), []).append(clip)
    pairs = []
    for clips in groups.values():
        ordered = sorted(clips, key=lambda clip: not clip.is_base)
        sides = [
            Side(
                label=_label(clip, len(ordered)),
                prompt=clip.prompt,
                source=source(clip.path),
                is_last=clip is ordered[-1],
                files={path.suffix.removeprefix("."): source(path) for path in forms(clip.path)},
            )
            for clip in ordered
        ]
        last = ordered[-1]
        pairs.append(
            Pair(
                prompt=last.prompt,
                seed=last.seed,
                sides=sides,
                changes=changes([clip.scores for clip in ordered]),
                picture=None if last.picture is None else source(last.picture),
                command=shlex.join(last.command) if last.command else None,
                settings=last.settings,
            )
        )
    columns = max((len(clips) for clips in groups.values()), default=0)
    return Gallery(pairs, len(pairs), columns, with_seeds=True, unreadable=[])


def _label(clip: BatchClip, sides: int) -> str:
    if clip.is_base:
        return "base model"
    return "tuned" if sides > 1 or clip.settings.get("lora") else "clip"
