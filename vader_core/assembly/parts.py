"""The parts of a run."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

import torch

from vader_core.assembly.data import VideoData, video_data
from vader_core.backbone import Backbone
from vader_core.errors import VaderError
from vader_core.geometry import Geometry
from vader_core.lora.adapter import LoraSettings
from vader_core.method.mixture import Mixture
from vader_core.method.model import Model
from vader_core.method.segments import Segments
from vader_core.method.weighted import WeightedSum
from vader_core.progress import Progress, unseen
from vader_core.prompts import Prompt, PromptSource
from vader_core.registry import Registry
from vader_core.run.config import DEFAULT_RANK, RunConfig

if TYPE_CHECKING:
    from vader_core.parallel.mesh import Mesh

#: What the distilled adapter of --rollout-lora is called beside the trained one.
ROLLOUT_ADAPTER = "rollout"
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass
class Assembly:
    """The parts of a run: made by ``prepare``, loaded by what stands in ``loading``.

    Args:
        config: Complete: every default is filled in.
        registry: Where the components come from.
        device: Where the models live.
        model: Backbone, sampler, guidance; its weights are not there before loading.
        geometry: Of one segment.
        given_prompts: The prompt source, where one was named.
        objective: What training minimises; ``None`` where nothing is trained.
        rewards: What is trained on.
        monitors: What is watched.
        progress: Told how far what takes long is.
        mesh: The processes among which weights or sequences are shared; ``None`` where none are.
    """

    config: RunConfig
    registry: Registry
    device: torch.device
    model: Model
    geometry: Geometry
    given_prompts: PromptSource | None
    objective: WeightedSum | None = None
    rewards: Mixture = field(default_factory=lambda: Mixture(()))
    monitors: Mixture = field(default_factory=lambda: Mixture(()))
    progress: Progress = unseen
    mesh: Mesh | None = None

    @cached_property
    def videos(self) -> VideoData:
        """The clips that are learned from; looked at when they are first asked for.

        Raises:
            VaderError: They cannot be.
        """
        return video_data(self.config, self.registry, self.backbone, self.geometry)

    @property
    def prompts(self) -> PromptSource:
        """What to ask for: the prompt source, or the captions of the clips."""
        return self.videos.source if self.given_prompts is None else self.given_prompts

    @property
    def backbone(self) -> Backbone:
        """The model's."""
        return self.model.backbone

    @property
    def segments(self) -> Segments:
        """How a long video is made."""
        return Segments() if self.objective is None else self.objective.segments

    @property
    def dtype(self) -> torch.dtype:
        """Of the frozen weights while computing."""
        return DTYPES[str(self.config.trainer.precision)]

    def autocast(self) -> AbstractContextManager[None]:
        """The forward pass's precision context; fp32 needs none."""
        return self.model.autocast()

    def lora_settings(self) -> LoraSettings:
        """The shape of a fresh adapter."""
        lora = self.config.lora
        rank = lora.rank or DEFAULT_RANK
        alpha = float(rank if lora.alpha is None else lora.alpha)
        targets = tuple(lora.targets or self.backbone.lora_targets)
        return LoraSettings(rank, alpha, targets, lora.dropout, self.config.trainer.seed)

    def draw_prompts(self, indices: list[int]) -> list[Prompt]:
        """Training prompts, with the run's negative prompt where a prompt has none."""
        return self.with_negative(self.prompts.draw(indices, self.config.trainer.seed))

    def held_out_prompts(self) -> list[Prompt]:
        """Evaluation prompts, likewise.

        Raises:
            VaderError: The source has none.
        """
        return self._some(self.prompts.all())

    def every_prompt(self) -> list[Prompt]:
        """What is sampled where nothing is trained, likewise.

        Raises:
            VaderError: The source has none.
        """
        return self._some(getattr(self.prompts, "every", self.prompts.all)())

    @property
    def prompts_held_out(self) -> int | None:
        """How many prompts are for evaluation alone; ``None`` where the source does not say."""
        return getattr(self.prompts, "held_out_count", None)

    def _some(self, given: list[Prompt]) -> list[Prompt]:
        prompts = self.with_negative(given)
        if not prompts:
            source = self.config.prompts.source or self.config.data.source
            raise VaderError(f"--prompts {source}: there are no prompts to evaluate on")
        self._check_texts(prompts)
        return prompts

    def check_prompts(self) -> None:
        """Look at every prompt before anything is loaded.

        Raises:
            VaderError: The model cannot read one.
        """
        self._check_texts(self.with_negative(getattr(self.prompts, "every", self.prompts.all)()))

    def _check_texts(self, prompts: list[Prompt]) -> None:
        for prompt in prompts:
            for text in (prompt.text, prompt.negative):
                self.backbone.check_text(text or "")

    def with_negative(self, prompts: list[Prompt]) -> list[Prompt]:
        """The prompts, with the run's negative prompt where one has none."""
        negative = self.config.prompts.negative_prompt
        if negative is None:
            return prompts
        return [
            prompt if prompt.negative is not None else replace(prompt, negative=negative)
            for prompt in prompts
        ]


def precision_context(config: RunConfig, device: torch.device) -> AbstractContextManager[None]:
    """The forward pass's precision context; fp32 needs none."""
    if config.trainer.precision == "fp32":
        return nullcontext()
    return torch.autocast(device.type, dtype=DTYPES[str(config.trainer.precision)])
