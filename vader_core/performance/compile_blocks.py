"""Blocks of the denoiser that torch compiles: where gradients are recorded, or everywhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import nn

from vader_core.errors import VaderError
from vader_core.nn.recompute import surround

#: Shapes, dtypes and states of a block that are compiled before torch gives up; its own limit, 8, is fewer
#: than the shapes that buckets have.
MOST_VARIANTS = 64


class CompiledBlocks:
    """Runs each block compiled while gradients are recorded, and as it is elsewhere unless told otherwise.

    The compiler chooses what a block keeps for the backward pass: results of matrix products stay, what lies
    between them is computed again in the kernels that need it. So without gradient checkpointing a compiled
    block holds far less than an eager one. Blocks of one class share their programs.

    Args:
        blocks: None within another, each the unit of gradient checkpointing. Changed in place.
        backend: Of ``torch.compile``.
        everywhere: Run them compiled in no-grad steps too. It pays for models without kernels of their own:
            what lies between two matrix products becomes one kernel.
    """

    def __init__(
        self, blocks: Sequence[nn.Module], backend: str = "inductor", *, everywhere: bool = False
    ) -> None:
        self._backend = backend
        self._everywhere = everywhere
        self._programs: dict[Any, Callable[..., Any]] = {}
        for block in blocks:
            self._surround(block)

    def _surround(self, block: Any) -> None:
        def around(plain: Callable[..., Any]) -> Callable[..., Any]:
            forward = cast(Any, plain).__func__
            if forward not in self._programs:
                self._programs[forward] = torch.compile(forward, backend=self._backend, fullgraph=True)
            program = self._programs[forward]

            def call(*args: Any, **kwargs: Any) -> Any:
                if not (self._everywhere or torch.is_grad_enabled()):
                    return plain(*args, **kwargs)
                try:
                    return program(block, *args, **kwargs)
                except torch._dynamo.exc.TorchDynamoException as error:
                    reason = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
                    raise VaderError(
                        f"performance.compile_blocks: torch cannot compile {type(block).__name__} "
                        f"({type(error).__name__}: {reason}); leave it out"
                    ) from error

            return call

        surround(block, around)


@contextmanager
def compiler_settings(on: bool | str) -> Iterator[None]:
    """Within, torch's compiler is set for blocks of many shapes if ``on``; before and after, as it was."""
    if not on:
        yield
        return
    with torch._dynamo.config.patch(recompile_limit=MOST_VARIANTS):
        yield
