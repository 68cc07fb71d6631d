"""Which clips each process learns from at each micro-step of a run, and at which size."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import torch

from vader_core.data.buckets import Bucket, Buckets, Placement, place_all
from vader_core.data.frame_rule import FrameRule
from vader_core.data.order import Endless
from vader_core.data.summary import Dropped, Share, Summary
from vader_core.errors import VaderError
from vader_core.geometry import Geometry
from vader_core.prompts import Prompt, Shape
from vader_core.randomness import derive_seed


@dataclass(frozen=True)
class Portion:
    """What one process learns from in one micro-step.

    Args:
        clips: Numbers of the clips, from 0.
        samples: Their global sample indices: each is used once in a run.
        geometry: What they are brought to.
        substitutes: For each clip, those that may stand in for it where it cannot be read, in order.
    """

    clips: tuple[int, ...]
    samples: tuple[int, ...]
    geometry: Geometry
    substitutes: tuple[tuple[int, ...], ...]


class Plan(ABC):
    """A run's clips in order; a pure function of the place in the run.

    Args:
        clips: Prompts with videos.
        shapes: The size of each.
        numbers: Each clip's row in the table, from 1, for messages.
        rule: Which frames are read.
    """

    def __init__(
        self, clips: Sequence[Prompt], shapes: Sequence[Shape], numbers: Sequence[int], rule: FrameRule
    ) -> None:
        self.clips, self.shapes, self.numbers, self.rule = clips, shapes, numbers, rule

    @abstractmethod
    def at(self, iteration: int, rank: int, world: int) -> Portion:
        """The portion of one process.

        Args:
            iteration: Micro-steps since the beginning of the run, from 0.
            rank: Data-parallel rank.
            world: How many ranks there are.
        """

    @abstractmethod
    def shares(self) -> tuple[Share, ...]:
        """What each bucket gets in the first pass, the fullest first."""

    @abstractmethod
    def why_dropped(self, clip: int) -> str | None:
        """Why a clip is not learned from; ``None`` where it is."""

    def place_of(self, clip: int) -> tuple[Bucket | None, Geometry]:
        """Where a clip belongs in the first pass: its bucket, if it has one, and its size.

        Raises:
            VaderError: That is drawn anew for every batch.
        """
        raise VaderError(
            "data.groups draws a clip's size anew for every batch, so it cannot be encoded beforehand: use "
            "data.buckets, or the run's own size"
        )

    @abstractmethod
    def geometries(self) -> Sequence[Geometry]:
        """Every size that a batch may have."""

    def summary(self, dropped: Sequence[Dropped] = (), held_out: int = 0) -> Summary:
        """The whole table.

        Args:
            dropped: Rows that were no clips at all.
            held_out: How many clips are kept for validation.
        """
        unfit = [
            Dropped(self.numbers[clip], _file(self.clips[clip]), reason, unreadable=False)
            for clip in range(len(self.clips))
            if (reason := self.why_dropped(clip)) is not None
        ]
        learned = [shape for clip, shape in enumerate(self.shapes) if self.why_dropped(clip) is None]
        return Summary(
            rows=len(self.clips) + len(dropped) + held_out,
            shares=self.shares(),
            dropped=tuple(sorted([*dropped, *unfit], key=lambda row: row.number)),
            held_out=held_out,
            repeating=sum(self.rule.repeats(shape) for shape in learned),
        )


class OneSize(Plan):
    """Every clip at the run's own size, in endless shuffled passes.

    How the steps cut the stream does not matter: two processes with a clip each learn from the same clips as
    one process with two.

    Args:
        clips: Prompts with videos.
        shapes: The size of each.
        numbers: Each clip's row in the table, from 1.
        rule: Which frames are read.
        geometry: The run's.
        batch_size: Clips per process and micro-step.
        seed: The run's.
    """

    def __init__(
        self,
        clips: Sequence[Prompt],
        shapes: Sequence[Shape],
        numbers: Sequence[int],
        rule: FrameRule,
        *,
        geometry: Geometry,
        batch_size: int,
        seed: int,
    ) -> None:
        super().__init__(clips, shapes, numbers, rule)
        self.geometry, self._batch_size, self._seed = geometry, batch_size, seed
        self._usable = [clip for clip in range(len(clips)) if self.why_dropped(clip) is None]
        self._pass = lru_cache(maxsize=4)(self._shuffled)

    def at(self, iteration: int, rank: int, world: int) -> Portion:
        """The portion of one process."""
        first = (iteration * world + rank) * self._batch_size
        samples = tuple(range(first, first + self._batch_size))
        places = [divmod(sample, len(self._usable)) for sample in samples]
        orders = [self._pass(turn) for turn, _ in places]
        return Portion(
            clips=tuple(order[place] for order, (_, place) in zip(orders, places, strict=True)),
            samples=samples,
            geometry=self.geometry,
            substitutes=tuple(
                (*order[place + 1 :], *order[:place])
                for order, (_, place) in zip(orders, places, strict=True)
            ),
        )

    def _shuffled(self, turn: int) -> tuple[int, ...]:
        draws = torch.Generator().manual_seed(derive_seed(self._seed, "clips", turn))
        return tuple(self._usable[i] for i in torch.randperm(len(self._usable), generator=draws).tolist())

    def shares(self) -> tuple[Share, ...]:
        """The one bucket."""
        if not self._usable:
            return ()
        size, rows = self.geometry, len(self._usable)
        batches = -(-rows // self._batch_size)
        share = Share("run", size.num_frames, size.height, size.width, rows, self._batch_size, batches)
        return (share,)

    def why_dropped(self, clip: int) -> str | None:
        """Too short, or a picture where a video is needed."""
        shape, wanted = self.shapes[clip], self.geometry.num_frames
        if self.rule.fits(shape, wanted):
            return None
        if shape.frames == 1:
            return f"an image: the run's videos have {wanted} frames"
        return f"too short: {self.rule.lacking(shape, wanted)}"

    def place_of(self, clip: int) -> tuple[Bucket | None, Geometry]:
        """No bucket, and the run's own size."""
        return None, self.geometry

    def geometries(self) -> Sequence[Geometry]:
        """The run's own."""
        return [self.geometry]


