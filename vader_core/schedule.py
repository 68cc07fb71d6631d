"""Noise schedules: how a clean video and noise are mixed at each time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

PredictionType = Literal["epsilon", "v", "velocity"]
FlowSpacing = Literal["even", "trained", "trained_shifted"]


@dataclass(frozen=True)
class VariancePreserving:
    """A discrete DDPM schedule: x_t = sqrt(a_t) x_0 + sqrt(1 - a_t) noise.

    Args:
        alphas_cumprod: a_t for t = 0 … N-1, float64, [N].
        prediction_type: ``epsilon`` (the noise) or ``v`` (sqrt(a) noise - sqrt(1-a) x_0).
        scale: A model's own extra scale of x_0 per t, [N] (VideoCrafter2's ``scale_arr``); ``None`` is all
            ones.
    """

    alphas_cumprod: Tensor
    prediction_type: PredictionType = "epsilon"
    scale: Tensor | None = None

    @staticmethod
    def scaled_linear(
        beta_start: float = 0.00085, beta_end: float = 0.012, num_train_timesteps: int = 1000
    ) -> Tensor:
        """a_t of Latent Diffusion's schedule: betas linear in their square roots. Float64, [N]."""
        betas = torch.linspace(beta_start**0.5, beta_end**0.5, num_train_timesteps, dtype=torch.float64) ** 2
        return torch.cumprod(1.0 - betas, dim=0)

    @property
    def num_train_timesteps(self) -> int:
        """N."""
        return len(self.alphas_cumprod)


@dataclass(frozen=True)
class VarianceExploding:
    """An EDM schedule (Karras et al. 2022): x = x_0 + sigma * noise; the model is told t = 0.25 ln(sigma).

    Args:
        sigma_min: Smallest noise level.
        sigma_max: Largest noise level.
        rho: Curvature of the Karras spacing.
        prediction_type: ``v`` or ``epsilon``, of the variance-preserving form x / sqrt(sigma^2 + 1).
    """

    sigma_min: float
    sigma_max: float
    rho: float = 7.0
    prediction_type: PredictionType = "v"


@dataclass(frozen=True)
class RectifiedFlow:
    """A straight path: x_t = (1 - tau) x_0 + tau noise, tau = t / num_train_timesteps in [0, 1].

    Args:
        num_train_timesteps: The model's unit of time.
        shift: Static time shift s: tau' = s tau / (1 + (s - 1) tau); 1 leaves the times evenly spaced.
        velocity_sign: +1 where the model predicts noise - x_0, -1 where it predicts x_0 - noise (Open-Sora).
        spacing: Where ``flow_euler`` steps before the shift: ``even`` at 1 - i / S, ``trained`` evenly from
            1 to the smallest trained time 1 / num_train_timesteps, ``trained_shifted`` to that time, shifted.
        terminal: Noise level that the last step is stretched to; ``None`` leaves it where it is.
    """

    num_train_timesteps: int = 1000
    shift: float = 1.0
    velocity_sign: int = 1
    prediction_type: PredictionType = "velocity"
    spacing: FlowSpacing = "even"
    terminal: float | None = None


Schedule = VariancePreserving | VarianceExploding | RectifiedFlow
