"""Which frames of a video are decoded and scored."""

from __future__ import annotations

from collections.abc import Sequence

from vader_core.errors import VaderError
from vader_core.randomness import Randomness
from vader_core.reward import FramesNeeded

CHOICES = "random, random:N, first, middle, last, fml, alternate, all, or an index"


def check_choice(choice: str, num_frames: int) -> None:
    """Refuse a ``--reward-frames`` value that is none of the forms or does not fit the clip.

    Raises:
        VaderError: Listing the forms, or the indices there are.
    """
    if choice in ("random", "first", "middle", "last", "fml", "alternate", "all"):
        return
    form, _, count = choice.partition(":")
    if form == "random" and count.isdigit():
        if not 1 <= int(count) <= num_frames:
            raise VaderError(
                f"--reward-frames {choice}: the clip has {num_frames} frames; use random:1 … "
                f"random:{num_frames}"
            )
        return
    if not choice.lstrip("-").isdigit():
        raise VaderError(f"--reward-frames {choice!r} is not allowed: use {CHOICES}")
    if not -num_frames <= int(choice) < num_frames:
        raise VaderError(f"--reward-frames {choice}: the clip has {num_frames} frames, 0 to {num_frames - 1}")


def evenly_spaced(count: int, num_frames: int) -> tuple[int, ...]:
    """``count`` frame indices spread over the clip, at the centres of equal stretches.

    >>> evenly_spaced(4, 8)
    (1, 3, 5, 7)
    """
    return tuple(int((i + 0.5) * num_frames / count) for i in range(count))


def pick(
    choice: str, num_frames: int, rng: Randomness, among: Sequence[int] | None = None
) -> tuple[int, ...]:
    """The frame indices that ``choice`` names, in order.

    Args:
        choice: In the words of ``--reward-frames``.
        num_frames: Frames of the video.
        rng: Random draws are shared by the whole batch.
        among: Frames that a random draw may take, those that carry a gradient; ``None`` is all.

    >>> pick("fml", 9, Randomness(0)), pick("alternate", 5, Randomness(0))
    ((0, 4, 8), (0, 2, 4))
    """
    named = {
        "first": (0,),
        "middle": (num_frames // 2,),
        "last": (num_frames - 1,),
        "fml": tuple(sorted({0, num_frames // 2, num_frames - 1})),
        "alternate": tuple(range(0, num_frames, 2)),
        "all": tuple(range(num_frames)),
    }
    if choice in named:
        return named[choice]
    form, _, count = choice.partition(":")
    if form == "random":
        import torch

        drawable = range(num_frames) if among is None else among
        order = torch.randperm(len(drawable), generator=rng.generator("frames")).tolist()
        return tuple(sorted(drawable[index] for index in order[: int(count or 1)]))
    check_choice(choice, num_frames)
    return (int(choice) % num_frames,)


def choose_frames(
    needed: FramesNeeded,
    choice: str,
    num_frames: int,
    rng: Randomness,
    among: Sequence[int] | None = None,
    *,
    name: str = "",
) -> tuple[int, ...]:
    """The frames that one reward is given.

    Args:
        needed: What the reward says it needs.
        choice: The user's ``--reward-frames``; it rules rewards of images and of clips of any length.
        num_frames: Frames of the (joined) video.
        rng: For ``random``.
        among: Frames that a random draw may take; ``None`` is all.
        name: The reward's, for the message.

    Raises:
        VaderError: The video has fewer frames than a clip needs.
    """
    if needed.kind == "all":
        return tuple(range(num_frames))
    if needed.kind == "image":
        return pick(choice, num_frames, rng, among)
    if needed.count is not None:
        if needed.count > num_frames:
            raise _too_short(name, f"{needed.count} frames", num_frames)
        return evenly_spaced(needed.count, num_frames)
    chosen = pick(choice, num_frames, rng, among)
    if len(chosen) >= needed.minimum:
        return chosen
    if needed.minimum > num_frames:
        raise _too_short(name, f"{needed.minimum} frames or more", num_frames)
    return tuple(range(num_frames))


def _too_short(name: str, needed: str, num_frames: int) -> VaderError:
    who = f"reward {name!r}" if name else "a reward"
    return VaderError(
        f"{who} needs clips of {needed}, but the video has {num_frames}: give a longer one "
        "(--num-frames where it is sampled)"
    )
