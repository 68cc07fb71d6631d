"""Static pages of runs, batches and comparisons, to hand on or to put on any web server."""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from vader_core.errors import VaderError
from vader_core.paths import entered
from vader_core.report.batch import batch_page, forms_of
from vader_core.report.page import page
from vader_core.report.site import Entry, run_entry, write_site
from vader_core.run.batch import LISTED, read_batch
from vader_core.run.names import CONFIG
from vader_core.run.record import read_record


def export_site(sources: Sequence[str | Path], out: str | Path, *, overwrite: bool = False) -> Path:
    """Write a folder of pages: an index, and a page for each run, folder of clips and comparison.

    Nothing of a run but its page goes along: no checkpoint, no configuration file, no log.

    Args:
        sources: Run directories, folders that ``sample`` wrote, pages that ``compare`` wrote.
        out: The folder, new or empty.
        overwrite: Replace an earlier site in it.

    Returns:
        ``index.html`` in it.

    Raises:
        VaderError: A source that is none of these, or something else lies in ``out``.
    """
    folder, places = entered(out), [entered(source) for source in sources]
    if not places:
        raise VaderError("nothing to export: give a run, a folder of clips or a comparison")
    kinds = [_kind(place) for place in places]
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        if not overwrite:
            raise VaderError(f"--out {folder} exists and is not empty: choose another, or give --overwrite")
        if not (folder / "index.html").is_file() or not (folder / "pages").is_dir():
            raise VaderError(f"--out {folder} is no site, so --overwrite does not touch it")
        shutil.rmtree(folder / "pages")
    (folder / "pages").mkdir(parents=True, exist_ok=True)
    entries: list[Entry] = []
    for place, kind in zip(places, kinds, strict=True):
        name = _free_name(place, {entry.place for entry in entries})
        target = folder / "pages" / name
        if kind == "run":
            entries.append(_export_run(place, target, name))
        elif kind == "clips":
            entries.append(_export_clips(place, target, name))
        else:
            target.mkdir()
            shutil.copyfile(place, target / "index.html")
            entries.append(Entry(place.stem, f"pages/{name}/index.html", "comparison", ""))
    return write_site(entries, folder)


def _kind(place: Path) -> str:
    if (place / CONFIG).is_file():
        return "run"
    if (place / LISTED).is_file():
        return "clips"
    if place.is_file() and place.suffix == ".html":
        return "comparison"
    raise VaderError(
        f"{place}: neither a run directory ({CONFIG}), nor a folder of clips ({LISTED}), nor a comparison "
        "(.html)"
    )


def _free_name(place: Path, taken: set[str]) -> str:
    """A name for the page's folder, plain and not taken."""
    plain = re.sub("[^A-Za-z0-9_-]+", "-", place.absolute().stem).strip("-") or "page"
    names = {one.split("/")[1] for one in taken}
    if plain not in names:
        return plain
    return next(f"{plain}-{n}" for n in range(2, len(names) + 3) if f"{plain}-{n}" not in names)


def _export_run(place: Path, target: Path, name: str) -> Entry:
    record = read_record(place)
    target.mkdir()
    (target / "index.html").write_text(page(record), encoding="utf-8")
    return run_entry(record, f"pages/{name}/index.html")


def _export_clips(place: Path, target: Path, name: str) -> Entry:
    batch = read_batch(place)
    target.mkdir()
    for clip in batch.clips:
        for path in (*forms_of(clip.path), clip.picture):
            if path is not None:
                copy = target / path.relative_to(place)
                copy.parent.mkdir(exist_ok=True)
                shutil.copyfile(path, copy)
    (target / "index.html").write_text(batch_page(batch), encoding="utf-8")
    count = len(batch.clips)
    return Entry(batch.name, f"pages/{name}/index.html", "clips", f"{count} clip{'' if count == 1 else 's'}")
