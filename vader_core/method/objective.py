"""The objective contract: what one update minimises."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol

from torch import Tensor

from vader_core.backbone import Backbone
from vader_core.geometry import Geometry
from vader_core.method.mixture import Mixture
from vader_core.method.model import Model
from vader_core.method.segments import Segments
from vader_core.prompts import Prompt
from vader_core.randomness import Randomness

Backward = Callable[[Tensor], None]


@dataclass(frozen=True)
class Batch:
    """What one micro-step learns from.

    Args:
        prompts: B of them; with a ``video`` each where the objective needs videos.
        geometry: Of every video of this batch.
        rng: Random numbers for these B samples.
    """

    prompts: Sequence[Prompt]
    geometry: Geometry
    rng: Randomness

    def __len__(self) -> int:
        return len(self.prompts)

    def within(self, *scope: int | str) -> Batch:
        """The same batch with the random numbers of a nested purpose."""
        return Batch(self.prompts, self.geometry, self.rng.within(*scope))


@dataclass(frozen=True)
class StepResult:
    """What one micro-step reports.

    Args:
        loss: Mean over the batch, detached; a scalar.
        scores: Each reward's score [B], detached.
        figures: Further numbers for the record, each a scalar or [B], detached.
        reward_queries: How many videos were scored.
        steps: Executed steps that were differentiated, where there were any.
        frames: Video frames that were decoded.
    """

    loss: Tensor
    scores: Mapping[str, Tensor] = field(default_factory=dict)
    figures: Mapping[str, Tensor] = field(default_factory=dict)
    reward_queries: int = 0
    steps: frozenset[int] = frozenset()
    frames: tuple[int, ...] = ()


class Batches(Protocol):
    """Which prompts, at which geometry: a pure function of the place in the run."""

    def at(self, step: int, micro: int, rank: int, world: int) -> Mapping[str, Batch]:
        """The batches of one micro-step, by what is needed: ``prompts``, ``videos``.

        Args:
            step: Optimizer step, from 0.
            micro: Micro-step within it, from 0.
            rank: This data-parallel process.
            world: How many there are.
        """


class Processes(Protocol):
    """The processes that train together, as an objective sees them."""

    @property
    def here(self) -> tuple[int, int]:
        """This process's data-parallel rank, and how many there are."""

    def mean(self, value: Tensor) -> Tensor:
        """The mean of ``value`` over the processes."""

    def gather(self, value: Any) -> list[Any]:
        """Every process's ``value``, in the order of their ranks."""


class Objective(ABC):
    """What an update minimises.

    The trainer calls, per optimizer step: :meth:`prepare` once with the step's micro-batches, then
    ``updates`` times :meth:`step` for each of what it returned, with an optimizer update after each round and
    :meth:`after_update` behind it.

    Args:
        config: The options.
    """

    #: The registered name.
    name: ClassVar[str]
    #: Optimizer updates that one batch serves.
    updates: int = 1
    #: Videos that are scored per prompt of a batch, over all its updates; 0 without rewards.
    queries: int = 1
    #: How long videos are made, where the objective makes some; validation makes its own the same way.
    segments: Segments = Segments()

    @property
    @abstractmethod
    def needs(self) -> frozenset[str]:
        """What must be there: ``rewards`` (with a gradient), ``scores`` (any reward), ``videos``."""

    @property
    def batch_kind(self) -> str:
        """Which batch it takes: ``videos`` where it needs videos, else ``prompts``."""
        return "videos" if "videos" in self.needs else "prompts"

    def defaults(self, backbone: Backbone, num_steps: int) -> Mapping[str, Any]:
        """Values for options that the user left open, where they follow from the model.

        Args:
            backbone: Constructed, not loaded.
            num_steps: Sampling steps S.
        """
        return {}

    def check(self, model: Model, geometry: Geometry) -> None:  # noqa: B027 - most have nothing to refuse
        """Refuse what cannot work, before anything is loaded.

        Args:
            model: Its weights are not there yet.
            geometry: Of the run's videos.

        Raises:
            VaderError: Naming the option.
        """

    def use(self, rewards: Mixture) -> None:  # noqa: B027 - for objectives that need rewards
        """Called once with the loaded rewards, where ``needs`` names them."""

    def prepare(self, model: Model, batches: Sequence[Batch], processes: Processes) -> list[Any]:
        """What the step's updates share, without a graph: rollouts, scores, advantages over the whole group.

        Args:
            model: Loaded.
            batches: One per micro-step of this process.
            processes: To gather what needs the whole group.

        Returns:
            One value per micro-step; the batches themselves by default.
        """
        return list(batches)

    @abstractmethod
    def step(self, model: Model, prepared: Any, backward: Backward, update: int) -> StepResult:
        """Compute a loss and send it back into what learns.

        Args:
            model: Loaded.
            prepared: One of what :meth:`prepare` returned.
            backward: Called with the mean loss over the batch, once or in parts, outside autocast; may scale
                it.
            update: Which update of this batch, from 0.
        """

    def after_update(self, model: Model, step: int) -> None:  # noqa: B027 - most objectives follow nothing
        """Called after each optimizer update: an old adapter follows, a store is refreshed."""

    def judge(self, model: Model, batches: Sequence[Batch]) -> Mapping[str, float]:
        """Its own loss on held-out batches by name, each the lower the better; nothing by default.

        Args:
            model: Loaded; no graph is recorded.
            batches: Held-out clips, the same at every validation, with random numbers of their own.
        """
        return {}

    def save(self, folder: Path) -> None:  # noqa: B027 - most objectives have no state
        """Write what must survive a restart; part of every checkpoint, on every rank."""

    def load(self, folder: Path) -> None:  # noqa: B027 - most objectives have no state
        """Read what :meth:`save` wrote."""
