"""What a pipeline calls its denoiser with, found out by calling it with a stand-in."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from einops import rearrange
from torch import Tensor

from vader_core.errors import VaderError

#: Words in the names of arguments that depend on the text alone.
_TEXT = ("encoder_", "pooled", "prompt", "text")


class _Seen(Exception):  # noqa: N818 - it ends a trace, nothing went wrong
    pass


@dataclass(frozen=True)
class Trace:
    """One call of the denoiser.

    Args:
        text: Arguments [1, …] that depend on the text, by name.
        others: All further ones but latents and time.
        latents: What was given as latents.
        time: What was given as time.
        names: Names of those two arguments.
    """

    text: Mapping[str, Tensor]
    others: Mapping[str, Any]
    latents: Tensor
    time: Tensor
    names: tuple[str, str]


@torch.no_grad()
def trace(pipe: Any, words: Mapping[str, Any], *, needed_for: str) -> Trace:
    """Call ``pipe`` until it calls its denoiser, and see with what.

    Args:
        pipe: A pipeline; as it was afterwards.
        words: Arguments of its call.
        needed_for: Begins a message.

    Raises:
        VaderError: The call ended without the denoiser, or it takes no latents and time.
    """
    network = pipe.transformer
    seen: dict[str, Any] = {}

    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        bound = inspect.signature(type(network).forward).bind(self, *args, **kwargs)
        seen.update(list(bound.arguments.items())[1:])
        raise _Seen

    stand_in = copy.copy(network)
    stand_in.__class__ = type("StandIn", (type(network),), {"forward": forward})
    pipe.transformer = stand_in
    try:
        pipe(**words)
    except _Seen:
        pass
    except (ValueError, TypeError) as error:
        raise VaderError(f"{needed_for}: its pipeline refuses to be traced: {error}") from error
    finally:
        pipe.transformer = network
        pipe.maybe_free_model_hooks()
    return _sorted(seen, needed_for)


def _sorted(seen: Mapping[str, Any], needed_for: str) -> Trace:
    latents = next((name for name in ("hidden_states", "sample", "x") if name in seen), None)
    time = next((name for name in ("timestep", "timesteps") if name in seen), None)
    if latents is None or time is None:
        raise VaderError(
            f"{needed_for}: its denoiser was called with {', '.join(seen) or 'nothing'}, among which no "
            "latents or no time could be told"
        )
    rest = {name: value for name, value in seen.items() if name not in (latents, time)}
    text = {
        name: value
        for name, value in rest.items()
        if isinstance(value, Tensor) and len(value) == 1 and any(word in name for word in _TEXT)
    }
    others = {name: value for name, value in rest.items() if name not in text and name != "return_dict"}
    return Trace(text, others, seen[latents], seen[time], (latents, time))


@dataclass(frozen=True)
class Layout:
    """How a denoiser wants its latents.

    Args:
        kind: ``plain`` [B, C, T, h, w], ``frames_first`` [B, T, C, h, w] or ``tokens`` [B, T h w, C].
        behind: Channels that the pipeline puts behind the latents [1, c, T, h, w], where it does.
    """

    kind: str
    behind: Tensor | None = None

    def packed(self, latents: Tensor) -> Tensor:
        """[B, C, T, h, w] as the denoiser wants them."""
        if self.behind is not None:
            behind = self.behind.to(latents).expand(len(latents), -1, -1, -1, -1)
            return torch.cat([latents, behind], dim=1)
        if self.kind == "frames_first":
            return latents.transpose(1, 2)
        return latents if self.kind == "plain" else rearrange(latents, "b c t h w -> b (t h w) c")

    def unpacked(self, out: Tensor, latents: Tensor) -> Tensor:
        """The denoiser's result in the shape of ``latents``."""
        if self.kind == "frames_first":
            return out.transpose(1, 2)
        if self.kind == "plain":
            return out[:, : latents.shape[1]]
        frames, height = latents.shape[2:4]
        return rearrange(out, "b (t h w) c -> b c t h w", t=frames, h=height)


def layout_of(found: Tensor, shape: tuple[int, int, int, int], *, needed_for: str) -> Layout:
    """Tell the layout by its shape.

    Args:
        found: What the pipeline gave as latents for one video.
        shape: (C, T, h, w).
        needed_for: Begins a message.

    Raises:
        VaderError: No layout that is known.
    """
    channels, frames, height, width = shape
    given = tuple(found.shape[1:])
    if given == shape:
        return Layout("plain")
    if given == (frames, channels, height, width):
        return Layout("frames_first")
    if given == (frames * height * width, channels):
        return Layout("tokens")
    if len(given) == 4 and given[1:] == shape[1:] and given[0] > channels:
        return Layout("plain", found[:, channels:].clone())
    raise VaderError(
        f"{needed_for}: its denoiser is given latents of shape {tuple(found.shape)}, and how they hold "
        f"{channels} channels, {frames} frames and {height}x{width} places could not be told"
    )
