"""Long video: segments that continue each other, joined in order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from vader_core.errors import VaderError
from vader_core.geometry import Geometry
from vader_core.method.denoise import Rollout
from vader_core.method.gradient import NO_GRADIENT, Drawn
from vader_core.method.model import Model
from vader_core.prompts import Prompt
from vader_core.randomness import Randomness

DrawSteps = Callable[[Randomness], Drawn]


@dataclass(frozen=True)
class Segments:
    """How a long video is made.

    Args:
        count: How many segments, each continuing from the last frame of the one before.
        gradient: Which of them carry a graph; ``None`` is the last.
        carry_gradient: Let the graph run through the frame that joins two segments.
    """

    count: int = 1
    gradient: tuple[int, ...] | None = None
    carry_gradient: bool = False

    def joined_frames(self, geometry: Geometry) -> int:
        """Frames of the joined video: the repeated boundary frame of each later segment is dropped."""
        return geometry.num_frames + (self.count - 1) * (geometry.num_frames - 1)

    def gradient_frames(self, geometry: Geometry) -> tuple[int, ...]:
        """Frames of the joined video that lie in a segment with a graph."""
        length = geometry.num_frames - 1
        return tuple(
            index
            for index in range(self.joined_frames(geometry))
            if self.carries_gradient(max(0, (index - 1) // length) if length else 0)
        )

    def carries_gradient(self, segment: int) -> bool:
        """Whether that segment's rollout has a graph."""
        chosen = (self.count - 1,) if self.gradient is None else self.gradient
        return segment in chosen

    def check(self) -> None:
        """Refuse segments that do not exist.

        Raises:
            VaderError: Saying which there are.
        """
        chosen = self.gradient
        if chosen is not None and (not chosen or any(not 0 <= index < self.count for index in chosen)):
            raise VaderError(
                f"objective.reward_gradient.gradient_segments={list(chosen)}: segments run from 0 to "
                f"{self.count - 1}"
            )


@dataclass(frozen=True)
class Trajectory:
    """What sampling a batch of videos gave, with the last segment not decoded yet.

    Args:
        last: The last segment's rollout.
        wanted: The frames of the last segment to decode.
        earlier: The wanted frames of the segments before it, decoded [B, f, 3, H, W].
        geometry: Of one segment.
        drawn: The last segment's differentiated steps.
    """

    last: Rollout
    wanted: tuple[int, ...]
    geometry: Geometry
    drawn: Drawn = NO_GRADIENT
    earlier: tuple[Tensor, ...] = ()

    def decode(self, model: Model, latents: Tensor | None = None) -> Float[Tensor, "b f 3 H W"]:
        """The wanted frames of the joined video, in order.

        Args:
            model: Decodes.
            latents: In place of the last segment's own.
        """
        pieces = list(self.earlier)
        if self.wanted:
            given = self.last.latents if latents is None else latents
            pieces.append(model.decode(given, self.geometry, self.wanted, self.last.conditioning))
        return torch.cat(pieces, dim=1) if len(pieces) != 1 else pieces[0]


def sample_segments(
    model: Model,
    prompts: Sequence[Prompt],
    geometry: Geometry,
    segments: Segments,
    draw: DrawSteps,
    frames: Sequence[int],
    rng: Randomness,
) -> Trajectory:
    """Sample every segment, decode what the next one and the rewards need of it, and leave the last one.

    Args:
        model: The model.
        prompts: B of them.
        geometry: Of one segment.
        segments: How many, and which carry a graph.
        draw: Gives a segment's differentiated steps.
        frames: Wanted frames of the joined video, ascending.
        rng: For B samples.
    """
    pieces: list[Tensor] = []
    image: Tensor | None = None
    for segment in range(segments.count):
        own = rng if segments.count == 1 else rng.within("segment", segment)
        drawn = draw(own) if segments.carries_gradient(segment) else NO_GRADIENT
        wanted = local_frames(frames, segment, geometry.num_frames)
        with torch.set_grad_enabled(bool(drawn.steps) or (image is not None and image.requires_grad)):
            conditioning = model.condition(prompts, geometry, own, image=image)
            rollout = model.rollout(conditioning, geometry, own, drawn)
            if segment + 1 == segments.count:
                return Trajectory(rollout, tuple(wanted), geometry, drawn, tuple(pieces))
            boundary = geometry.num_frames - 1
            asked = wanted if boundary in wanted else [*wanted, boundary]
            decoded = model.decode(rollout.latents, geometry, asked, conditioning)
        if wanted:
            pieces.append(decoded[:, : len(wanted)])
        image = decoded[:, -1].clamp(0, 1)
        image = image if segments.carry_gradient else image.detach()
    raise AssertionError("a video has one segment or more")


def local_frames(union: Sequence[int], segment: int, num_frames: int) -> list[int]:
    """The frames of one segment among ``union``, as its own indices.

    >>> local_frames((0, 3, 4, 6), 1, 4)
    [1, 3]
    """
    if segment == 0:
        return [index for index in union if index < num_frames]
    start = segment * (num_frames - 1)
    return [index - start for index in union if 0 < index - start < num_frames]


@torch.no_grad()
def sample_video(
    model: Model,
    prompts: Sequence[Prompt],
    geometry: Geometry,
    rng: Randomness,
    segments: Segments | None = None,
) -> tuple[Float[Tensor, "b f 3 H W"], Rollout]:
    """Whole videos without a graph: every frame of every segment, float32, not clamped.

    Returns:
        The joined video, and the last segment's rollout.
    """
    segments = segments or Segments()
    everything = range(segments.joined_frames(geometry))
    trajectory = sample_segments(
        model.whole(), prompts, geometry, segments, lambda _: NO_GRADIENT, everything, rng
    )
    video = trajectory.decode(model)
    return (video if video.dtype == torch.float64 else video.float()), trajectory.last
