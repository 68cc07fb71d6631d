"""What a training step does, as one value."""

from __future__ import annotations

from dataclasses import dataclass, field

from vader_core.geometry import Geometry
from vader_core.method.denoise import Sampling
from vader_core.method.gradient import GradientChoice, Last
from vader_core.method.shortcuts import WHOLE, Shortcuts
from vader_core.performance.offload import Offload


@dataclass(frozen=True)
class StepSettings:
    """What a step does, beside the model and the rewards.

    Args:
        geometry: Of one segment.
        sampling: Sampler, plan and guidance.
        gradient: Where the gradient flows.
        detach_input: Detach the latents that a differentiated prediction is given (DRTune).
        reward_frames: The frame choice, in the words of ``--reward-frames``.
        segments: Long video: how many segments, each continuing from the last frame of the one before.
        gradient_segments: Which of them carry a graph; ``None`` is the last.
        carry_gradient: Let the graph run through the frame that joins two segments.
        low_variance: 0 is off; n re-noises the clean latents n times and differentiates n last steps
            (DRaFT-LV).
        base_weight: Weight of the squared distance to the base prediction at the differentiated steps.
        checkpointing: Recompute activations of the differentiated steps in the backward pass.
        offload: What rests on the CPU; the backward pass then goes in stages.
        shortcuts: What the no-graph steps leave out.
    """

    geometry: Geometry
    sampling: Sampling
    gradient: GradientChoice = field(default_factory=Last)
    detach_input: bool = False
    reward_frames: str = "random"
    segments: int = 1
    gradient_segments: tuple[int, ...] | None = None
    carry_gradient: bool = False
    low_variance: int = 0
    base_weight: float = 0.0
    checkpointing: bool = False
    offload: Offload | None = None
    shortcuts: Shortcuts = WHOLE

    @property
    def joined_frames(self) -> int:
        """Frames of the joined video: the repeated boundary frame of each later segment is dropped."""
        return self.geometry.num_frames + (self.segments - 1) * (self.geometry.num_frames - 1)

    @property
    def gradient_frames(self) -> tuple[int, ...]:
        """Frames of the joined video that lie in a segment with a graph."""
        length = self.geometry.num_frames - 1
        return tuple(
            index
            for index in range(self.joined_frames)
            if self.carries_gradient(max(0, (index - 1) // length) if length else 0)
        )

    def carries_gradient(self, segment: int) -> bool:
        """Whether that segment's rollout has a graph."""
        chosen = (self.segments - 1,) if self.gradient_segments is None else self.gradient_segments
        return segment in chosen
