"""Long video: segments that continue each other, joined in order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from jaxtyping import Float
from torch import Tensor

from vader_core.backbone import Backbone
from vader_core.conditioning import Conditioning
from vader_core.geometry import Geometry
from vader_core.method.denoise import Rollout, denoise
from vader_core.method.gradient import NO_GRADIENT, Drawn
from vader_core.method.mixture import FrameChoice
from vader_core.method.settings import StepSettings
from vader_core.prompts import Prompt
from vader_core.randomness import Randomness
from vader_core.text import Text


def rollout_video(
    backbone: Backbone,
    prompts: Sequence[Prompt],
    text: Text,
    settings: StepSettings,
    frames: FrameChoice,
    rng: Randomness,
) -> tuple[Tensor, Rollout, Conditioning, Drawn]:
    """Sample every segment and decode the frames that the rewards need, joined in order."""
    geometry = settings.geometry
    pieces: list[Tensor] = []
    image: Tensor | None = None
    for segment in range(settings.segments):
        own = rng if settings.segments == 1 else rng.within("segment", segment)
        drawn = NO_GRADIENT
        if settings.carries_gradient(segment):
            chosen = settings.gradient.draw(settings.sampling.plan.num_steps, own)
            drawn = Drawn(chosen.steps, chosen.ends_at, settings.detach_input)
        graph = bool(drawn.steps) or (image is not None and image.requires_grad)
        with torch.set_grad_enabled(graph), backbone.checkpointing(settings.checkpointing):
            conditioning = backbone.condition(text, prompts, geometry, own, image=image)
            noise = backbone.initial_noise(len(prompts), geometry, own)
            rollout = denoise(
                backbone, settings.sampling, noise, conditioning, drawn, own, settings.shortcuts
            )
            wanted = local_frames(frames.union, segment, geometry.num_frames)
            boundary = segment + 1 < settings.segments
            decoded = _decode(backbone, rollout.latents, geometry, wanted, boundary)
        if wanted:
            pieces.append(decoded[:, : len(wanted)])
        if boundary:
            image = decoded[:, -1].clamp(0, 1)
            image = image if settings.carry_gradient else image.detach()
    return torch.cat(pieces, dim=1), rollout, conditioning, drawn


def local_frames(union: Sequence[int], segment: int, num_frames: int) -> list[int]:
    """The frames of one segment among ``union``, as its own indices.

    >>> local_frames((0, 3, 4, 6), 1, 4)
    [1, 3]
    """
    if segment == 0:
        return [index for index in union if index < num_frames]
    start = segment * (num_frames - 1)
    return [index - start for index in union if 0 < index - start < num_frames]


def _decode(
    backbone: Backbone, latents: Tensor, geometry: Geometry, wanted: list[int], boundary: bool
) -> Tensor:
    """The wanted frames, and the last one behind them where the next segment starts from it."""
    last = geometry.num_frames - 1
    asked = [*wanted, last] if boundary and last not in wanted else wanted
    if not asked:
        return latents.new_zeros(len(latents), 0, 3, *backbone.video_size(geometry))
    if torch.is_grad_enabled():
        return backbone.decode(latents, geometry, asked)
    # Samples do not see each other, and whole videos are much for a decoder: one at a time.
    return torch.cat([backbone.decode(part, geometry, asked) for part in latents.split(1)])


@torch.no_grad()
def sample_video(
    backbone: Backbone,
    prompts: Sequence[Prompt],
    settings: StepSettings,
    rng: Randomness,
    *,
    autocast: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> tuple[Float[Tensor, "b f 3 H W"], Rollout, Conditioning]:
    """Whole videos without a graph: every frame of every segment, in float32, not clamped.

    Returns:
        The joined video, and the last segment's rollout and conditioning.
    """
    everything = FrameChoice(tuple(range(settings.joined_frames)), ())
    plain = StepSettings(
        geometry=settings.geometry,
        sampling=settings.sampling,
        segments=settings.segments,
        gradient_segments=(),
    )
    with autocast():
        text = backbone.encode_text(prompts)
        video, rollout, conditioning, _ = rollout_video(backbone, prompts, text, plain, everything, rng)
    return (video if video.dtype == torch.float64 else video.float()), rollout, conditioning
