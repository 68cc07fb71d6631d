"""The stages: plain functions from rows to rows. A bad clip is a rejected row, never an exception."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from . import hashing
from .clips import answers, batched, frames_of, length_of, part, seen
from .contracts import Captioner, Clip, Detector, Embedder, Scorer
from .errors import ClipError, reason, stops_the_run
from .filtering import by_length, by_score
from .manifest import Row, finite, new_row, rejected
from .plan import CaptionPlan, CutOptions, ScorerPlan
from .probe import Probe, probe
from .spans import Span, spans, whole_seconds


def film_rows(films: Iterable[Path], root: Path) -> list[Row]:
    """One row per film, before anything is known of it; its id is its path below ``root``."""
    return [
        new_row(id=str(film.relative_to(root)) if film != root else film.name, type="film", source=str(film))
        for film in films
    ]


# -- cut ---------------------------------------------------------------------------------------------------


def cut_rows(rows: Sequence[Row], detector: Detector, options: CutOptions, folder: Path) -> list[Row]:
    """Films to clips: scenes are found, spans chosen, clips written.

    Args:
        rows: Of type ``film``; others stay as they are.
        detector: Where the films are cut.
        options: Lengths and how clips are written.
        folder: Clips are written to ``clips`` in it.

    Returns:
        One row per span, the rejected ones included; a film that cannot be read is one rejected row.
    """
    found: list[Row] = []
    for row in rows:
        found += [row] if row["type"] != "film" else _film(row, detector, options, folder)
    return found


def _film(row: Row, detector: Detector, options: CutOptions, folder: Path) -> list[Row]:
    source = Path(row["source"])
    try:
        facts = probe(source)
        boundaries = detector.boundaries(source, facts)
    except Exception as error:  # a detector may be a stranger's
        if stops_the_run(error):
            raise
        whole = {**row, "type": "video", "start_frame": 0, "end_frame": 0}
        return [rejected(whole, "cut", reason(error))]
    chosen = spans(boundaries, facts.num_frames, facts.fps, options, detector.shortest)
    if options.whole_seconds:
        chosen = [whole_seconds(span, facts.fps, facts.num_frames) for span in chosen]
    return [_clip(row, span, facts, options, folder) for span in chosen]


def _clip(film: Row, span: Span, facts: Probe, options: CutOptions, folder: Path) -> Row:
    start, end = facts.seconds(span.start), facts.seconds(span.end)
    row = new_row(
        id=f"{film['id']}#{span.start}-{span.end}",
        type="video",
        source=film["source"],
        start_frame=span.start,
        end_frame=span.end,
        start=start,
        end=end,
        num_frames=span.end - span.start,
        fps=facts.fps,
        width=facts.width,
        height=facts.height,
        duration=end - start,
    )
    if span.reason:
        return rejected(row, "cut", span.reason)
    if options.write == "spans":
        return by_length(row, options)
    from .cutting import cut

    path = clip_path(row)
    try:
        written = cut(Path(film["source"]), span, folder / path, options)
    except ClipError as error:
        return rejected(row, "cut", reason(error))
    row |= {
        "path": str(path),
        "num_frames": written.num_frames,
        "fps": written.fps,
        "width": written.width,
        "height": written.height,
        "duration": written.num_frames / written.fps,
    }
    return by_length(row, options)


def clip_path(row: Row) -> Path:
    """Where a clip's file lies, relative to the manifest: the film's name, made safe, and a hash of its id.

    >>> str(clip_path({"id": "a/My film.mp4#60-150"}))
    'clips/My_film-6d2e41e7/000060-000150.mp4'
    """
    film, _, frames = row["id"].rpartition("#")
    start, _, end = frames.partition("-")
    name = re.sub(r"[^A-Za-z0-9_.-]+", "_", Path(film).stem)[:60]
    digest = hashlib.sha256(film.encode()).hexdigest()[:8]
    return Path("clips", f"{name}-{digest}", f"{int(start):06d}-{int(end):06d}.mp4")


# -- score -------------------------------------------------------------------------------------------------


def score_rows(rows: Sequence[Row], scorers: dict[str, tuple[Scorer, ScorerPlan]], folder: Path) -> list[Row]:
    """Score clips and reject those outside the bounds; a rejected clip is not scored further.

    Args:
        rows: Rejected rows, images, and scores that are there already stay as they are.
        scorers: By column, in this order; all of one call look at the same decoded frames.
        folder: What ``path`` is relative to.
    """
    size = max((scorer.batch_size for scorer, _ in scorers.values()), default=1)
    done = list(rows)
    places = [
        place
        for place, row in enumerate(rows)
        if not row["reject_reason"]
        and row["type"] == "video"
        and any(row.get(name) is None for name in scorers)
    ]
    for batch in batched(places, size):
        for place, row in zip(batch, _scored([rows[place] for place in batch], scorers, folder), strict=True):
            done[place] = row
    return done


def _scored(rows: list[Row], scorers: dict[str, tuple[Scorer, ScorerPlan]], folder: Path) -> list[Row]:
    def all_indices(num_frames: int, fps: float) -> list[int]:
        wanted = (scorer.indices(num_frames, fps) for scorer, _ in scorers.values())
        return sorted({index for indices in wanted for index in indices})

    found = list(rows)
    clips: dict[int, Clip] = {}
    for place, row in enumerate(rows):
        try:
            clips[place] = seen(row, all_indices, folder)
        except ClipError as error:
            found[place] = rejected(row, "score", reason(error))
    for name, (scorer, bounds) in scorers.items():
        live = [
            place for place in clips if not found[place]["reject_reason"] and found[place].get(name) is None
        ]
        parts = [
            part(clips[place], scorer.indices(clips[place].num_frames, clips[place].fps)) for place in live
        ]
        for batch in batched(list(zip(live, parts, strict=True)), scorer.batch_size):
            given = answers(scorer.score, [clip for _, clip in batch])
            for (place, _), answer in zip(batch, given, strict=True):
                found[place] = _with_score(found[place], name, answer, bounds)
        found = by_score(found, name, bounds)
    return found


def _with_score(row: Row, name: str, answer: float | Exception | None, bounds: ScorerPlan) -> Row:
    if isinstance(answer, Exception):
        missing = {**row, name: None}
        return missing if bounds.missing_passes else rejected(missing, f"score {name}", reason(answer))
    return {**row, name: finite(answer)}


# -- fingerprint -------------------------------------------------------------------------------------------


def fingerprint_rows(rows: Sequence[Row], embedder: Embedder | None, folder: Path) -> list[Row]:
    """The hash of every clip that is left, and its embedding where there is an embedder."""

    def hashed(batch: Sequence[Clip]) -> list[str]:
        return [hashing.clip_hash(part(clip, hashing.hash_indices(clip.num_frames)).frames) for clip in batch]

    def wanted(num_frames: int, fps: float) -> list[int]:
        more = embedder.indices(num_frames, fps) if embedder else []
        return sorted({*hashing.hash_indices(num_frames), *more})

    done = list(rows)
    for batch in batched(_live(rows, "video"), embedder.batch_size if embedder else 1):
        clips = list(_readable(done, batch, wanted, folder, "dedup"))
        if not clips:
            continue
        for (place, _), value in zip(clips, answers(hashed, [clip for _, clip in clips]), strict=True):
            done[place] = _kept(done[place], "phash", value, "dedup")
        if embedder:
            parts = [part(clip, embedder.indices(clip.num_frames, clip.fps)) for _, clip in clips]
            for (place, _), vector in zip(clips, answers(_vectors(embedder), parts), strict=True):
                done[place] = _kept(done[place], "embedding", vector, "dedup")
    return done


def _vectors(embedder: Embedder) -> Callable[[Sequence[Clip]], list[list[float]]]:
    return lambda clips: [vector.tolist() for vector in embedder.embed(clips)]


def _live(rows: Sequence[Row], kind: str) -> list[int]:
    return [place for place, row in enumerate(rows) if not row["reject_reason"] and row["type"] == kind]


def _readable(
    rows: list[Row],
    places: Iterable[int],
    wanted: Callable[[int, float], Sequence[int]],
    folder: Path,
    stage: str,
) -> Iterator[tuple[int, Clip]]:
    for place in places:
        try:
            yield place, seen(rows[place], wanted, folder)
        except ClipError as error:
            rows[place] = rejected(rows[place], stage, reason(error))


def _kept(row: Row, column: str, value: Any, stage: str) -> Row:
    if isinstance(value, Exception):
        return rejected(row, stage, reason(value))
    return {**row, column: value}


# -- images and captions -----------------------------------------------------------------------------------


def image_rows(rows: Sequence[Row], folder: Path) -> list[Row]:
    """Add each kept clip's middle frame as an image row behind it, written as a PNG beside the clip."""
    found: list[Row] = []
    known = {row["id"] for row in rows}
    for row in rows:
        found.append(row)
        if not row["reject_reason"] and row["type"] == "video" and f"{row['id']}@middle" not in known:
            found.append(_image(row, folder))
    return found


