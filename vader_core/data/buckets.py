"""Buckets: clips of one resolution, one number of frames and one shape, which share a batch.

A configuration gives, per resolution and number of frames, how likely a clip that fits is kept there, and
the batch size. A clip that is not kept tries the next smaller bucket. Two rules decide, Open-Sora 1.1's and
1.2's; both draw from a generator that is seeded by the clip and the bucket, so that a clip's bucket depends
on nothing else.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from vader_core.data.options import Rule
from vader_core.data.resolutions import Resolution, resolution
from vader_core.errors import VaderError
from vader_core.prompts import Shape

BucketConfig = Mapping[str, Mapping[Any, Any]]

# A clip below this share of a resolution's pixels would have to be enlarged too much.
SMALLEST_SHARE = 0.8


class Bucket(NamedTuple):
    """Where a clip goes: the resolution's name, the number of frames, the ratio's name."""

    resolution: str
    frames: int
    ratio: str

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return resolution(self.resolution).sizes[self.ratio]

    def __str__(self) -> str:
        height, width = self.size
        return f"{self.frames}x{height}x{width}"


@dataclass(frozen=True)
class Slot:
    """One (resolution, frames) pair of a configuration.

    Args:
        number: Its place in the order, from 0: largest resolution first, then most frames first.
        resolution: The resolution.
        frames: Number of frames.
        keep: How likely a clip that fits is kept, in [0, 1].
        keep_frames: Open-Sora 1.2's second probability: how likely this number of frames is tried at all.
            ``None`` where the configuration gives one number.
        batch_size: Clips per batch and process; ``None`` for a slot that only turns clips away (keep 0).
    """

    number: int
    resolution: Resolution
    frames: int
    keep: float
    keep_frames: float | None
    batch_size: int | None


class Buckets:
    """A bucket configuration under one of the two rules.

    Args:
        config: Resolution → frames → (keep, batch size), keep being a number or a pair of numbers (1.2 only):
            ``{"360p": {1: (1.0, 256), 32: (1.0, 8)}}``. Frames may be written as text, as YAML and JSON do.
        rule: ``1.1`` or ``1.2``.

    Raises:
        VaderError: An unknown resolution, or a number that is not allowed.
    """

    def __init__(self, config: BucketConfig, rule: Rule = "1.1") -> None:
        if not config or not any(config.values()):
            raise VaderError(
                "the bucket configuration is empty: name at least one, e.g. {360p: {32: [1.0, 8]}}"
            )
        self.rule = rule
        named = [(resolution(name), counts) for name, counts in config.items()]
        named.sort(key=lambda pair: pair[0].pixels, reverse=True)
        self.slots: tuple[Slot, ...] = ()
        for where, counts in named:
            for frames in sorted((_count(where.name, frames) for frames in counts), reverse=True):
                entry = counts[frames] if frames in counts else counts[str(frames)]
                self.slots += (_slot(len(self.slots), where, frames, entry, rule),)

    @cached_property
    def count(self) -> int:
        """How many (resolution, frames, ratio) buckets there are."""
        return sum(len(slot.resolution.sizes) for slot in self.slots)

    @cached_property
    def _by_resolution(self) -> tuple[tuple[Resolution, tuple[Slot, ...]], ...]:
        names = dict.fromkeys(slot.resolution.name for slot in self.slots)
        return tuple(
            (resolution(name), tuple(slot for slot in self.slots if slot.resolution.name == name))
            for name in names
        )

    def batch_size(self, bucket: Bucket) -> int:
        """Clips per batch and process in ``bucket``."""
        for slot in self.slots:
            if (slot.resolution.name, slot.frames) == (bucket.resolution, bucket.frames):
                return slot.batch_size or 1
        raise VaderError(f"bucket {bucket} is none of this configuration")

    def place(self, shape: Shape, frame_interval: int, seed: int) -> Bucket | None:
        """The bucket of a clip, or ``None`` where it is dropped.

        Args:
            shape: Frames, height and width of the clip.
            frame_interval: One frame in so many is used; a clip needs more than frames x interval of them.
            seed: Names the clip's draws; slot ``n`` draws from ``numpy.random.default_rng(seed + n)``.
        """
        for where, slots in self._by_resolution:
            if shape.height * shape.width < SMALLEST_SHARE * where.pixels:
                continue
            slot = self._accepting(slots, shape.frames, frame_interval, seed)
            if slot is not None:
                return Bucket(where.name, slot.frames, where.nearest(shape.height, shape.width))
        return None

    def why_dropped(self, shape: Shape, frame_interval: int) -> str:
        """Why a clip that ``place`` drops fits nowhere, for a person to read."""
        large = [
            (where, slots)
            for where, slots in self._by_resolution
            if shape.height * shape.width >= SMALLEST_SHARE * where.pixels
        ]
        if not large:
            return "too small for every bucket"
        slots = [slot for _, group in large for slot in group]
        if shape.frames == 1:
            fits = [slot for slot in slots if slot.frames == 1]
            return "not kept by chance" if fits else "an image, and no bucket of 1 frame for its size"
        lengths = [slot.frames for slot in slots if slot.frames > 1]
        if not lengths:
            return "a video, and no bucket of more than 1 frame for its size"
        if shape.frames <= min(lengths) * frame_interval:
            least = min(lengths) * frame_interval
            return (
                f"shorter than every bucket of its size: {shape.frames} frames, more than {least} are needed"
            )
        return "not kept by chance"

    def _accepting(self, slots: tuple[Slot, ...], frames: int, interval: int, seed: int) -> Slot | None:
        if frames == 1:
            images = [slot for slot in slots if slot.frames == 1]
            return images[0] if images and _draws(images[0], seed).random() < images[0].keep else None
        for slot in slots:
            if slot.frames == 1:
                continue
            draws = _draws(slot, seed)
            # The draw comes before the length test: the second draw of a pair must be its second number.
            if slot.keep_frames is not None and draws.random() > slot.keep_frames:
                continue
            if frames > slot.frames * interval:
                return slot if slot.keep >= 1 or draws.random() < slot.keep else None
        return None


@dataclass(frozen=True)
class Placement:
    """What became of a table's rows in one epoch.

    Args:
        buckets: Each row's bucket, ``None`` where it was dropped; in row order.
    """

    buckets: tuple[Bucket | None, ...]

    @cached_property
    def counts(self) -> Mapping[Bucket, int]:
        """How many rows each bucket got, in order of first appearance."""
        return Counter(bucket for bucket in self.buckets if bucket is not None)

    @cached_property
    def rows(self) -> Mapping[Bucket, list[int]]:
        """The numbers of the rows in each bucket, in row order; buckets in order of first appearance."""
        found: dict[Bucket, list[int]] = {}
        for row, bucket in enumerate(self.buckets):
            if bucket is not None:
                found.setdefault(bucket, []).append(row)
        return found


def place_all(
    buckets: Buckets, shapes: Sequence[Shape | None], frame_interval: int, seed: int, epoch: int
) -> Placement:
    """The bucket of every row of a table in one epoch.

    Args:
        buckets: The configuration.
        shapes: One per row; ``None`` for a row that cannot be read, which is dropped.
        frame_interval: One frame in so many is used.
        seed: The sampler's seed.
        epoch: From 0.
    """
    first, step = seed + epoch, buckets.count
    return Placement(
        tuple(
            None if shape is None else buckets.place(shape, frame_interval, first + row * step)
            for row, shape in enumerate(shapes)
        )
    )


def _draws(slot: Slot, seed: int) -> np.random.Generator:
    return np.random.default_rng(seed + slot.number)


def _count(name: str, frames: int | str) -> int:
    if not str(frames).isdigit() or int(frames) < 1:
        raise VaderError(f"buckets: {name} has {frames!r} frames; use a whole number of 1 or more")
    return int(frames)


def _slot(number: int, where: Resolution, frames: int, entry: Any, rule: Rule) -> Slot:
    place = f"buckets: {where.name}, {frames} frames"
    if not isinstance(entry, Sequence) or isinstance(entry, str) or len(entry) != 2:
        raise VaderError(f"{place}: {entry!r} is not [keep probability, batch size], e.g. [1.0, 8]")
    keep, batch_size = entry
    pair = list(keep) if isinstance(keep, Sequence) and not isinstance(keep, str) else [keep]
    if len(pair) > 2 or (len(pair) == 2 and rule != "1.2"):
        raise VaderError(f"{place}: keep {keep!r} is one number, or a pair under rule 1.2")
    for chance in pair:
        if not isinstance(chance, int | float) or not 0 <= chance <= 1:
            raise VaderError(f"{place}: keep probability {chance!r} is not between 0 and 1")
    if batch_size is None and pair[0] > 0:
        raise VaderError(f"{place}: a bucket that keeps clips needs a batch size")
    if batch_size is not None and (not isinstance(batch_size, int) or batch_size < 1):
        raise VaderError(f"{place}: batch size {batch_size!r} is not a whole number of 1 or more")
    return Slot(
        number=number,
        resolution=where,
        frames=frames,
        keep=float(pair[0]),
        keep_frames=float(pair[1]) if len(pair) == 2 else None,
        batch_size=batch_size,
    )
