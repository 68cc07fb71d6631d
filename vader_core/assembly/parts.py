"""The parts of a run."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import torch

from vader_core.backbone import Backbone
from vader_core.device import out_of_memory_named
from vader_core.errors import VaderError
from vader_core.geometry import Geometry
from vader_core.lora.adapter import Attached, LoraSettings, attach_lora
from vader_core.method.mixture import Mixture, Term
from vader_core.method.settings import StepSettings
from vader_core.prompts import Prompt, PromptSource
from vader_core.registry import Registry
from vader_core.reward import Reward
from vader_core.run.config import RunConfig

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass
class Assembly:
    """The parts of a run. Made by :func:`prepare`; :meth:`load` reads the weights.

    Args:
        config: The configuration with every default filled in.
        registry: Where the components come from.
        device: Where the models live.
        backbone: Not loaded yet.
        settings: What a training step does.
        prompts: The prompt source.
    """

    config: RunConfig
    registry: Registry
    device: torch.device
    backbone: Backbone
    settings: StepSettings
    prompts: PromptSource
    rewards: Mixture = field(default_factory=lambda: Mixture(()))
    monitors: Mixture = field(default_factory=lambda: Mixture(()))

    @property
    def geometry(self) -> Geometry:
        """Of one segment."""
        return self.settings.geometry

    @property
    def dtype(self) -> torch.dtype:
        """Of the frozen weights while computing."""
        return _DTYPES[str(self.config.trainer.precision)]

    def autocast(self) -> AbstractContextManager[None]:
        """The forward pass's precision context; fp32 needs none."""
        if self.config.trainer.precision == "fp32":
            return nullcontext()
        return torch.autocast(self.device.type, dtype=self.dtype)

    def lora_settings(self) -> LoraSettings:
        """The adapter's shape."""
        lora = self.config.lora
        alpha = float(lora.rank if lora.alpha is None else lora.alpha)
        targets = tuple(lora.targets or self.backbone.lora_targets)
        return LoraSettings(lora.rank, alpha, targets, lora.dropout, self.config.trainer.seed)

    def load_backbone(self) -> None:
        """Build the model and read its weights.

        Raises:
            MachineError: The device has too little memory.
        """
        with out_of_memory_named(f"loading backbone {self.config.backbone.name!r}"):
            self.backbone.load()

    def attach(self) -> Attached:
        """Attach the adapter: the one to start from where there is one, else a fresh one."""
        start = self.config.lora.start
        if start is None:
            return attach_lora(self.backbone.denoiser, self.lora_settings())
        from vader_core.lora.adapter import attach_adapter
        from vader_core.run.adapters import find_adapter

        return attach_adapter(self.backbone.denoiser, find_adapter(start, self.registry), what=start)

    def load_rewards(
        self, *, training: bool = True, then: Callable[[Reward], Reward] = lambda reward: reward
    ) -> None:
        """Load the rewards and the monitors.

        Args:
            training: Refuse rewards without a gradient.
            then: What becomes of each before the next is made.

        Raises:
            VaderError: A reward without a gradient is to be trained on.
        """
        terms = []
        for item in self.config.rewards:
            component = self.registry.get("reward", item.name)
            with out_of_memory_named(f"loading reward {item.name!r}"):
                reward = component.make(item.options, device=self.device, dtype=self.dtype)
            if training and not reward.differentiable:
                raise VaderError(
                    f"reward {item.name!r} has no gradient, so it cannot be trained on: "
                    f"watch it with --monitor {item.name}, and train on another --reward"
                )
            terms.append(Term(item.name, then(reward), item.weight, item.cap))
        self.rewards = Mixture(tuple(terms))
        watched = []
        for monitor in self.config.monitors:
            component = self.registry.get("reward", monitor.name)
            with out_of_memory_named(f"loading monitor {monitor.name!r}"):
                made = component.make(monitor.options, device=self.device, dtype=self.dtype)
            watched.append(Term(monitor.name, then(made)))
        self.monitors = Mixture(tuple(watched))
        self._check_reward_frames()

    def _check_reward_frames(self) -> None:
        """Refuse a frame choice that no reward of the run would follow."""
        given = self.config.reward_frames
        follows = [
            term.name
            for term in self.rewards.terms
            if term.reward.frames.kind == "image"
            or (term.reward.frames.kind == "clip" and term.reward.frames.count is None)
        ]
        if given is not None and self.rewards.terms and not follows:
            raise VaderError(
                f"--reward-frames {given} has no effect here: every reward of this run sees frames of its "
                "own choice"
            )

    def draw_prompts(self, indices: list[int]) -> list[Prompt]:
        """Training prompts, with the run's negative prompt where a prompt has none."""
        return self._with_negative(self.prompts.draw(indices, self.config.trainer.seed))

    def held_out_prompts(self) -> list[Prompt]:
        """Evaluation prompts, likewise.

        Raises:
            VaderError: The source has none.
        """
        prompts = self._with_negative(self.prompts.all())
        if not prompts:
            raise VaderError(f"--prompts {self.config.prompts.source}: there are no prompts to evaluate on")
        return prompts

    def _with_negative(self, prompts: list[Prompt]) -> list[Prompt]:
        negative = self.config.prompts.negative_prompt
        if negative is None:
            return prompts
        return [
            Prompt(
                prompt.text,
                negative if prompt.negative is None else prompt.negative,
                prompt.image,
                prompt.metadata,
            )
            for prompt in prompts
        ]
