"""EasyAnimate's batches as a run's plan: one kind and nearly one shape to a batch, frames and shape drawn."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cached_property

import numpy as np
import torch

from vader_core.data.frame_choice import draw_frame_count, random_frame_counts
from vader_core.data.frame_rule import FrameRule
from vader_core.data.options import GroupOptions
from vader_core.data.order import EasyAnimateGroups
from vader_core.data.plan import Plan, Portion
from vader_core.data.resolutions import Size, easyanimate_crops, easyanimate_sizes, nearest
from vader_core.data.summary import Share
from vader_core.geometry import Geometry
from vader_core.prompts import Prompt, Shape
from vader_core.randomness import derive_seed

#: Sides are rounded down to multiples of this; the original leaves them and fails on odd latents.
_UNIT = 16
#: The sizes of the tables are those of so many pixels a side.
_TABLE_SIDE = 512
#: So many passes are held at once.
_HELD = 4


class InGroups(Plan):
    """Pictures and clips apart, each with those of the nearest of 40 ratios; the first row gives the size.

    A group's rows that fill no batch wait for the next pass, as in the original, so that nothing is lost. The
    order of a pass is the original's for the seed ``seed + pass``.

    Args:
        clips: Prompts with videos.
        shapes: The size of each.
        numbers: Each clip's row in the table, from 1.
        rule: Which frames are read.
        options: Size, frame crop, ratio crop, repeats.
        geometry: The run's: most frames, and fps.
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
        options: GroupOptions,
        geometry: Geometry,
        batch_size: int,
        seed: int,
    ) -> None:
        super().__init__(clips, shapes, numbers, rule)
        self.options, self.geometry = options, geometry
        self._batch_size, self._seed = batch_size, seed
        self._longest = [self._most_frames(shape) for shape in shapes]
        images = [clip for clip, shape in enumerate(shapes) if shape.frames == 1]
        videos = [clip for clip, most in enumerate(self._longest) if most and shapes[clip].frames > 1]
        self._rows = images + videos * options.video_repeat
        self._restart()

    # -- the order ---------------------------------------------------------------------------------------

    def _restart(self) -> None:
        records = [self._record(clip) for clip in self._rows]
        self._groups = EasyAnimateGroups(records, self._batch_size)
        self._before, self._held = [0], dict[int, list[list[int]]]()

    def _record(self, clip: int) -> Mapping[str, object]:
        shape = self.shapes[clip]
        kind = "image" if shape.frames == 1 else "video"
        return {"type": kind, "width": shape.width, "height": shape.height}

    def _batch(self, entry: int) -> list[int]:
        """The clips of the ``entry``-th batch of the run."""
        if entry < self._before[-1] and not any(
            self._before[turn] <= entry < self._before[turn + 1] for turn in self._held
        ):
            self._restart()  # further back than what is held
        while self._before[-1] <= entry:
            turn = len(self._before) - 1
            made = self._groups.epoch(torch.Generator().manual_seed(self._seed + turn))
            self._before.append(self._before[-1] + len(made))
            self._held[turn] = made
            self._held.pop(turn - _HELD, None)
        turn = next(turn for turn in self._held if self._before[turn] <= entry < self._before[turn + 1])
        return [self._rows[row] for row in self._held[turn][entry - self._before[turn]]]

    def at(self, iteration: int, rank: int, world: int) -> Portion:
        """The portion of one process."""
        entry = iteration * world + rank
        clips = self._batch(entry)
        first = entry * self._batch_size
        frames = min(self._drawn_frames(entry), *(self._longest[clip] for clip in clips))
        height, width = self._size(clips[0], entry)
        return Portion(
            clips=tuple(clips),
            samples=tuple(range(first, first + len(clips))),
            geometry=Geometry(height, width, frames, self.geometry.fps),
            substitutes=tuple(self._substitutes(clip, frames) for clip in clips),
        )

    def _substitutes(self, clip: int, frames: int) -> tuple[int, ...]:
        group = self._members[self._group(clip)]
        start = group.index(clip) + 1
        return tuple(one for one in [*group[start:], *group[: start - 1]] if self._longest[one] >= frames)

    # -- frames and sizes --------------------------------------------------------------------------------

    def _most_frames(self, shape: Shape) -> int:
        """The most frames that a clip gives: whole chunks, one where it has none, 0 where it is too short."""
        if shape.frames == 1:
            return 1
        unit = self.options.chunk
        counts = [*range(self.geometry.num_frames // unit * unit, 0, -unit), 1]
        return next((count for count in counts if self.rule.fits(shape, count)), 0)

    def _drawn_frames(self, entry: int) -> int:
        if not self.options.random_frames:
            return self.geometry.num_frames
        draws = np.random.default_rng(derive_seed(self._seed, "frame crop", entry))
        return draw_frame_count(*random_frame_counts(self.geometry.num_frames, self.options.chunk), draws)

    def _size(self, clip: int, entry: int) -> Size:
        if not self.options.random_ratio:
            return self._scaled(easyanimate_sizes()[self._group(clip)[1]])
        sizes, weights = easyanimate_crops()
        draws = np.random.default_rng(derive_seed(self._seed, "ratio crop", entry))
        return self._scaled(sizes[str(draws.choice(list(sizes), p=weights))])

    def _scaled(self, size: Size) -> Size:
        height, width = (int(side * self.options.side / _TABLE_SIDE) // _UNIT * _UNIT for side in size)
        return height, width

    def _group(self, clip: int) -> tuple[str, str]:
        shape = self.shapes[clip]
        kind = "image" if shape.frames == 1 else "video"
        return kind, nearest(easyanimate_sizes(), shape.height, shape.width)

    @cached_property
    def _members(self) -> dict[tuple[str, str], list[int]]:
        found: dict[tuple[str, str], list[int]] = {}
        for clip in dict.fromkeys(self._rows):
            found.setdefault(self._group(clip), []).append(clip)
        return found

    # -- the summary -------------------------------------------------------------------------------------

    def shares(self) -> tuple[Share, ...]:
        """Every group, with the frames that its longest clips give."""
        counted = Counter(self._group(clip) for clip in self._rows)
        found = []
        for (kind, ratio), rows in counted.most_common():
            size = self._scaled(easyanimate_sizes()[ratio])
            frames = max(self._longest[clip] for clip in self._members[kind, ratio])
            batches = -(-rows // self._batch_size)
            found.append(Share(f"{kind} {ratio}", frames, *size, rows, self._batch_size, batches))
        return tuple(found)

    def why_dropped(self, clip: int) -> str | None:
        """Too short for a single frame by the rule, or not repeated even once."""
        if self.shapes[clip].frames > 1 and not self.options.video_repeat:
            return "a video, and data.groups.video_repeat is 0"
        if self._longest[clip]:
            return None
        return f"too short: {self.rule.lacking(self.shapes[clip], 1)}"

    def geometries(self) -> Sequence[Geometry]:
        """Every size and number of frames that a batch may have."""
        counts = {self.geometry.num_frames}
        if self.options.random_frames:
            counts |= set(random_frame_counts(self.geometry.num_frames, self.options.chunk)[0])
        counts |= set(self._longest) - {0}
        groups = self._members
        tables = (
            list(easyanimate_crops()[0].values())
            if self.options.random_ratio
            else [easyanimate_sizes()[ratio] for _, ratio in groups]
        )
        sizes = dict.fromkeys(self._scaled(size) for size in tables)
        return [Geometry(*size, count, self.geometry.fps) for size in sizes for count in sorted(counts)]
