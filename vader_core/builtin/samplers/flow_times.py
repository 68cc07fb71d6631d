"""The noise levels tau that the samplers of a rectified flow visit, from 1 down to 0."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from vader_core.errors import VaderError
from vader_core.schedule import RectifiedFlow


def require_velocity(schedule: RectifiedFlow) -> None:
    """Refuse a flow whose model predicts anything but the velocity.

    Raises:
        VaderError: Naming the prediction type.
    """
    if schedule.prediction_type != "velocity":
        raise VaderError(
            f"prediction type {schedule.prediction_type!r} does not belong to a rectified flow: use velocity"
        )


def shifted(tau: float, shift: float) -> float:
    """The static time shift: s tau / (1 + (s - 1) tau).

    >>> shifted(0.5, 3.0)
    0.75
    """
    return shift * tau / (1.0 + (shift - 1.0) * tau)


def stretched(taus: Sequence[float], terminal: float | None) -> list[float]:
    """``taus`` with their distances to 1 stretched so that the last of them is ``terminal``.

    >>> stretched([1.0, 0.75, 0.5], 0.0)
    [1.0, 0.5, 0.0]
    """
    if terminal is None or taus[-1] >= 1.0:
        return list(taus)
    factor = (1.0 - taus[-1]) / (1.0 - terminal)
    return [1.0 - (1.0 - tau) / factor for tau in taus]


def single(values: Sequence[float]) -> tuple[float, ...]:
    """``values`` rounded to float32, as diffusers keeps its noise levels and tells its models the time."""
    return tuple(float(value) for value in np.array(values, dtype=np.float64).astype(np.float32))


def linear_quadratic(num_steps: int, share: float = 0.025) -> list[float]:
    """LTX-Video's levels from 0.9.5 on: slow at the start, then faster and faster.

    The first half of the steps goes evenly over ``share`` of the path; over the rest each step is longer than
    the one before by the same amount, without a jump where the halves meet.

    Args:
        num_steps: S.
        share: Of the path, for the first S // 2 steps.
    """
    if num_steps < 2:
        return [1.0] * num_steps
    even = num_steps // 2
    rest = num_steps - even
    short = share / even
    growth = (1.0 - share - rest * short) / rest**2
    gone = [i * short for i in range(even)]
    gone += [share + i * short + growth * i**2 for i in range(rest)]
    return [1.0 - part for part in gone]


def euler_taus(
    schedule: RectifiedFlow, num_steps: int, *, spacing: str, shift: float, terminal: float | None
) -> list[float]:
    """The S noise levels of Euler steps; 0 behind them is left out.

    Args:
        schedule: Its unit of time says which noise level is the smallest trained one.
        num_steps: S.
        spacing: ``even``: 1 - i / S. ``trained``: evenly from 1 to the smallest trained level, both
            included. ``trained_shifted``: to that level after a shift of its own, so that it is shifted
            twice. ``linear_quadratic``: see :func:`linear_quadratic`.
        shift: Static time shift.
        terminal: What the last level is stretched to; ``None`` leaves it.
    """
    if spacing == "even":
        plain = [1.0 - i / num_steps for i in range(num_steps)]
    elif spacing == "linear_quadratic":
        plain = linear_quadratic(num_steps)
    else:
        smallest = 1.0 / schedule.num_train_timesteps
        smallest = shifted(smallest, shift) if spacing == "trained_shifted" else smallest
        plain = [float(tau) for tau in np.linspace(1.0, smallest, num_steps)]
    return stretched([shifted(tau, shift) for tau in plain], terminal)


def unipc_taus(
    schedule: RectifiedFlow, num_steps: int, *, shift: float, terminal: float | None
) -> tuple[list[float], list[float]]:
    """The S noise levels of UniPC, rounded to float32, and the whole timesteps that the model is told.

    Evenly from 1 to the smallest trained level, that one left out, then shifted. A level of 1 holds no data,
    which the solver's logarithms cannot take: 1e-6 is taken off it. Diffusers rounds the levels to float32,
    and near 1 that decides the first two updates, so it is done here too.
    """
    plain = np.linspace(1.0, 1.0 / schedule.num_train_timesteps, num_steps + 1)[:-1]
    moved = shift * plain / (1.0 + (shift - 1.0) * plain)
    taus = np.array(stretched([float(tau) for tau in moved], terminal))
    if math.fabs(taus[0] - 1.0) < 1e-6:
        taus[0] -= 1e-6
    timesteps = [float(math.trunc(tau)) for tau in taus * schedule.num_train_timesteps]
    return list(single(taus.tolist())), timesteps
