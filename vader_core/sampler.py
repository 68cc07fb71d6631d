"""The sampler contract: how noise becomes latents.

A sampler is pure. All it knows is in its arguments: the plan (numbers computed once from the backbone's
schedule), the step index and the state. Coefficients are Python floats computed in float64, so that latents
keep their own dtype.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from torch import Tensor

from vader_core.conditioning import Conditioning
from vader_core.errors import VaderError
from vader_core.geometry import Geometry
from vader_core.prediction import Prediction
from vader_core.schedule import PredictionType, Schedule


@dataclass(frozen=True)
class Plan:
    """What a sampler computes once, before the first step.

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

    def told(self, plan: Plan, i: int, conditioning: Conditioning) -> Conditioning:
        """What the model is given beside latents and time: ``conditioning``, for a sampler that adds nothing.

        For models that must know of each frame whether this step generates it.
        """
        return conditioning

    def model_input(self, plan: Plan, i: int, state: State) -> Tensor:
        """What the model is given: [B, C, T, h, w]."""
        return state.latents

    @abstractmethod
    def step(self, plan: Plan, i: int, state: State, prediction: Prediction, noise: Tensor | None) -> State:
        """The state after step ``i``, from the guided ``prediction``."""

    @abstractmethod
    def clean(self, plan: Plan, i: int, state: State, prediction: Prediction) -> Tensor:
        """The estimate of the clean latents that ``prediction`` at step ``i`` implies: [B, C, T, h, w]."""

    def transition(self, plan: Plan, i: int, state: State, prediction: Prediction) -> tuple[Tensor, float]:
        """Mean [B, C, T, h, w] and standard deviation of the state after step ``i``, where it is random.

        A deviation of 0 says that this step is not.

        Raises:
            VaderError: The sampler is deterministic, or its steps are no Gaussian of one deviation.
        """
        raise VaderError(
            f"sampler {type(self).__name__} has no stochastic steps: use one that has, such as "
            "--sampler rectified_flow -o sampler.noise_level=0.7, or ddim with -o sampler.eta=1"
        )

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
