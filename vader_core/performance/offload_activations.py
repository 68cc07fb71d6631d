"""Activations that wait for the backward pass in CPU memory."""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

#: Smaller storages stay: a copy of their own costs more than they hold.
LEAST_BYTES = 2**20
#: Bytes that may be on their way to the CPU before the device waits for them.
LEAVING_BYTES = 2**28
#: Bytes that are fetched ahead of what is asked for.
AHEAD_BYTES = 2**28


class _Kept:
    """A storage's numbers on the CPU; shared by everything that saved a part of it."""

    def __init__(self, device: torch.device, copy: Tensor) -> None:
        self.device, self.copy = device, copy
        self.bytes = copy.numel() * copy.element_size()
        self.users = 0
        #: Position among all that is kept.
        self.number = 0
        #: On the device again, with the event that says so.
        self.back: tuple[Tensor, Any] | None = None


class _View:
    """What one operation saved: a view of a kept storage."""

    def __init__(self, kept: _Kept, tensor: Tensor) -> None:
        self.kept = kept
        self.place = (tensor.shape, tensor.stride(), tensor.storage_offset())
        kept.users += 1


class OffloadedActivations:
    """What a differentiated call saves for its backward pass goes to pinned memory, and comes back in time.

    The copies go over a stream of their own, beside the computation. Going back, what was saved last is asked
    for first, so each request also fetches what was saved before it. Numbers are copied as they are.

    Args:
        module: Its parameters and buffers are never moved.
        device: Where the work is done, and what is moved lies; on the CPU the copies are made in place,
            without streams.
        least: Smaller storages, in bytes, stay.
    """

    def __init__(self, module: nn.Module, device: torch.device, least: int = LEAST_BYTES) -> None:
        self.device = device
        self.least = least
        #: Bytes moved to the CPU since the beginning.
        self.moved = 0
        self._module = module
        self._side: Any = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._order: list[weakref.ref[_Kept]] = []
        self._known: weakref.WeakValueDictionary[Any, _Kept] = weakref.WeakValueDictionary()
        self._leaving: deque[tuple[Tensor, Any]] = deque()

    def around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """``function``, whose saved activations are moved wherever a graph is recorded."""

        def call(*args: Any, **kwargs: Any) -> Any:
            if not torch.is_grad_enabled():
                return function(*args, **kwargs)
            self._forget()
            own = (*self._module.parameters(), *self._module.buffers())
            staying = {tensor.untyped_storage()._cdata for tensor in own}

            def pack(tensor: Tensor) -> Tensor | _View:
                storage = tensor.untyped_storage()
                # A recomputed block saves an empty tensor on the CPU, whatever the device.
                elsewhere = tensor.device.type != self.device.type
                stays = elsewhere or storage.nbytes() < self.least or storage._cdata in staying
                return tensor if stays else _View(self._kept(tensor), tensor)

            with torch.autograd.graph.saved_tensors_hooks(pack, self._open):
                found = function(*args, **kwargs)
            self._let_go(0)
            return found

        return call

    def _forget(self) -> None:
        """Strike what no graph holds any more."""
        alive = [kept for kept in (one() for one in self._order) if kept is not None]
        for number, kept in enumerate(alive):
            kept.number = number
        self._order = [weakref.ref(kept) for kept in alive]

    def _let_go(self, allowed: int) -> None:
        """Free what has left, until at most ``allowed`` bytes are on their way."""
        while (
            self._leaving and sum(gone.numel() * gone.element_size() for gone, _ in self._leaving) > allowed
        ):
            gone, left = self._leaving.popleft()
            torch.cuda.current_stream(gone.device).wait_event(left)

    def _kept(self, tensor: Tensor) -> _Kept:
        """The copy of the storage of ``tensor``, made if it is the first to be saved of it."""
        storage = tensor.untyped_storage()
        key = (storage._cdata, tensor.dtype, tensor._version)
        kept = self._known.get(key)
        if kept is None:
            kept = self._known[key] = _Kept(tensor.device, self._sent(tensor.detach()))
            kept.number = len(self._order)
            self._order.append(weakref.ref(kept))
            # another storage may get this one's address once it is gone
            weakref.finalize(storage, self._known.pop, key, None).atexit = False
        return kept

    def _sent(self, tensor: Tensor) -> Tensor:
        count = tensor.untyped_storage().nbytes() // tensor.element_size()
        whole = tensor.as_strided((count,), (1,), 0)
        self.moved += whole.numel() * whole.element_size()
        if self._side is None:
            return whole.clone()
        copy = torch.empty(count, dtype=tensor.dtype, pin_memory=True)
        self._side.wait_stream(torch.cuda.current_stream(tensor.device))
        with torch.cuda.stream(self._side):
            copy.copy_(whole, non_blocking=True)
            left = torch.cuda.Event()
            left.record(self._side)
        # held until the copy is made: its memory must not be handed out before
        self._leaving.append((whole, left))
        self._let_go(LEAVING_BYTES)
        return copy

    def _open(self, saved: Tensor | _View) -> Tensor:
        if isinstance(saved, Tensor):
            return saved
        kept = saved.kept
        self._fetch(kept)
        ahead = 0
        for one in reversed(self._order[: kept.number]):
            before = one()
            if before is not None and before.users > 0:
                ahead += before.bytes
                if ahead > AHEAD_BYTES:
                    break
                self._fetch(before)
        assert kept.back is not None
        whole, ready = kept.back
        if ready is not None:
            torch.cuda.current_stream(kept.device).wait_event(ready)
        kept.users -= 1
        if kept.users <= 0:
            kept.back = None
        return whole.as_strided(*saved.place)

    def _fetch(self, kept: _Kept) -> None:
        if kept.back is not None:
            return
        if self._side is None:
            kept.back = kept.copy, None
            return
        whole = torch.empty(kept.copy.shape, dtype=kept.copy.dtype, device=kept.device)
        whole.record_stream(self._side)  # a graph may be dropped while the copy is under way
        self._side.wait_stream(torch.cuda.current_stream(kept.device))
        with torch.cuda.stream(self._side):
            whole.copy_(kept.copy, non_blocking=True)
            ready = torch.cuda.Event()
            ready.record(self._side)
        kept.back = whole, ready
