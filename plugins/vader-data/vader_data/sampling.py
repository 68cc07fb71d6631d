"""Which frames of a clip are looked at: the two projects' rules, and ours."""

from __future__ import annotations


def uniform(num_frames: int, count: int) -> list[int]:
    """EasyAnimate: evenly spaced from the first frame, the end left out.

    >>> uniform(230, 4), uniform(1, 4)
    ([0, 57, 115, 172], [0, 0, 0, 0])
    """
    return [num_frames * index // count for index in range(count)]


def middle(num_frames: int) -> list[int]:
    """The middle frame.

    >>> middle(5)
    [2]
    """
    return [num_frames // 2]


def at_points(num_frames: int, points: tuple[float, ...] = (0.1, 0.5, 0.9)) -> list[int]:
    """Open-Sora: at shares of the length, at most the last frame.

    >>> at_points(132), at_points(16)
    ([13, 66, 118], [1, 8, 14])
    """
    return [min(int(point * num_frames), num_frames - 1) for point in points]


def flow_frames(num_frames: int) -> list[int]:
    """Open-Sora's flow: frames 0, 10, 20 and 30, at most the last.

    >>> flow_frames(16)
    [0, 10, 15, 15]
    """
    return [min(index, num_frames - 1) for index in (0, 10, 20, 30)]


def at_rate(num_frames: int, fps: float, per_second: float) -> list[int]:
    """EasyAnimate's motion: every int(fps / per_second)-th frame; two frames at least where there are two.

    >>> at_rate(40, 24000 / 1001, 2.0)
    [0, 11, 22, 33]
    >>> at_rate(2, 25.0, 2.0), at_rate(1, 25.0, 2.0)
    ([0, 1], [0])
    """
    if num_frames < 2:
        return [0] * num_frames
    interval = int(fps / min(per_second, fps)) if fps > 0 else 1
    return list(range(0, num_frames, max(min(interval, num_frames - 1), 1)))


def spread(num_frames: int, count: int) -> list[int]:
    """``count`` frames over the whole clip, the first and the last among them.

    >>> spread(9, 3), spread(2, 4)
    ([0, 4, 8], [0, 0, 1, 1])
    """
    if count == 1:
        return middle(num_frames)
    return [round(index * (num_frames - 1) / (count - 1)) for index in range(count)]
