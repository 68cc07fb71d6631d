"""Which S of the N trained timesteps a sampler visits (Lin et al. 2023, table 2)."""

from __future__ import annotations

import numpy as np

from vader_core.errors import VaderError


def spaced_timesteps(
    spacing: str, num_train_timesteps: int, num_steps: int, *, offset: int, extra: int = 0, whole: bool = True
) -> list[float]:
    """Exactly ``num_steps`` timesteps, descending.

    Args:
        spacing: ``leading``, ``trailing`` or ``linspace``.
        num_train_timesteps: N.
        num_steps: S.
        offset: Added to every timestep of ``leading``.
        extra: 1 spreads S + 1 timesteps and drops the lowest (``leading`` and ``linspace`` of DPM-Solver).
        whole: Round ``linspace`` to whole timesteps.

    Raises:
        VaderError: More steps than distinct timesteps, or an offset that leaves the schedule.

    >>> spaced_timesteps("leading", 1000, 4, offset=1)
    [751.0, 501.0, 251.0, 1.0]
    """
    total = num_steps + extra
    if total > num_train_timesteps:
        raise VaderError(
            f"--num-steps {num_steps} is not allowed: this schedule has {num_train_timesteps} timesteps, "
            f"use at most {num_train_timesteps - extra}"
        )
    # numpy's own arithmetic, because the last bit decides which way a half is rounded
    if spacing == "linspace":
        values: np.ndarray = np.linspace(0, num_train_timesteps - 1, total)
        values = values.round() if whole else values.astype(np.float32).astype(np.float64)
        values = values[::-1]
    elif spacing == "leading":
        values = (np.arange(total) * (num_train_timesteps // total))[::-1] + float(offset)
    else:
        values = np.round(num_train_timesteps - np.arange(num_steps) * (num_train_timesteps / num_steps)) - 1
    timesteps = [float(value) for value in values[:num_steps]]
    if timesteps[0] > num_train_timesteps - 1:
        raise VaderError(
            f"steps_offset={offset} is not allowed with {num_steps} steps: timestep {timesteps[0]:g} lies "
            f"beyond the schedule's last, {num_train_timesteps - 1}"
        )
    return timesteps
