"""What a noisy latent is made of: x = alpha x_0 + sigma noise, and what a prediction at x says about x_0."""

from __future__ import annotations

from torch import Tensor

from vader_core.errors import VaderError
from vader_core.schedule import VariancePreserving


def marginals(schedule: VariancePreserving) -> tuple[list[float], list[float]]:
    """(alpha_t, sigma_t) for t = 0 … N-1, in float64; alpha carries the schedule's extra scale of x_0.

    Raises:
        VaderError: A prediction type that does not belong to the schedule.
    """
    if schedule.prediction_type not in ("epsilon", "v"):
        raise VaderError(
            f"prediction type {schedule.prediction_type!r} does not belong to a variance preserving "
            "schedule: use epsilon or v"
        )
    cumprod = schedule.alphas_cumprod.double().cpu()
    alphas = cumprod.sqrt()
    if schedule.scale is not None:
        if schedule.prediction_type == "v":
            raise VaderError("a schedule with an extra scale of x_0 is defined for epsilon prediction, not v")
        alphas = alphas * schedule.scale[: len(alphas)].double().cpu()
    return alphas.tolist(), (1.0 - cumprod).sqrt().tolist()


def clean_weights(alpha: float, sigma: float, prediction_type: str) -> tuple[float, float]:
    """The weights (of latents, of prediction) whose sum is the estimate of x_0.

    Args:
        alpha: Signal part of the latents.
        sigma: Noise part of the latents.
        prediction_type: ``epsilon``, or ``v`` where alpha^2 + sigma^2 = 1.

    Raises:
        VaderError: The noise is predicted where there is nothing but noise.

    >>> clean_weights(0.8, 0.6, "v")
    (0.8, -0.6)
    """
    if prediction_type == "v":
        return alpha, -sigma
    if alpha == 0.0:
        raise VaderError("a timestep without signal needs a v prediction, but the backbone predicts epsilon")
    return 1.0 / alpha, -sigma / alpha


def weighted(first: float, a: Tensor, second: float, b: Tensor) -> Tensor:
    """``first * a + second * b``."""
    return first * a + second * b
