"""The order in which a table's rows are learned from, as batches.

Every order here is a pure function: of a placement and a seed for one epoch, and of (step, micro-step, rank)
for a whole run. Resuming needs no saved state, and processes agree without talking.

The two projects' own orders lose rows or repeat them: Open-Sora cuts the remainder of a bucket before it
shuffles, so that the last rows of a bucket are never seen, and cuts the list of batches to a multiple of the
number of processes. ``Endless`` is the order that runs use: every row that is kept comes exactly once per
epoch, the last batch of a bucket is smaller, and batches run on over the ends of epochs.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch

from vader_core.data.buckets import Bucket, Placement
from vader_core.data.resolutions import easyanimate_sizes, nearest
from vader_core.errors import VaderError
from vader_core.randomness import derive_seed

# So many passes without a single row that is kept: it is not chance any more.
_EMPTY_EPOCHS = 1000


@dataclass(frozen=True)
class RowBatch:
    """The rows of one batch.

    Args:
        rows: Their numbers in the table.
        bucket: What they are cut to.
        first: How many rows came before in the whole run, over all processes: the first one's global index.
        epoch: The pass over the table that they belong to, from 0.
    """

    rows: tuple[int, ...]
    bucket: Bucket
    first: int
    epoch: int


def open_sora_order(
    placement: Placement,
    batch_size: Callable[[Bucket], int],
    *,
    world_size: int,
    seed: int,
    epoch: int,
    drop_last: bool = True,
    shuffle: bool = True,
    start_step: int = 0,
) -> list[list[tuple[Bucket, list[int]]]]:
    """Open-Sora's order of one epoch, number for number.

    Args:
        placement: The epoch's buckets.
        batch_size: Clips per batch in a bucket.
        world_size: Number of processes.
        seed: The sampler's; the generator is seeded ``seed + epoch``.
        epoch: From 0.
        drop_last: Cut what does not fill a batch, or a round of processes; else pad with the first rows.
        shuffle: Permute rows within buckets, and batches.
        start_step: Rounds already done.

    Returns:
        Per process, its batches as (bucket, row numbers). Without ``drop_last`` an entry that was repeated to
        fill the last round finds its bucket used up: its batch is empty, as in the original.

    Raises:
        VaderError: ``start_step`` lies beyond the end.
    """
    generator = torch.Generator().manual_seed(seed + epoch)
    rows_of: dict[Bucket, list[int]] = {}
    entries: list[Bucket] = []
    for bucket, found in placement.rows.items():
        size = batch_size(bucket)
        rows = _whole_batches(found, size, drop_last)
        if shuffle:
            rows = [rows[i] for i in torch.randperm(len(rows), generator=generator).tolist()]
        rows_of[bucket] = rows
        entries += [bucket] * (len(rows) // size)
    if shuffle:
        entries = [entries[i] for i in torch.randperm(len(entries), generator=generator).tolist()]
    remainder = len(entries) % world_size
    if remainder and drop_last:
        entries = entries[: len(entries) - remainder]
    elif remainder:
        entries = entries + entries[: world_size - remainder]
    if start_step * world_size > len(entries):
        raise VaderError(
            f"step {start_step} lies beyond the epoch's end ({len(entries) // world_size} steps on "
            f"{world_size} processes): the data or the number of processes changed since"
        )
    dealt = _dealt(entries, rows_of, batch_size)
    first = start_step * world_size
    return [dealt[first:][rank::world_size] for rank in range(world_size)]


def _dealt(
    entries: list[Bucket], rows_of: dict[Bucket, list[int]], batch_size: Callable[[Bucket], int]
) -> list[tuple[Bucket, list[int]]]:
    """Each entry with the next rows of its bucket."""
    taken: dict[Bucket, int] = dict.fromkeys(rows_of, 0)
    dealt = []
    for bucket in entries:
        start = taken[bucket]
        taken[bucket] = start + batch_size(bucket)
        dealt.append((bucket, rows_of[bucket][start : taken[bucket]]))
    return dealt


def _whole_batches(rows: list[int], size: int, drop_last: bool) -> list[int]:
    remainder = len(rows) % size
    if not remainder:
        return list(rows)
    if drop_last:
        return rows[: len(rows) - remainder]
    # A bucket with less than half a batch does not even then fill one, and gives none in the original too.
    return rows + rows[: size - remainder]


class EasyAnimateGroups:
    """Batches of one kind and of the nearest of 40 ratios. What fills no batch waits for the next epoch.

    Args:
        records: Rows with ``type`` (``image`` where missing), ``width`` and ``height``.
        batch_size: Rows per batch.
    """

    def __init__(self, records: Sequence[Mapping[str, object]], batch_size: int) -> None:
        sizes = easyanimate_sizes()
        self._group = [
            (str(row.get("type", "image")), nearest(sizes, int(str(row["height"])), int(str(row["width"]))))
            for row in records
        ]
        self._batch_size = batch_size
        self._waiting: dict[tuple[str, str], list[int]] = {}

    def epoch(self, generator: torch.Generator) -> list[list[int]]:
        """The row numbers of one epoch's batches."""
        batches: list[list[int]] = []
        for row in torch.randperm(len(self._group), generator=generator).tolist():
            group = self._waiting.setdefault(self._group[row], [])
            group.append(row)
            if len(group) == self._batch_size:
                batches.append(group)
                self._waiting[self._group[row]] = []
        # The original sampler draws a second permutation at the end of an epoch and uses none of it.
        torch.randperm(len(self._group), generator=generator)
        return batches


