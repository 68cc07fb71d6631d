"""Every reward is asked once before a run, so that what is wrong in it shows before anything is sampled."""

from __future__ import annotations

import torch
from torch import Tensor

from vader_core.assembly.parts import Assembly
from vader_core.device import out_of_memory_named
from vader_core.errors import VaderError
from vader_core.method.frames import choose_frames
from vader_core.method.mixture import Term
from vader_core.randomness import Randomness
from vader_core.reward import CUTS, NO_GRADIENT, asked


def try_rewards(assembly: Assembly) -> None:
    """Score one video of noise with each reward and monitor.

    Args:
        assembly: Loaded.

    Raises:
        VaderError: A reward raises, returns other shapes than it should, or cuts the gradient that the run's
            objective takes from it.
    """
    wanted = assembly.objective is not None and "rewards" in assembly.objective.needs
    for mixture, gradient in ((assembly.rewards, wanted), (assembly.monitors, False)):
        for term in mixture.terms:
            with out_of_memory_named(f"trying reward {term.name!r}"), torch.set_grad_enabled(gradient):
                _try(assembly, term, gradient=gradient)


def _try(assembly: Assembly, term: Term, *, gradient: bool) -> None:
    rng = Randomness(0, scope=("trial",))
    needed, count = term.reward.frames, assembly.segments.joined_frames(assembly.geometry)
    choice = "first" if needed.kind == "image" else "all"
    frames = choose_frames(needed, choice, count, rng, name=term.name)
    video = _noise(assembly, len(frames), rng).requires_grad_(gradient)
    with assembly.autocast():
        output = asked(term.name, term.reward, video, assembly.draw_prompts([0]), rng)
    if not gradient:
        return
    where = f"reward {term.name!r} ({term.reward.place})"
    if not output.loss.requires_grad:
        raise VaderError(f"{where}: its loss has no gradient, for something in it {CUTS}: {NO_GRADIENT}")
    (found,) = torch.autograd.grad(output.loss.sum(), video, allow_unused=True)
    if found is None:
        raise VaderError(f"{where}: its loss does not depend on the pixels: {NO_GRADIENT}")


def _noise(assembly: Assembly, frames: int, rng: Randomness) -> Tensor:
    """A video [1, F, 3, H, W] around mid grey."""
    geometry = assembly.geometry
    shape = (frames, 3, geometry.height, geometry.width)
    noise = rng.normal("pixels", shape, device=assembly.device)
    return (0.5 + 0.1 * noise.reshape(1, *shape)).clamp(0, 1)
