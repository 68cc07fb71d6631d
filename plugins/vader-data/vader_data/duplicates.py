"""Which clips are the same: first by their hashes, then by their embeddings."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from .hashing import BITS, distance
from .manifest import Row, rejected
from .plan import DuplicatePlan

STAGE = "dedup"
#: Rows of the similarity matrix that are held at a time.
_BLOCK = 1024


def dedup(rows: Sequence[Row], plan: DuplicatePlan) -> list[Row]:
    """Reject every clip that is the same as a better one.

    Better is larger, then longer, then earlier in the table. A clip is compared with the ones that are kept,
    so that a chain of small differences does not make two different clips the same.

    Args:
        rows: With ``phash`` and, where an embedder is named, ``embedding``. Rejected rows and images stay as
            they are.
        plan: How similar is the same.

    Returns:
        All rows in their order, duplicates with ``duplicate_of`` and a reason.
    """
    places = [
        place
        for place, row in enumerate(rows)
        if not row["reject_reason"] and row["type"] == "video" and row["phash"]
    ]
    places.sort(
        key=lambda place: (-rows[place]["width"] * rows[place]["height"], -rows[place]["num_frames"], place)
    )
    found: dict[int, tuple[int, str]] = {}
    if plan.distance is not None:
        found |= _by_hash(rows, places, plan.distance)
    if plan.embedder != "none":
        left = [place for place in places if place not in found and rows[place]["embedding"]]
        found |= _by_embedding(rows, left, plan.cosine)
    done = list(rows)
    for place, (other, how) in found.items():
        row = {**rows[place], "duplicate_of": rows[other]["id"]}
        done[place] = rejected(row, STAGE, f"the same as {rows[other]['id']} ({how})")
    return done


def _by_hash(rows: Sequence[Row], places: Sequence[int], limit: int) -> dict[int, tuple[int, str]]:
    """Without comparing all pairs: hashes at most ``limit`` bits apart agree in one of limit + 1 bands."""
    edges = np.linspace(0, BITS, limit + 2).round().astype(int)
    table: dict[tuple[int, int], list[int]] = defaultdict(list)
    found: dict[int, tuple[int, str]] = {}
    for place in places:
        value = int(rows[place]["phash"], 16)
        bands = [
            (band, (value >> int(low)) & ((1 << int(high - low)) - 1))
            for band, (low, high) in enumerate(pairwise(edges))
        ]
        others = {other for band in bands for other in table[band]}
        near = min(
            ((distance(rows[place]["phash"], rows[other]["phash"]), other) for other in others), default=None
        )
        if near is not None and near[0] <= limit:
            found[place] = (near[1], f"{near[0]} of {BITS} bits differ")
        else:
            for band in bands:
                table[band].append(place)
    return found


def _by_embedding(rows: Sequence[Row], places: Sequence[int], limit: float) -> dict[int, tuple[int, str]]:
    found: dict[int, tuple[int, str]] = {}
    if not places:
        return found
    vectors = np.asarray([rows[place]["embedding"] for place in places], np.float32)
    keepers: list[int] = []  # positions in `places`, rising
    for begin in range(0, len(places), _BLOCK):
        block = vectors[begin : begin + _BLOCK]
        before = block @ vectors[keepers].T if keepers else np.zeros((len(block), 0), np.float32)
        within = block @ block.T
        fresh: list[int] = []
        for row in range(len(block)):
            best = max(
                ((float(before[row].max()), keepers[int(before[row].argmax())]),) if keepers else (),
                default=(-2.0, -1),
            )
            best = max([best, *((float(within[row, other]), begin + other) for other in fresh)])
            if best[0] >= limit:
                found[places[begin + row]] = (places[best[1]], f"cosine {best[0]:.3f}")
            else:
                fresh.append(row)
        keepers += [begin + row for row in fresh]
    return found
