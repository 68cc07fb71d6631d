"""Clips as batches: read ahead of the model, and replaced where they cannot be read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

from vader_core.data.frame_masks import SeededDraws
from vader_core.data.plan import Plan, Portion
from vader_core.data.reader import Reader
from vader_core.errors import VaderError
from vader_core.geometry import Geometry
from vader_core.method.objective import Batch
from vader_core.prompts import Prompt
from vader_core.randomness import Randomness, derive_seed

#: So many micro-steps are read ahead.
_AHEAD = 2
#: So many unreadable clips are allowed, whatever their share: a short table may have one.
_ALWAYS_ALLOWED = 1


@dataclass(frozen=True)
class _Read:
    """One clip, and what had to be passed over to get it: clip numbers with the reasons."""

    prompt: Prompt
    passed_over: Mapping[int, str]


@dataclass
class VideoBatches:
    """Batches of clips; a pure function of the place in the run and of what the files hold.

    Args:
        plan: Which clips, at which size.
        reader: How they are read.
        size_of: (height, width) that clips of a geometry are brought to: what the autoencoder makes of it.
        finished: Prompts as the run asks for them (with its negative prompt).
        seed: The run's.
        accumulate: Micro-steps per optimizer step.
        workers: Threads that read.
        limit: Largest share of the clips that may turn out unreadable.
        say: Told of each file that is passed over, once.
        unreadable: Clips that could not be read, with the reasons.
    """

    plan: Plan
    reader: Reader
    size_of: Callable[[Geometry], tuple[int, int]]
    finished: Callable[[list[Prompt]], list[Prompt]]
    seed: int
    accumulate: int
    workers: int
    limit: float
    say: Callable[[str], None]
    unreadable: dict[int, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._pool = ThreadPoolExecutor(self.workers, thread_name_prefix="clips")
        self._waiting: dict[tuple[int, int, int], list[Future[_Read]]] = {}

    def at(self, step: int, micro: int, rank: int, world: int) -> Mapping[str, Batch]:
        """The batch of one micro-step.

        Raises:
            VaderError: Too many clips cannot be read, or none of a bucket.
        """
        iteration = step * self.accumulate + micro
        wanted = [(i, rank, world) for i in range(iteration, iteration + _AHEAD + 1)]
        for place in set(self._waiting) - set(wanted):
            for future in self._waiting.pop(place):
                future.cancel()
        for place in wanted:
            if place not in self._waiting:
                self._waiting[place] = self._ask(self.plan.at(*place))
        portion = self.plan.at(*wanted[0])
        read = [future.result() for future in self._waiting.pop(wanted[0])]
        for one in read:
            self._count(one.passed_over)
        rng = Randomness(self.seed, step, micro, portion.samples)
        prompts = self.finished([one.prompt for one in read])
        return {"videos": Batch(prompts, portion.geometry, rng)}

    def close(self) -> None:
        """No further clip is read."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _ask(self, portion: Portion) -> list[Future[_Read]]:
        return [
            self._pool.submit(self._read, (clip, *others), sample, portion.geometry)
            for clip, others, sample in zip(portion.clips, portion.substitutes, portion.samples, strict=True)
        ]

    def _read(self, candidates: tuple[int, ...], sample: int, geometry: Geometry) -> _Read:
        """The first of ``candidates`` that can be read."""
        passed_over: dict[int, str] = {}
        for clip in candidates:
            try:
                return _Read(self._clip(clip, sample, geometry), passed_over)
            except VaderError as error:
                passed_over[clip] = str(error)
        raise VaderError(
            f"none of the {len(candidates)} clips of {geometry} can be read; the first: "
            f"{passed_over[candidates[0]]}"
        )

    def _clip(self, clip: int, sample: int, geometry: Geometry) -> Prompt:
        draws = SeededDraws(derive_seed(self.seed, "frames", sample))
        size, shape = self.size_of(geometry), self.plan.shapes[clip]
        return self.reader.filled(self.plan.clips[clip], geometry.num_frames, size, draws, shape)

    def _count(self, passed_over: Mapping[int, str]) -> None:
        for clip, why in passed_over.items():
            if clip not in self.unreadable:
                self.say(f"passed over: row {self.plan.numbers[clip]}, {why}")
            self.unreadable[clip] = why
        bad, all_clips = len(self.unreadable), len(self.plan.clips)
        last = next(reversed(self.unreadable.values()), "")
        if bad > max(_ALWAYS_ALLOWED, self.limit * all_clips):
            raise VaderError(
                f"{bad} of {all_clips} clips could not be read while training, more than "
                f"data.unreadable_limit={self.limit:g} allows; the last: {last}. Find them "
                "with -o data.check=true, repair or remove them, or raise the limit"
            )
