"""A video's tokens shared out over processes: diffusers' own hooks (Ulysses)."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import wraps
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from vader_core.errors import VaderError
from vader_diffusers.parts import model_class

#: A network that is told this one masks its attention to the text, and no other.
_MASK = "encoder_attention_mask"
#: Attention backends that exchange heads and go backwards too.
BACKENDS = (None, "native", "flash", "_native_cudnn")


def check_split(
    network: Mapping[str, Any],
    parts: int,
    shape: tuple[int, int, int, int],
    backend: str | None,
    *,
    asks: str,
) -> None:
    """Refuse a network whose tokens or heads cannot be shared out.

    Args:
        network: Its configuration.
        parts: How many share them.
        shape: (C, T, h, w) of the latents.
        backend: The attention backend that is asked for.
        asks: How messages begin.

    Raises:
        VaderError: Saying what would go.
    """
    what = f"{asks}, parallel.context={parts}"
    kind = model_class(str(network["_class_name"]), needed_for=asks)
    if getattr(kind, "_cp_plan", None) is None:
        raise VaderError(
            f"{what}: diffusers has no plan for splitting a {network['_class_name']}: leave it out; more "
            "processes then make more videos"
        )
    if backend not in BACKENDS:
        raise VaderError(f"{what}: attention backend {backend!r} does not go with it: use native or flash")
    heads = int(network.get("num_attention_heads") or 0)
    if heads % parts:
        fits = [str(one) for one in range(2, heads + 1) if heads % one == 0]
        raise VaderError(f"{what} does not divide the {heads} attention heads: use {', '.join(fits)}")
    tokens = token_count(network.get("patch_size", 1), network.get("patch_size_t", 1), shape)
    if tokens % parts:
        raise VaderError(
            f"{what} does not divide the {tokens} tokens of these videos: choose another size or number of "
            "frames"
        )


def token_count(patch: Any, patch_t: Any, shape: tuple[int, int, int, int]) -> int:
    """Tokens of latents of ``shape``; ``patch`` is a side, or frames, height and width.

    >>> token_count((1, 2, 2), None, (16, 21, 60, 104))
    32760
    """
    _, frames, height, width = shape
    sides = (int(patch_t or 1), int(patch), int(patch)) if isinstance(patch, int) else tuple(patch)
    return (frames // sides[0]) * (height // sides[1]) * (width // sides[2])


def split(network: Any, mesh: Any) -> None:
    """Let ``network`` compute its share of the tokens.

    Args:
        network: A transformer with a plan.
        mesh: With the dimensions ``ring`` and ``ulysses``.
    """
    from diffusers import ContextParallelConfig

    parts, plan = mesh["ulysses"].size(), dict(network._cp_plan)
    if _MASK in plan.get("", {}):
        # Diffusers would exchange the heads of the attention to the text too, which does not go backwards.
        plan[""] = {name: how for name, how in plan[""].items() if not name.startswith("encoder_")}
        _keep_text_whole(_source_of(network))
    with _a_device_to_count():
        config = ContextParallelConfig(ulysses_degree=parts, mesh=mesh)
        network.enable_parallelism(config=config, cp_plan=plan)


def _source_of(network: Any) -> Any:
    """The file of diffusers that says how a network attends: in pieces it is of a class of torch's."""
    sources = [sys.modules[kind.__module__] for kind in type(network).__mro__]
    return next(source for source in sources if hasattr(source, "dispatch_attention_fn"))


def _keep_text_whole(module: Any) -> None:
    """Let each process attend from its own tokens to the whole text: what has a mask exchanges nothing.

    Args:
        module: Of diffusers, whose attentions have a mask where they are to the text, and there alone.
    """
    plain = module.dispatch_attention_fn
    if getattr(plain, "keeps_text_whole", False):
        return

    @wraps(plain)
    def attend(*args: Any, attn_mask: Tensor | None = None, parallel_config: Any = None, **given: Any) -> Any:
        config = parallel_config if attn_mask is None else None
        return plain(*args, attn_mask=attn_mask, parallel_config=config, **given)

    attend.keeps_text_whole = True  # type: ignore[attr-defined]
    module.dispatch_attention_fn = attend


@contextmanager
def _a_device_to_count() -> Iterator[None]:
    """Diffusers divides by the number of accelerators, 0 on a CPU, for a device that it then never uses."""
    if torch.accelerator.device_count():
        yield
        return
    with patch("torch.accelerator.device_count", lambda: 1):
        yield
