"""How a reward's loss goes back: in one piece, or network by network."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vader_core.method.mixture import MixtureOutput
from vader_core.method.model import Model
from vader_core.method.objective import Backward
from vader_core.method.segments import Trajectory


@dataclass(frozen=True)
class Score:
    """What a loss is made of.

    Args:
        loss: Mean over the batch, divided by the terms of the update; a scalar with its graph.
        output: What the rewards say.
        distance: Mean squared distance to the base model's prediction, where it was asked for.
    """

    loss: Tensor
    output: MixtureOutput
    distance: Tensor | None = None


def in_one_piece(
    model: Model, trajectory: Trajectory, score: Callable[[Tensor], Score], backward: Backward
) -> Score:
    """One backward pass through reward, decoder and denoiser."""
    found = score(trajectory.decode(model))
    backward(found.loss)
    return found


def network_by_network(
    model: Model, trajectory: Trajectory, score: Callable[[Tensor], Score], backward: Backward
) -> Score:
    """The same gradient, one network at a time: reward to pixels, decoder to latents, denoiser to adapter.

    The frames are decoded twice, so that the decoder's activations and the reward's never meet.
    """
    assert model.stages is not None
    last, wanted = trajectory.last.latents, len(trajectory.wanted)
    latents = last.detach()
    with torch.no_grad():
        video = trajectory.decode(model, latents)
    video = video.detach().requires_grad_()
    with model.stages.rewards_awake():
        found = score(video)
        backward(found.loss)
    assert video.grad is not None
    ends: list[tuple[Tensor, Tensor | None]] = [
        (piece, video.grad[:, at : at + piece.shape[1]]) for at, piece in _placed(trajectory.earlier)
    ]
    if wanted:
        latents.requires_grad_()
        with model.stages.decoder_awake():
            made_from = trajectory.last.conditioning
            decoded = model.decode(latents, trajectory.geometry, trajectory.wanted, made_from)
            decoded.backward(video.grad[:, -wanted:])
        ends.append((last, latents.grad))
    differentiated = [(end, gradient) for end, gradient in ends if end.requires_grad]
    if len(differentiated) == 1:
        differentiated[0][0].backward(differentiated[0][1])
    else:  # all at once: with a carried gradient the segments share a part of their graph
        torch.autograd.backward(
            [end for end, _ in differentiated], [gradient for _, gradient in differentiated]
        )
    return found


def _placed(pieces: Sequence[Tensor]) -> Iterator[tuple[int, Tensor]]:
    """Each piece of a video with the place of its first frame."""
    at = 0
    for piece in pieces:
        yield at, piece
        at += piece.shape[1]
