"""Noise schedules: how a clean video and noise are mixed at each time."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

PredictionType = Literal["epsilon", "v", "velocity"]
FlowSpacing = Literal["even", "trained", "trained_shifted", "linear_quadratic"]
Variance = Literal["fixed", "learned_range"]


@dataclass(frozen=True)
class VariancePreserving:
    """A discrete DDPM schedule: x_t = sqrt(a_t) x_0 + sqrt(1 - a_t) noise.

    Args:
        alphas_cumprod: a_t for t = 0 … N-1, float64, [N].
        prediction_type: ``epsilon`` (the noise) or ``v`` (sqrt(a) noise - sqrt(1-a) x_0).
        scale: A model's own extra scale of x_0 per t, [N] (VideoCrafter2's ``scale_arr``); ``None`` is all
            ones.
        variance: ``learned_range`` where the model predicts a variance too (Nichol and Dhariwal 2021).
    """

    alphas_cumprod: Tensor
    prediction_type: PredictionType = "epsilon"
    scale: Tensor | None = None
    variance: Variance = "fixed"

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

    # -- the forward process -----------------------------------------------------------------------------

    def add_noise(self, clean: Tensor, noise: Tensor, timestep: Tensor) -> Tensor:
        """x_t = sqrt(a_t) s_t x_0 + sqrt(1 - a_t) noise.

        Args:
            clean: x_0 [B, C, T, h, w].
            noise: Standard normal, of the same shape.
            timestep: [B], whole numbers in 0 … N-1.
        """
        signal, share = self._marginals(timestep, clean)
        return signal * clean + share * noise

    def target(self, clean: Tensor, noise: Tensor, timestep: Tensor) -> Tensor:
        """What a perfect model predicts at x_t: the noise, or v = sqrt(a_t) noise - sqrt(1 - a_t) x_0."""
        if self.prediction_type == "epsilon":
            return noise
        signal, share = self._marginals(timestep, clean)
        return signal * noise - share * clean

    def training_timesteps(self, uniform: Tensor) -> Tensor:
        """Timesteps to train at: each of 0 … N-1 with the same probability.

        Args:
            uniform: [B], in [0, 1).
        """
        return (uniform.double() * self.num_train_timesteps).long().clamp(max=self.num_train_timesteps - 1)

    def _marginals(self, timestep: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        cumprod = self.alphas_cumprod.double().to(like.device)[timestep.long()]
        signal = cumprod.sqrt()
        if self.scale is not None:
            signal = signal * self.scale.double().to(like.device)[timestep.long()]
        return _spread(signal, like), _spread((1.0 - cumprod).sqrt(), like)


@dataclass(frozen=True)
class VarianceExploding:
    """An EDM schedule (Karras et al. 2022): x = x_0 + sigma * noise; the model is told t = 0.25 ln(sigma).

    Args:
        sigma_min: Smallest noise level.
        sigma_max: Largest noise level.
        rho: Curvature of the Karras spacing.
        prediction_type: ``v`` or ``epsilon``, of the variance-preserving form x / sqrt(sigma^2 + 1).
        train_mean: Mean of ln(sigma) in training (Karras et al. 2022, table 1).
        train_deviation: Its standard deviation.
    """

    sigma_min: float
    sigma_max: float
    rho: float = 7.0
    prediction_type: PredictionType = "v"
    train_mean: float = -1.2
    train_deviation: float = 1.2

    # -- the forward process -----------------------------------------------------------------------------

    def add_noise(self, clean: Tensor, noise: Tensor, timestep: Tensor) -> Tensor:
        """What the model is given: (x_0 + sigma noise) / sqrt(sigma^2 + 1).

        Args:
            clean: x_0 [B, C, T, h, w].
            noise: Standard normal, of the same shape.
            timestep: [B], 0.25 ln(sigma).
        """
        sigma = (4.0 * timestep.double()).exp()
        scale = (sigma**2 + 1.0).rsqrt()
        return _spread(scale, clean) * clean + _spread(sigma * scale, clean) * noise

    def target(self, clean: Tensor, noise: Tensor, timestep: Tensor) -> Tensor:
        """What a perfect model predicts there, in the variance preserving form."""
        if self.prediction_type == "epsilon":
            return noise
        sigma = (4.0 * timestep.double()).exp()
        scale = (sigma**2 + 1.0).rsqrt()
        return _spread(scale, clean) * noise - _spread(sigma * scale, clean) * clean

    def training_timesteps(self, uniform: Tensor) -> Tensor:
        """Timesteps to train at: ln(sigma) is normal, bounded by the schedule's two levels.

        Args:
            uniform: [B], in [0, 1).
        """
        normal = torch.special.ndtri(uniform.double().clamp(1e-6, 1.0 - 1e-6))
        level = self.train_mean + self.train_deviation * normal
        return 0.25 * level.clamp(math.log(self.sigma_min), math.log(self.sigma_max))


@dataclass(frozen=True)
class RectifiedFlow:
    """A straight path: x_t = (1 - tau) x_0 + tau noise, tau = t / num_train_timesteps in [0, 1].

    Args:
        num_train_timesteps: The model's unit of time.
        shift: Static time shift s: tau' = s tau / (1 + (s - 1) tau); 1 leaves the times evenly spaced.
        velocity_sign: +1 where the model predicts noise - x_0, -1 where it predicts x_0 - noise (Open-Sora).
        spacing: Where ``flow_euler`` steps before the shift: ``even`` at 1 - i / S, ``trained`` evenly from
            1 to the smallest trained time 1 / num_train_timesteps, ``trained_shifted`` to that time, shifted;
            ``linear_quadratic`` slowly, then faster and faster, as LTX-Video from 0.9.5 on.
        terminal: Noise level that the last step is stretched to; ``None`` leaves it where it is.
    """

    num_train_timesteps: int = 1000
    shift: float = 1.0
    velocity_sign: int = 1
    prediction_type: PredictionType = "velocity"
    spacing: FlowSpacing = "even"
    terminal: float | None = None

    # -- the forward process -----------------------------------------------------------------------------

    def add_noise(self, clean: Tensor, noise: Tensor, timestep: Tensor) -> Tensor:
        """x_t = (1 - tau) x_0 + tau noise.

        Args:
            clean: x_0 [B, C, T, h, w].
            noise: Standard normal, of the same shape.
            timestep: [B], in 0 … num_train_timesteps.
        """
        tau = timestep.double() / self.num_train_timesteps
        return _spread(1.0 - tau, clean) * clean + _spread(tau, clean) * noise

    def target(self, clean: Tensor, noise: Tensor, timestep: Tensor) -> Tensor:
        """What a perfect model predicts at x_t: the velocity, with the model's own sign."""
        return self.velocity_sign * (noise - clean)

    def training_timesteps(self, uniform: Tensor) -> Tensor:
        """Timesteps to train at: even in tau before the time shift.

        Args:
            uniform: [B], in [0, 1).
        """
        tau = uniform.double()
        return self.num_train_timesteps * self.shift * tau / (1.0 + (self.shift - 1.0) * tau)


Schedule = VariancePreserving | VarianceExploding | RectifiedFlow


def _spread(values: Tensor, like: Tensor) -> Tensor:
    """One coefficient per sample, computed in float64, in the dtype of ``like`` and broadcast over it."""
    return values.to(like.device, like.dtype).view(-1, *[1] * (like.ndim - 1))
