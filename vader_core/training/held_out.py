"""Held-out clips: read once, judged with noise of their own at every validation."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property

from vader_core.assembly.parts import Assembly
from vader_core.data.frame_masks import SeededDraws
from vader_core.method.objective import Batch
from vader_core.randomness import Randomness, derive_seed
from vader_core.training.processes import SingleProcess


class HeldOut:
    """The clips that validation alone sees.

    Args:
        assembly: Loaded, with an objective.
    """

    def __init__(self, assembly: Assembly) -> None:
        self.assembly = assembly

    @cached_property
    def batches(self) -> list[Batch]:
        """The clips at the run's size, the same frames each time.

        Raises:
            VaderError: One cannot be read.
        """
        assembly = self.assembly
        if assembly.objective is None or "videos" not in assembly.objective.needs:
            return []
        videos, geometry = assembly.videos, assembly.geometry
        seed, size = assembly.config.trainer.seed, assembly.config.validation.batch
        target, prompts = assembly.backbone.video_size(geometry), []
        for index, (prompt, shape) in enumerate(videos.held_out):
            draws = SeededDraws(derive_seed(seed, "held out", index))
            prompts.append(videos.reader.filled(prompt, geometry.num_frames, target, draws, shape))
        prompts = assembly.with_negative(prompts)
        return [
            Batch(
                prompts[start : start + size],
                geometry,
                # Keyed by the clip: nothing that training draws moves it, nor does it move training.
                Randomness(
                    seed, samples=tuple(range(start, min(start + size, len(prompts)))), scope=("held out",)
                ),
            )
            for start in range(0, len(prompts), size)
        ]

    def losses(self, processes: SingleProcess) -> Mapping[str, float]:
        """The objective's loss by noise level, and their mean as ``mean``; empty without held-out clips.

        Args:
            processes: Each judges its share of the clips.
        """
        assembly, (rank, world) = self.assembly, processes.here
        if assembly.objective is None or not self.batches:
            return {}
        # Whose share is smaller judges one that is not counted: with weights that are shared, every call is
        # everyone's.
        mine = self.batches[rank::world]
        rounds = -(-len(self.batches) // world)
        judged = mine + self.batches[:1] * (rounds - len(mine))
        model = assembly.model.whole()
        found = [dict(assembly.objective.judge(model, [batch])) for batch in judged]
        told = list(zip(found, map(len, mine), strict=False))
        every = [one for told in processes.gather(told) for one in told]
        clips = sum(count for _, count in every)
        levels = {name: sum(losses[name] * count for losses, count in every) / clips for name in every[0][0]}
        return {"mean": sum(levels.values()) / len(levels), **levels} if levels else {}