class InBuckets(Plan):
    """Every clip in the bucket that its size and length give it.

    Args:
        clips: Prompts with videos.
        shapes: The size of each.
        numbers: Each clip's row in the table, from 1.
        rule: Which frames are read.
        buckets: The configuration.
        geometry: The run's; its fps is every bucket's.
        seed: The run's.
    """

    def __init__(
        self,
        clips: Sequence[Prompt],
        shapes: Sequence[Shape],
        numbers: Sequence[int],
        rule: FrameRule,
        *,
        buckets: Buckets,
        geometry: Geometry,
        seed: int,
    ) -> None:
        super().__init__(clips, shapes, numbers, rule)
        self.buckets, self.geometry, self._seed = buckets, geometry, seed
        # A bucket counts frames as they are read: at the file's rate, or resampled.
        self._read = [replace(shape, frames=rule.length(shape)) for shape in shapes]
        self._order = Endless(self._placement, buckets.batch_size, seed)
        self._first = self._placement(0)

    def _placement(self, epoch: int) -> Placement:
        return place_all(self.buckets, self._read, self.rule.interval or 1, self._seed, epoch)

    def at(self, iteration: int, rank: int, world: int) -> Portion:
        """The portion of one process."""
        batch = self._order.at(iteration, rank, world)
        return Portion(
            clips=batch.rows,
            samples=tuple(range(batch.first, batch.first + len(batch.rows))),
            geometry=self._geometry(batch.bucket),
            substitutes=tuple(tuple(self._order.substitutes(batch, row)) for row in batch.rows),
        )

    def _geometry(self, bucket: Bucket) -> Geometry:
        height, width = bucket.size
        return Geometry(height, width, bucket.frames, self.geometry.fps)

    def shares(self) -> tuple[Share, ...]:
        """Every bucket that gets a clip in the first pass."""
        found = []
        for bucket, rows in Counter(self._first.counts).most_common():
            size, batch = bucket.size, self.buckets.batch_size(bucket)
            found.append(Share(bucket.resolution, bucket.frames, *size, rows, batch, -(-rows // batch)))
        return tuple(found)

    def why_dropped(self, clip: int) -> str | None:
        """What no bucket takes in the first pass."""
        if self._first.buckets[clip] is not None:
            return None
        return self.buckets.why_dropped(self._read[clip], self.rule.interval or 1)

    def place_of(self, clip: int) -> tuple[Bucket | None, Geometry]:
        """Its bucket of the first pass."""
        bucket = self._first.buckets[clip]
        assert bucket is not None
        return bucket, self._geometry(bucket)

    def geometries(self) -> Sequence[Geometry]:
        """Those of the buckets that get a clip in the first pass."""
        return [self._geometry(bucket) for bucket in self._first.counts]


class StoredBuckets(InBuckets):
    """Clips that were encoded beforehand, each in the bucket that it was encoded for.

    Args:
        stored: The bucket of each clip.
        clips: Prompts with latents.
        shapes: The size of each.
        **others: As of :class:`InBuckets`.
    """

    def __init__(
        self, stored: Sequence[Bucket | None], clips: Sequence[Prompt], shapes: Sequence[Shape], **others: Any
    ) -> None:
        self._stored = Placement(tuple(stored))
        super().__init__(clips, shapes, **others)

    def _placement(self, epoch: int) -> Placement:
        return self._stored


def _file(prompt: Prompt) -> str:
    return str(prompt.video.path) if prompt.video is not None else prompt.text
