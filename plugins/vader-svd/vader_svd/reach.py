"""How far one step's prediction reaches into the final latents: where a gradient is worth having."""

from __future__ import annotations

from collections.abc import Sequence


def karras_sigmas(sigma_min: float, sigma_max: float, num_steps: int, rho: float = 7.0) -> list[float]:
    """Noise levels of the executed steps, largest first (Karras et al. 2022, eq. 5).

    >>> [round(sigma, 3) for sigma in karras_sigmas(0.002, 700.0, 3)]
    [700.0, 15.59, 0.002]
    """
    high, low = sigma_max ** (1 / rho), sigma_min ** (1 / rho)
    shares = [step / (num_steps - 1) if num_steps > 1 else 0.0 for step in range(num_steps)]
    return [(high + share * (low - high)) ** rho for share in shares]


def reach(sigmas: Sequence[float]) -> list[float]:
    """Derivative of the final latents with respect to each step's v, later predictions held fixed.

    From one noise level to the next, Euler keeps the share k = next / sigma of the latents x and takes the
    share 1 - k of the clean estimate x / (sigma^2 + 1) - v sigma / sqrt(sigma^2 + 1). Zero follows the last.

    Args:
        sigmas: Noise levels of the executed steps, largest first.

    Returns:
        The derivative's absolute value, one per step.
    """
    later, factors = 1.0, []
    for sigma, following in reversed(list(zip(sigmas, [*sigmas[1:], 0.0], strict=True))):
        kept = following / sigma
        unit = sigma**2 + 1.0
        factors.append(later * (1.0 - kept) * sigma / unit**0.5)
        later *= kept + (1.0 - kept) / unit
    return factors[::-1]


def farthest_step(sigmas: Sequence[float]) -> int:
    """The step whose prediction reaches farthest, counted from 0.

    >>> farthest_step(karras_sigmas(0.002, 700.0, 25))
    17
    """
    factors = reach(sigmas)
    return max(range(len(factors)), key=factors.__getitem__)
