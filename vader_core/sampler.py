"""The sampler contract: how noise becomes latents.

A sampler is pure. All it knows is in its arguments: the plan (numbers worked out once from the backbone's
schedule), the step index and the state. Coefficients are Python floats worked out in float64, so that latents
keep their own dtype.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from vader_core.errors import VaderError

if TYPE_CHECKING:
    from vader_core.backbone import Conditioning
    from vader_core.geometry import Geometry

PredictionType = Literal["epsilon", "v", "velocity"]


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
    spacing: Literal["even", "trained", "trained_shifted"] = "even"
    terminal: float | None = None


Schedule = VariancePreserving | VarianceExploding | RectifiedFlow


@dataclass(frozen=True)
class Plan:
    """What a sampler works out once, before the first step.

    Args:
        timesteps: What the model is told at each executed step, in the model's own units; length S.
        tables: Coefficients by name, each of length S (or S + 1), indexed by executed step.
        prediction_type: What the model's prediction means.
    """

    timesteps: tuple[float, ...]
    tables: Mapping[str, tuple[float, ...]]
    prediction_type: PredictionType

    @property
    def num_steps(self) -> int:
        """S, the number of executed steps."""
        return len(self.timesteps)


@dataclass(frozen=True)
class State:
    """Where a rollout stands.

    Args:
        latents: [B, C, T, h, w].
        history: Whatever a multistep method keeps, newest last.
        extra: Further tensors by name, e.g. the latents that a frame mask restores.
    """

    latents: Tensor
    history: tuple[Tensor, ...] = ()
    extra: Mapping[str, Tensor] = field(default_factory=dict)

    def at(self, latents: Tensor) -> State:
        """The same state with other latents."""
        return replace(self, latents=latents)


class Sampler(ABC):
    """How noise becomes latents. Step index ``i`` counts executed steps from 0."""

    #: Schedule types that this sampler can follow.
    schedules: tuple[type, ...] = ()

    @abstractmethod
    def plan(self, schedule: Schedule, num_steps: int, geometry: Geometry) -> Plan:
        """Timesteps and coefficient tables for exactly ``num_steps`` steps.

        Raises:
            VaderError: The schedule is of another kind, or ``num_steps`` cannot be done.
        """

    def start(self, plan: Plan, noise: Tensor) -> State:
        """The state before step 0: ``noise`` [B, C, T, h, w], standard normal, scaled for the first step."""
        return State(noise)

    def needs_noise(self, plan: Plan, i: int, conditioning: Conditioning) -> bool:
        """Whether step ``i`` uses fresh noise; the core draws it only then."""
        return False

    def before_step(
        self, plan: Plan, i: int, state: State, conditioning: Conditioning, noise: Tensor | None
    ) -> State:
        """What happens to the state before the model is called."""
        return state

    def model_input(self, plan: Plan, i: int, state: State) -> Tensor:
        """What the model is given: [B, C, T, h, w]."""
        return state.latents

    @abstractmethod
    def step(self, plan: Plan, i: int, state: State, prediction: Tensor, noise: Tensor | None) -> State:
        """The state after step ``i``, from the guided ``prediction`` [B, C, T, h, w]."""

    @abstractmethod
    def clean(self, plan: Plan, i: int, state: State, prediction: Tensor) -> Tensor:
        """The estimate of the clean latents that ``prediction`` at step ``i`` implies: [B, C, T, h, w]."""

    @abstractmethod
    def renoise(self, plan: Plan, i: int, clean: Tensor, noise: Tensor) -> State:
        """The state before step ``i`` of a fresh path from ``clean`` with standard normal ``noise``."""

    def after_step(
        self, plan: Plan, i: int, state: State, conditioning: Conditioning, noise: Tensor | None
    ) -> State:
        """What happens to the state after the update."""
        return state

    def require(self, schedule: Schedule, num_steps: int) -> None:
        """Refuse a schedule that this sampler cannot follow and a number of steps below 1."""
        if not isinstance(schedule, self.schedules):
            allowed = ", ".join(kind.__name__ for kind in self.schedules)
            raise VaderError(
                f"sampler {type(self).__name__} follows a {allowed} schedule, but the backbone's is "
                f"{type(schedule).__name__}: choose another --sampler (`vader plugins` lists them)"
            )
        if num_steps < 1:
            raise VaderError(f"--num-steps {num_steps} is not allowed: use 1 or more")
