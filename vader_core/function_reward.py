"""A function as a reward: of frames or of clips, in torch or in NumPy."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from vader_core.errors import VaderError
from vader_core.prompts import Prompt
from vader_core.reward import ClipReward, FramesNeeded, ImageReward, Place, Reward, clip

#: What a function's first parameter may be called, and what it is then given.
FORMS = {
    "frames": "single frames [N, 3, H, W], to which it answers [N] scores",
    "video": "clips [B, F, 3, H, W], to which it answers [B] scores",
}


def function_reward(function: Callable[..., Any], file: Path) -> Reward:
    """A function as a reward.

    Its first parameter is called ``frames`` (single frames [N, 3, H, W]; N scores come back) or ``video``
    (clips [B, F, 3, H, W]; B scores come back): float32 RGB in [0, 1]. A second one, ``prompts``, is given
    one text per frame or clip. A first parameter annotated as a NumPy array makes the reward a black box
    without a gradient: it is given uint8 RGB with channels last, [N, H, W, 3] or [B, F, H, W, 3].

    Args:
        function: The function.
        file: Where it is written, for messages.

    Raises:
        VaderError: Its parameters are others.
    """
    names = list(inspect.signature(function).parameters)
    if not names or names[0] not in FORMS or names[1:] not in ([], ["prompts"]):
        forms = " or ".join(f"`{name}` ({what})" for name, what in FORMS.items())
        raise VaderError(
            f"{file}, line {_line(function)}: {function.__name__}({', '.join(names)}) is no reward: its "
            f"first parameter must be called {forms}; a second one may be called `prompts`"
        )
    made = _FrameFunction if names[0] == "frames" else _ClipFunction
    return made(_Call(function, file, texts=len(names) > 1))


def _line(function: Callable[..., Any]) -> int:
    return int(getattr(getattr(function, "__code__", None), "co_firstlineno", 1))


class _Call:
    """Calls the function as it wants to be called.

    Args:
        function: The function.
        file: Where it is written.
        texts: Whether it is given the prompts' texts.
    """

    def __init__(self, function: Callable[..., Any], file: Path, *, texts: bool) -> None:
        self.function, self.texts = function, texts
        self.place = Place(file, _line(function))
        first = next(iter(inspect.signature(function).parameters.values()))
        self.numpy = "ndarray" in str(first.annotation) or "NDArray" in str(first.annotation)

    def __call__(self, pixels: Tensor, prompts: Sequence[Prompt]) -> Tensor:
        """Pixels [N, …, 3, H, W], clamped to [0, 1] as a file would hold them, to scores [N]."""
        pixels = pixels.float().clamp(0, 1)
        given: Any = pixels
        if self.numpy:
            whole = (pixels.detach() * 255).round().to(torch.uint8)
            given = rearrange(whole, "... c H W -> ... H W c").cpu().numpy()
        texts = [[prompt.text for prompt in prompts]] if self.texts else []
        found = self.function(given, *texts)
        if isinstance(found, Tensor):
            return found.to(pixels.device)
        return torch.from_numpy(np.asarray(found, dtype=np.float32)).to(pixels.device)


class _FrameFunction(ImageReward):
    """A function of single frames."""

    scoring = "the function"

    def __init__(self, call: _Call) -> None:
        self.call, self.place = call, call.place
        self.name = call.function.__name__  # type: ignore[misc]  # each function has its own
        self.differentiable = not call.numpy  # type: ignore[misc]
        self.reads_text = call.texts  # type: ignore[misc]

    def score_frames(
        self, frames: Float[Tensor, "n 3 H W"], prompts: Sequence[Prompt]
    ) -> Float[Tensor, " n"]:
        """What the function says of each frame."""
        return self.call(frames, prompts)


class _ClipFunction(ClipReward):
    """A function of clips of two frames or more: one frame is no clip, and moves nowhere."""

    scoring = "the function"

    def __init__(self, call: _Call) -> None:
        self.call, self.place = call, call.place
        self.name = call.function.__name__  # type: ignore[misc]
        self.differentiable = not call.numpy  # type: ignore[misc]
        self.reads_text = call.texts  # type: ignore[misc]

    @property
    def frames(self) -> FramesNeeded:
        """A clip of at least two frames."""
        return clip(minimum=2)

    def score(
        self, video: Float[Tensor, "b f 3 H W"], prompts: Sequence[Prompt], rng: object
    ) -> Float[Tensor, " b"]:
        """What the function says of each clip."""
        return self.call(video, prompts)
