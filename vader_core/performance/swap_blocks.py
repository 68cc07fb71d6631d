"""Blocks of the denoiser that rest in CPU memory and come to the device one ahead of their turn."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from vader_core.nn.recompute import surround

#: Every tensor of a block begins at a multiple of this many bytes.
ALIGNMENT = 256


class _Resting:
    """A block's frozen tensors, side by side in one (pinned) piece of CPU memory.

    Awake, the modules hold other parameters than asleep: what autograd saves of them stays on the device for
    as long as it is saved.
    """

    def __init__(self, block: nn.Module, device: torch.device) -> None:
        self.device = device
        #: Where each tensor belongs: the module's parameters or buffers, and its name there.
        self.places: list[tuple[dict[str, Any], str]] = []
        self.offsets: list[int] = []
        self.tensors: list[Tensor] = []
        size = 0
        for module in block.modules():
            for held in (module._parameters, module._buffers):
                for name, tensor in held.items():
                    if tensor is not None and not tensor.requires_grad:
                        self.places.append((held, name))
                        self.tensors.append(tensor)
                        self.offsets.append(size)
                        size += -(-tensor.numel() * tensor.element_size() // ALIGNMENT) * ALIGNMENT
        self.kept = torch.empty(size, dtype=torch.uint8, pin_memory=device.type == "cuda")
        #: On the device, with the event that says so.
        self.here: tuple[Tensor, Any] | None = None
        asleep = self._views(self.kept)
        for tensor, view in zip(self.tensors, asleep, strict=True):
            view.copy_(tensor.data)
        self.tensors = asleep
        self.sleep()

    def _views(self, whole: Tensor) -> list[Tensor]:
        """The block's tensors within ``whole``, laid out as they are."""
        views: list[Tensor] = []
        for tensor, offset in zip(self.tensors, self.offsets, strict=True):
            size = tensor.numel() * tensor.element_size()
            flat = whole[offset : offset + size].view(tensor.dtype)
            view = flat.as_strided(tensor.shape, tensor.stride(), flat.storage_offset())
            views.append(
                nn.Parameter(view, requires_grad=False) if isinstance(tensor, nn.Parameter) else view
            )
        return views

    def _use(self, tensors: Sequence[Tensor]) -> None:
        for (held, name), tensor in zip(self.places, tensors, strict=True):
            held[name] = tensor

    def fetch(self, side: Any) -> None:
        """Begin to copy the block to the device; ``side`` is the stream for it, ``None`` on the CPU."""
        if self.here is not None:
            return
        if side is None:
            self.here = self.kept.clone(), None
            return
        whole = torch.empty(self.kept.shape, dtype=torch.uint8, device=self.device)
        side.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(side):
            whole.copy_(self.kept, non_blocking=True)
            ready = torch.cuda.Event()
            ready.record(side)
        self.here = whole, ready

    def wake(self) -> None:
        """Wait for the copy and use it."""
        assert self.here is not None
        whole, ready = self.here
        if ready is not None:
            torch.cuda.current_stream(self.device).wait_event(ready)
        self._use(self._views(whole))

    def discard(self) -> None:
        """Drop a copy that was not used; its memory may be used again only when the copy is made."""
        if self.here is not None and self.here[1] is not None:
            torch.cuda.current_stream(self.device).wait_event(self.here[1])
        self.here = None

    def blank(self) -> None:
        """Give the modules NaN in place of the resting tensors, so that a use of them shows. For tests."""
        self.tensors = [
            nn.Parameter(torch.full_like(one, torch.nan), requires_grad=False)
            if isinstance(one, nn.Parameter)
            else torch.full_like(one, torch.nan)
            for one in self.tensors
        ]
        self.sleep()

    def sleep(self) -> None:
        """Drop the device's copy; it is frozen, so nothing is copied back."""
        self.here = None
        self._use(self.tensors)


class SwappedBlocks:
    """Keeps at most two of the swapped blocks on the device: the one that computes and the next.

    Which is next is learned from the last time: going forward, and in the backward pass, where the blocks
    are run again in the opposite order. What autograd keeps of a block that runs again holds its weights
    until its gradient is through. The adapter's parameters stay where they are.

    Args:
        blocks: None within another, each the unit of gradient checkpointing.
        device: Where they compute.
    """

    def __init__(self, blocks: Sequence[nn.Module], device: torch.device) -> None:
        self._side: Any = torch.cuda.Stream(device) if device.type == "cuda" else None
        self.resting = [_Resting(block, device) for block in blocks]
        #: The number of the block that followed each, going forward and back.
        self._next: dict[tuple[int, bool], int] = {}
        self._last: tuple[int, bool] | None = None
        for number, block in enumerate(blocks):
            self._surround(block, number)

    @property
    def bytes(self) -> int:
        """What rests."""
        return sum(resting.kept.numel() for resting in self.resting)

    def _surround(self, block: Any, number: int) -> None:
        def around(function: Callable[..., Any]) -> Callable[..., Any]:
            def call(*args: Any, **kwargs: Any) -> Any:
                with self._awake(number):
                    return function(*args, **kwargs)

            return call

        surround(block, around)

    @contextmanager
    def _awake(self, number: int) -> Iterator[None]:
        now = (number, torch._C._current_graph_task_id() != -1)
        if self._last is not None:
            self._next[self._last] = number
        self._last = now
        resting = self.resting[number]
        resting.fetch(self._side)
        resting.wake()
        following = self._next.get(now, number)
        for other, waiting in enumerate(self.resting):
            if other not in (number, following):
                waiting.discard()
        if following != number:
            self.resting[following].fetch(self._side)
        try:
            yield
        finally:
            resting.sleep()