def _image(row: Row, folder: Path) -> Row:
    from PIL import Image

    from vader_core.files import replacing

    path = clip_path(row).with_suffix(".png")
    frame = row["start_frame"] + (row["end_frame"] - row["start_frame"]) // 2
    shared = {name: row[name] for name in ("source", "start", "end", "width", "height")}
    image = new_row(
        id=f"{row['id']}@middle",
        type="image",
        path=str(path),
        start_frame=frame,
        end_frame=frame + 1,
        num_frames=1,
        **shared,
    )
    try:
        count, _ = length_of(row)
        picture = Image.fromarray(frames_of(row, [count // 2], folder)[0])
        if picture.size != (row["width"], row["height"]):  # as large as the clip
            picture = picture.resize((row["width"], row["height"]), Image.Resampling.LANCZOS)
    except ClipError as error:
        return rejected(image, "images", reason(error))
    (folder / path).parent.mkdir(parents=True, exist_ok=True)
    with replacing(folder / path) as beside:
        picture.save(beside, format="PNG")
    return {**image, "width": picture.width, "height": picture.height}


def caption_rows(rows: Sequence[Row], captioner: Captioner, plan: CaptionPlan, folder: Path) -> list[Row]:
    """Caption what is left and has no text yet; refusals and empty captions reject.

    Args:
        rows: Clips and images.
        captioner: Who is asked.
        plan: What is made of an answer.
        folder: What ``path`` is relative to.
    """
    done = list(rows)
    for kind, wanted in (("video", captioner.indices), ("image", lambda num_frames, fps: [0])):
        places = [place for place in _live(rows, kind) if rows[place]["text"] is None]
        for batch in batched(places, captioner.batch_size):
            clips = list(_readable(done, batch, wanted, folder, "caption"))
            if not clips:
                continue
            given = answers(captioner.caption, [clip for _, clip in clips])
            for (place, _), answer in zip(clips, given, strict=True):
                done[place] = captioned(done[place], answer, plan)
    return done


def captioned(row: Row, answer: str | Exception, plan: CaptionPlan) -> Row:
    """The row with its caption, or rejected: the captioner failed, refused, or said nothing."""
    from .captions import finished

    if isinstance(answer, Exception):
        return rejected(row, "caption", reason(answer))
    text, why = finished(answer, plan)
    row = {**row, "answer": answer, "text": text or None}
    if why:
        return rejected(row, "caption", why)
    return {**row, "text": text}


def tidy_rows(rows: Sequence[Row], folder: Path) -> list[Row]:
    """Delete the files of rejected clips and images."""
    found = []
    for row in rows:
        if row["reject_reason"] and row["path"]:
            (folder / row["path"]).unlink(missing_ok=True)
            row = {**row, "path": None}
        found.append(row)
    return found
