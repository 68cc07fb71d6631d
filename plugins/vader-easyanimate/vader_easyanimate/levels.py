"""What the samplers here share: noise levels, and what a prediction says at one."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from vader_core.errors import VaderError
from vader_core.schedule import VariancePreserving


@dataclass(frozen=True)
class Level:
    """Latents as alpha · data + sigma · noise.

    Args:
        alpha: Share of the data.
        sigma: Share of the noise.
    """

    alpha: float
    sigma: float

    def mixed(self, clean: Tensor, noise: Tensor) -> Tensor:
        """Latents at this level."""
        return self.alpha * clean + self.sigma * noise

    def noise_of(self, latents: Tensor, prediction: Tensor, prediction_type: str) -> Tensor:
        """The noise that a prediction at this level means."""
        return prediction if prediction_type == "epsilon" else self.sigma * latents + self.alpha * prediction

    def clean_of(self, latents: Tensor, prediction: Tensor, prediction_type: str) -> Tensor:
        """The data that a prediction at this level means."""
        if prediction_type == "epsilon":
            return (latents - self.sigma * prediction) / self.alpha
        return self.alpha * latents - self.sigma * prediction


def levels_of(schedule: VariancePreserving, sampler: str) -> list[Level]:
    """The schedule's level at every trained timestep.

    Raises:
        VaderError: A schedule that these samplers do not follow.
    """
    if schedule.scale is not None or schedule.prediction_type not in ("epsilon", "v"):
        raise VaderError(
            f"sampler {sampler!r} follows a plain schedule with epsilon or v prediction: use --sampler ddim"
        )
    cumprod = schedule.alphas_cumprod.double().cpu()
    alphas, sigmas = cumprod.sqrt().tolist(), (1.0 - cumprod).sqrt().tolist()
    if min(alphas) == 0.0:
        raise VaderError(
            f"sampler {sampler!r} cannot start at a timestep without any signal: use --sampler ddim"
        )
    return [Level(alpha, sigma) for alpha, sigma in zip(alphas, sigmas, strict=True)]


def leading(total: int, num_steps: int, offset: int, sampler: str) -> list[int]:
    """Every (total // S)-th timestep from ``offset`` on, descending.

    Raises:
        VaderError: More steps than timesteps, or an offset that leaves the schedule.
    """
    if num_steps > total:
        raise VaderError(
            f"--num-steps is too large for sampler {sampler!r}: the schedule has {total} timesteps"
        )
    timesteps = [i * (total // num_steps) + offset for i in range(num_steps)][::-1]
    if timesteps[0] > total - 1:
        raise VaderError(
            f"sampler {sampler!r}: steps_offset={offset} is not allowed with {num_steps} steps: timestep "
            f"{timesteps[0]} lies beyond the schedule's last, {total - 1}"
        )
    return timesteps
