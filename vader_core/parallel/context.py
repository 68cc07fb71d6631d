"""One video over several processes: the decoder's part.

The denoiser's sequence is split by whoever wrote the network (:meth:`Backbone.split_sequence`); there every
process has the whole latents before and after each call, and the gradient of its own tokens alone in between.
The decoder is split by frames. Each process decodes its share of the wanted ones, and all have all of them
afterwards, with the same loss. Backwards each goes through its own frames, and the latents' gradients are
summed, so that every process has the whole of it where the denoiser begins.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist


class _Enter(torch.autograd.Function):
    """The latents as they are; their gradient is the sum over the processes."""

    @staticmethod
    def forward(ctx: Any, latents: Tensor, group: dist.ProcessGroup) -> Tensor:
        """The latents."""
        ctx.group = group
        return latents.view_as(latents)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        """Their gradient from all frames."""
        total = gradient.contiguous().clone()
        dist.all_reduce(total, group=ctx.group)
        return total, None


class _Leave(torch.autograd.Function):
    """Every process's frames; each takes the gradient of its own."""

    @staticmethod
    def forward(ctx: Any, frames: Tensor, group: dist.ProcessGroup) -> Tensor:
        """Frames [B, f, …] to [B, world * f, …], in the order of the ranks."""
        ctx.rank, ctx.count = dist.get_rank(group), frames.shape[1]
        parts = [torch.empty_like(frames) for _ in range(dist.get_world_size(group))]
        dist.all_gather(parts, frames.contiguous(), group=group)
        return torch.cat(parts, dim=1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        """The gradient of this process's frames."""
        return gradient[:, ctx.rank * ctx.count : (ctx.rank + 1) * ctx.count].contiguous(), None


def split_decode(decode: Callable[..., Tensor], group: dist.ProcessGroup) -> Callable[..., Tensor]:
    """``decode`` with its frames shared out over a group.

    Args:
        decode: A backbone's, exact for single frames.
        group: Processes that have the same latents and want the same frames.
    """

    def split(latents: Tensor, geometry: Any, frames: Sequence[int] | None = None) -> Tensor:
        wanted = list(range(geometry.num_frames)) if frames is None else list(frames)
        shares, places = shared_out(wanted, dist.get_world_size(group))
        own = decode(_Enter.apply(latents, group), geometry, shares[dist.get_rank(group)])
        every: Tensor = _Leave.apply(own, group)
        return every[:, places]

    return split


def shared_out(frames: Sequence[int], world: int) -> tuple[list[list[int]], list[int]]:
    """Equally many frames for each process, neighbours together, and where each wanted frame then lies.

    A share that is too small repeats a frame, whose copy nobody uses.

    >>> shared_out([3, 4, 5], 2)
    ([[3, 4], [5, 5]], [0, 1, 2])
    >>> shared_out([7], 2)
    ([[7], [7]], [0])
    """
    size = -(-len(frames) // world)
    shares = [list(frames[rank * size : (rank + 1) * size]) or [frames[-1]] for rank in range(world)]
    # Shares are of one size and in order, so the wanted frames are the first of what all have together.
    return [share + [share[-1]] * (size - len(share)) for share in shares], list(range(len(frames)))
