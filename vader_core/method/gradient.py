"""Where the gradient flows through the denoising steps (VADER, section 4: truncated back-propagation).

Step indices count executed steps from 0. A choice is a small tagged type; drawing it for one training step
gives the set of steps whose prediction is differentiated. From the first of them on, the sampler's own
arithmetic is always in the graph, so the chain to the final latents is never cut.
"""

from __future__ import annotations

from dataclasses import dataclass

from vader_core.errors import VaderError
from vader_core.randomness import Randomness

FORMS = "last, last:K, random, random:LO-HI, from:I, steps:I,J,…, refl, refl:LO-HI"


@dataclass(frozen=True)
class Drawn:
    """One training step's choice.

    Args:
        steps: Steps whose prediction is differentiated; empty is plain sampling.
        ends_at: Stop at this step and take the clean estimate (ReFL); ``None`` runs to the end.
        detach_input: Detach the latents that the model is given (DRTune).
    """

    steps: frozenset[int]
    ends_at: int | None = None
    detach_input: bool = False


#: Plain sampling.
NO_GRADIENT = Drawn(frozenset())


@dataclass(frozen=True)
class Last:
    """The last ``count`` steps (DRaFT-K; the paper's K, 1 by default)."""

    count: int = 1

    def draw(self, num_steps: int, rng: Randomness) -> Drawn:
        """The steps S-K … S-1."""
        return Drawn(frozenset(range(num_steps - self.count, num_steps)))

    def check(self, num_steps: int) -> None:
        """Refuse more steps than there are."""
        if not 1 <= self.count <= num_steps:
            raise VaderError(
                f"--gradient last:{self.count} with {num_steps} steps: use last:1 … last:{num_steps}"
            )

    def __str__(self) -> str:
        return "last" if self.count == 1 else f"last:{self.count}"


@dataclass(frozen=True)
class RandomCut:
    """A uniform cut-off, from it to the end (upstream's ``rand``)."""

    def draw(self, num_steps: int, rng: Randomness) -> Drawn:
        """The steps c … S-1, c uniform in 0 … S-1."""
        return Drawn(frozenset(range(rng.integer("gradient", 0, num_steps), num_steps)))

    def check(self, num_steps: int) -> None:
        """Fits any number of steps."""

    def __str__(self) -> str:
        return "random"


@dataclass(frozen=True)
class RandomStep:
    """One step, uniform between two.

    Args:
        low: First step that may be drawn.
        high: Last step that may be drawn.
    """

    low: int
    high: int

    def draw(self, num_steps: int, rng: Randomness) -> Drawn:
        """That step alone."""
        return Drawn(frozenset({rng.integer("gradient", self.low, self.high + 1)}))

    def check(self, num_steps: int) -> None:
        """Refuse an empty range and steps that do not exist."""
        _check_range(self, self.low, self.high, num_steps)

    def __str__(self) -> str:
        return f"random:{self.low}-{self.high}"


@dataclass(frozen=True)
class From:
    """From step ``first`` to the end."""

    first: int

    def draw(self, num_steps: int, rng: Randomness) -> Drawn:
        """The steps first … S-1."""
        return Drawn(frozenset(range(self.first, num_steps)))

    def check(self, num_steps: int) -> None:
        """Refuse a step that does not exist."""
        if not 0 <= self.first < num_steps:
            raise VaderError(
                f"--gradient from:{self.first} with {num_steps} steps: use from:0 … from:{num_steps - 1}"
            )

    def __str__(self) -> str:
        return f"from:{self.first}"


@dataclass(frozen=True)
class Steps:
    """Exactly these steps."""

    chosen: tuple[int, ...]

    def draw(self, num_steps: int, rng: Randomness) -> Drawn:
        """The chosen steps."""
        return Drawn(frozenset(self.chosen))

    def check(self, num_steps: int) -> None:
        """Refuse a step that does not exist."""
        outside = [step for step in self.chosen if not 0 <= step < num_steps]
        if outside:
            raise VaderError(f"--gradient {self} with {num_steps} steps: steps run from 0 to {num_steps - 1}")

    def __str__(self) -> str:
        return "steps:" + ",".join(str(step) for step in self.chosen)


@dataclass(frozen=True)
class Refl:
    """ImageReward's ReFL: one differentiated clean estimate at a random late step.

    Sampling to that step has no graph.

    Args:
        low: First step that may be drawn; ``None`` is a third of the way (the later two thirds).
        high: Last step that may be drawn; ``None`` is the last.
    """

    low: int | None = None
    high: int | None = None

    def _range(self, num_steps: int) -> tuple[int, int]:
        low = num_steps // 3 if self.low is None else self.low
        return low, num_steps - 1 if self.high is None else self.high

    def draw(self, num_steps: int, rng: Randomness) -> Drawn:
        """One step, where sampling also ends."""
        low, high = self._range(num_steps)
        step = rng.integer("gradient", low, high + 1)
        return Drawn(frozenset({step}), ends_at=step)

    def check(self, num_steps: int) -> None:
        """Refuse an empty range and steps that do not exist."""
        _check_range(self, *self._range(num_steps), num_steps)

    def __str__(self) -> str:
        return "refl" if self.low is None else f"refl:{self.low}-{self.high}"


def _check_range(choice: RandomStep | Refl, low: int, high: int, num_steps: int) -> None:
    if not 0 <= low <= high < num_steps:
        raise VaderError(
            f"--gradient {choice} with {num_steps} steps: LO-HI must satisfy 0 <= LO <= HI <= {num_steps - 1}"
        )


GradientChoice = Last | RandomCut | RandomStep | From | Steps | Refl


def draws_one(choice: GradientChoice, num_steps: int) -> bool:
    """Whether every draw differentiates exactly one step.

    >>> draws_one(RandomStep(1, 3), 5), draws_one(RandomCut(), 5), draws_one(Last(2), 5)
    (True, False, False)
    """
    return not isinstance(choice, RandomCut) and len(choice.draw(num_steps, Randomness(0)).steps) == 1


def parse_gradient(text: str) -> GradientChoice:
    """Read a ``--gradient`` value.

    Raises:
        VaderError: Not one of the forms, which it lists.

    >>> parse_gradient("last:3"), parse_gradient("steps:1,3")
    (Last(count=3), Steps(chosen=(1, 3)))
    """
    form, _, argument = text.strip().partition(":")
    try:
        if form == "last":
            return Last(int(argument)) if argument else Last()
        if form == "random":
            low, high = argument.split("-") if argument else ("", "")
            return RandomStep(int(low), int(high)) if argument else RandomCut()
        if form == "from":
            return From(int(argument))
        if form == "steps":
            return Steps(tuple(sorted({int(step) for step in argument.split(",")})))
        if form == "refl":
            low, high = argument.split("-") if argument else ("", "")
            return Refl(int(low), int(high)) if argument else Refl()
    except ValueError:
        pass
    raise VaderError(f"--gradient {text!r} is not allowed: use one of {FORMS}")
