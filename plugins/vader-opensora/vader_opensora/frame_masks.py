"""Which latent frames are given and which are to be generated.

A frame mask holds one number per latent frame: 1 generates it, 0 keeps it as it is given, a number between
edits it from that moment of the schedule on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass, replace

import torch
from torch import Tensor

from vader_core.errors import VaderError

#: Where the frame mask [b, t] and the given frames [b, c, t, h, w] lie in a conditioning.
FRAME_MASK = "frame_mask"
REFERENCE = "reference"


@dataclass(frozen=True)
class Placement:
    """One stretch of a reference put into the clip; counts are latent frames.

    Args:
        segment: Segment of a long video that it belongs to.
        reference: Which reference.
        reference_start: First frame taken; negative counts from the end.
        target_start: Where it goes; negative counts from the end.
        length: Frames taken.
        edit: Value of the frame mask there: 0 keeps the frames, larger edits them more.
    """

    segment: int = 0
    reference: int = 0
    reference_start: int = 0
    target_start: int = 0
    length: int = 1
    edit: float = 0.0


def parse_strategy(text: str) -> list[Placement]:
    """Read ``SEGMENT,REFERENCE,REFERENCE_START,TARGET_START,LENGTH,EDIT;…``; the rest is default.

    Raises:
        VaderError: Something that is not a number, or too many of them.

    >>> astuple(parse_strategy("0")[0])
    (0, 0, 0, 0, 1, 0.0)
    """
    placements = []
    for part in text.split(";") if text else []:
        words = part.split(",")
        try:
            numbers = [int(word) for word in words[:5]]
            edit = [float(word) for word in words[5:]]
            one = Placement(*numbers)
            placements.append(replace(one, edit=edit[0]) if edit else one)
        except (ValueError, TypeError) as error:
            raise VaderError(_BAD_STRATEGY.format(text)) from error
        if len(words) > len(astuple(placements[-1])):
            raise VaderError(_BAD_STRATEGY.format(text))
    return placements


_BAD_STRATEGY = (
    "mask strategy {!r}: write SEGMENT,REFERENCE,REFERENCE_START,TARGET_START,LENGTH,EDIT "
    "(five whole numbers and a number from 0 to 1), several of them separated by ;"
)


def aligned(value: int, unit: int, size: int) -> int:
    """The multiple of ``unit`` nearest to ``value``: up only past the half, and if a whole unit follows.

    >>> aligned(3, 5, 15), aligned(14, 5, 15)
    (5, 10)
    """
    whole, rest = divmod(value, unit)
    if 2 * rest > unit and whole + 1 < size // unit:
        whole += 1
    return whole * unit


def place(
    latents: Tensor,
    references: Sequence[Sequence[Tensor]],
    strategies: Sequence[Sequence[Placement]],
    *,
    segment: int = 0,
    unit: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Put references into latents.

    Args:
        latents: [b, c, t, h, w].
        references: For each sample its references, [c, t, h, w] each.
        strategies: For each sample where they go.
        segment: Only placements of this segment count.
        unit: Align both ends to multiples of this many latent frames (a chunk of the autoencoder); ``None``
            does not.

    Returns:
        The latents with the references in them, and the frame mask [b, t].

    Raises:
        VaderError: A placement names a reference that is not there, or of another size.
    """
    latents = latents.clone()
    total = latents.shape[2]
    mask = torch.ones(len(latents), total, device=latents.device, dtype=latents.dtype)
    for row, placements in enumerate(strategies):
        for one in placements:
            if one.segment != segment:
                continue
            reference = _reference(references[row], one, latents)
            start, target = one.reference_start, one.target_start
            start += reference.shape[1] if start < 0 else 0
            target += total if target < 0 else 0
            if unit is not None:
                start, target = aligned(start, unit, reference.shape[1]), aligned(target, unit, total)
            length = min(one.length, total - target, reference.shape[1] - start)
            latents[row, :, target : target + length] = reference[:, start : start + length]
            mask[row, target : target + length] = one.edit
    return latents, mask


def _reference(references: Sequence[Tensor], placement: Placement, latents: Tensor) -> Tensor:
    if not 0 <= placement.reference < len(references):
        raise VaderError(
            f"mask strategy: reference {placement.reference} is not there, {len(references)} given; "
            "counting begins at 0"
        )
    reference = references[placement.reference]
    if reference.shape[2:] != latents.shape[3:]:
        raise VaderError(
            f"mask strategy: a reference of latent size {tuple(reference.shape[2:])} does not fit "
            f"{tuple(latents.shape[3:])}"
        )
    return reference


def active_frames(mask: Tensor, timestep: Tensor | float, *, strict: bool = False) -> Tensor:
    """Which frames are being generated at ``timestep`` (0 … 1000): bool, the shape of ``mask`` [b, t].

    Args:
        mask: The frame mask; one that is bool says it already.
        timestep: A number, or [b].
        strict: Compare as the official code does. There a first timestep that rounding lifts to 1000.0001
            makes every frame count as given for one step.
    """
    if mask.dtype == torch.bool:
        return mask
    if isinstance(timestep, Tensor):
        timestep = timestep[:, None]
    reached = mask * 1000 >= timestep
    return reached if strict else reached | (mask >= 1)