@dataclass(frozen=True)
class _Epoch:
    """One pass: its batches in order, and each bucket's rows in order."""

    batches: tuple[tuple[Bucket, tuple[int, ...]], ...]
    rows: Mapping[Bucket, tuple[int, ...]]


class Endless:
    """The order of a run: every kept row once per epoch, in its own shuffled order, without end.

    Args:
        place: The buckets of one epoch, by its number.
        batch_size: Clips per batch in a bucket; the last batch of a bucket may have fewer.
        seed: The run's.
    """

    def __init__(
        self, place: Callable[[int], Placement], batch_size: Callable[[Bucket], int], seed: int
    ) -> None:
        self._place, self._batch_size, self._seed = place, batch_size, seed
        # How many batches and rows came before each epoch, and before the next one.
        self._batches_before, self._rows_before = [0], [0]
        self._epoch = lru_cache(maxsize=3)(self._made)

    def at(self, iteration: int, rank: int = 0, world_size: int = 1) -> RowBatch:
        """The batch of one process.

        Args:
            iteration: Micro-steps since the beginning of the run, from 0.
            rank: Data-parallel rank.
            world_size: Number of data-parallel ranks.

        Raises:
            VaderError: The buckets keep no row at all.
        """
        entry = iteration * world_size + rank
        while self._batches_before[-1] <= entry:
            self._count_epoch()
        # Epochs without a batch begin where the next one does: the search finds the last of equals.
        number = bisect_right(self._batches_before, entry) - 1
        position = entry - self._batches_before[number]
        batches = self._epoch(number).batches
        bucket, rows = batches[position]
        earlier = sum(len(found) for _, found in batches[:position])
        return RowBatch(rows, bucket, self._rows_before[number] + earlier, number)

    def substitutes(self, batch: RowBatch, row: int) -> list[int]:
        """What can stand in for a row that cannot be read: the others of its bucket, the next first."""
        rows = self._epoch(batch.epoch).rows[batch.bucket]
        start = rows.index(row) + 1
        return [*rows[start:], *rows[: start - 1]]

    def batches_in(self, epoch: int) -> int:
        """How many batches one pass has, over all processes."""
        return len(self._epoch(epoch).batches)

    def _count_epoch(self) -> None:
        number = len(self._batches_before) - 1
        batches = self._epoch(number).batches
        self._batches_before.append(self._batches_before[-1] + len(batches))
        self._rows_before.append(self._rows_before[-1] + sum(len(found) for _, found in batches))
        if number + 1 >= _EMPTY_EPOCHS and not self._batches_before[-1]:
            raise VaderError(
                "the buckets keep no clip of this table: look at the drop table of --dry-run, and lower the "
                "sizes or lengths, or raise the keep probabilities"
            )

    def _made(self, number: int) -> _Epoch:
        placement = self._place(number)
        draws = torch.Generator().manual_seed(derive_seed(self._seed, "rows", number))
        rows = {bucket: _shuffled(found, draws) for bucket, found in placement.rows.items()}
        batches = [
            (bucket, found[start : start + self._batch_size(bucket)])
            for bucket, found in rows.items()
            for start in range(0, len(found), self._batch_size(bucket))
        ]
        order = torch.randperm(len(batches), generator=draws).tolist()
        return _Epoch(tuple(batches[i] for i in order), rows)


def _shuffled(rows: Sequence[int], draws: torch.Generator) -> tuple[int, ...]:
    return tuple(rows[i] for i in torch.randperm(len(rows), generator=draws).tolist())
