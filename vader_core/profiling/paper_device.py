"""A CUDA device on paper: tensors without contents, whose sizes are booked as torch's allocator would.

What a training step asks of a device is found by running the step itself on torch's fake tensors, which
know shapes, strides and dtypes alone. Tensors on the CPU stay real, so that what is drawn or tokenised there
has its values.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from math import prod
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from vader_core.parallel.whole import kind_of_pieces
from vader_core.profiling.convolutions import CONVOLUTIONS, beside, laid_out
from vader_core.profiling.graph_walk import (
    UsedOnce,
    after_the_walk,
    register_hook,
    walk_all_backward,
    walk_backward,
    walk_grad,
)
from vader_core.profiling.launchless import without_launches
from vader_core.profiling.outcomes import Maker, foresee, key_of, recall, remember

#: The allocator hands out multiples of this many bytes.
GRAIN = 512
#: Uninitialised CPU tensors of more numbers than this stay on paper too.
SMALL = 2**16
#: Compute capability: Hopper's.
CAPABILITY = (9, 0)
#: Bytes of memory, all of them free: an 80 GiB card's.
MEMORY = 80 * 2**30
#: Widest attention head of the flash kernels.
FLASH_WIDTH = 256

_aten = torch.ops.aten
_EMPTY = (_aten.empty.memory_format, _aten.empty_like.default, _aten.empty_strided.default)
_HALF = (torch.bfloat16, torch.float16)
_OPPOSITE = (_aten.bitwise_not.default, _aten.logical_not.default)
_FILLS = (_aten.normal_.default, _aten.uniform_.default, _aten.zero_.default, _aten.fill_.Scalar)
_DEVICE = torch.ops.prim.device.default


class Ledger:
    """Bytes that are alive, and the most there have been since :meth:`reset`."""

    def __init__(self) -> None:
        self.live = 0
        self.peak = 0

    def book(self, size: int) -> None:
        """Add ``size`` bytes, or take them away where negative."""
        self.live += size
        self.peak = max(self.peak, self.live)

    def brush(self, size: int) -> None:
        """``size`` bytes are taken and given back at once."""
        self.peak = max(self.peak, self.live + size)

    def reset(self) -> None:
        """Begin a new peak."""
        self.peak = self.live


class _Watched(weakref.ref[Any]):
    """A storage that is told of when it goes."""

    __slots__ = ("key",)
    key: int


class PaperDevice(TorchDispatchMode):
    """Runs every operation that touches the device on fake tensors and books the storages it leaves.

    A number that is read off the device is 1, a truth value true: a mask takes everything, the opposite of a
    mask nothing.
    """

    def __init__(self, fake: FakeTensorMode) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.ledger = Ledger()
        self._maker = Maker(fake)
        #: Bytes that came out of exchanges with other processes; gathered weights are not among them.
        self.exchanged = 0
        self._booked: dict[int, int] = {}
        self._watched: dict[int, _Watched] = {}
        self._false: set[int] = set()

    def bytes_of(self, tensors: Iterable[Tensor]) -> int:
        """What the storages of ``tensors`` take up on the device, each counted once."""
        keys = {tensor.untyped_storage()._cdata for tensor in tensors}
        return sum(self._booked.get(key, 0) for key in keys)

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Nothing is compiled on paper: there is nothing to keep a compiler from."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """One operation; one on tensors in pieces is made of others on what is held of them."""
        if func is _DEVICE and type(args[0]) is FakeTensor:
            return args[0].fake_device
        if any(map(kind_of_pieces, types)):
            return NotImplemented
        kwargs = kwargs or {}
        if "pin_memory" in kwargs:
            kwargs = {name: value for name, value in kwargs.items() if name != "pin_memory"}
        tensors: list[FakeTensor] = []
        key = key_of(func, args, kwargs, tensors)
        known = recall(key) or foresee(key, args, kwargs, tensors)
        if known is None:
            return self._work_out(func, args, kwargs, key, tensors)
        return self._noted(func, args, self._maker.make(known, tensors), known.beside)

    def _work_out(self, func: Any, args: Any, kwargs: Any, key: Any, tensors: list[FakeTensor]) -> Any:
        """An operation that was not met before, or cannot be remembered."""
        if func.namespace == "prim":  # a tensor is asked for its device or layout
            return func(*args, **kwargs)
        if func is _aten.is_pinned.default:
            return False
        if func is _aten._pin_memory.default:
            return args[0]
        if not (
            any(map(_on_paper, args)) or any(map(_on_paper, kwargs.values())) or _asked(func, args, kwargs)
        ):
            if func in _FILLS and args[0].is_meta:  # there is nothing to fill
                return args[0]
            with unset_fake_temporarily():
                return func(*args, **kwargs)
        if func is _aten._local_scalar_dense.default:
            dtype = args[0].dtype
            return 1.0 if dtype.is_floating_point else True if dtype is torch.bool else 1
        func, args, kwargs = self._by_shape(func, args, kwargs)
        out, turned = func(*args, **kwargs), 0
        self.exchanged += _exchanged(func, out)
        if func in CONVOLUTIONS:
            out = laid_out(func, args, out)
            turned = beside(func, args, out)
        remember(key, tensors, out, turned)
        return self._noted(func, args, out, turned)

    def _noted(self, func: Any, args: Any, out: Any, turned: int) -> Any:
        """What an operation left, booked."""
        if func in _OPPOSITE:
            self._note_opposite(args, out)
        for leaf in out if isinstance(out, tuple | list) else (out,):
            self._book(leaf)
        if turned:
            self.ledger.brush(turned)
        return out

    def _book(self, tensor: Any) -> None:
        if type(tensor) is not FakeTensor or tensor.fake_device.type != "cuda":
            return
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key not in self._booked:
            size = -(-storage.nbytes() // GRAIN) * GRAIN
            self._booked[key] = size
            self.ledger.book(size)
            self._watched[key] = _Watched(storage, self._erase)
            self._watched[key].key = key

    def resized(self, storage: Any) -> None:
        """Book a storage anew that was emptied or filled in place, as gathered weights are."""
        key = storage._cdata
        if key not in self._booked:
            return
        size = -(-storage.nbytes() // GRAIN) * GRAIN
        self.ledger.book(size - self._booked[key])
        self._booked[key] = size

    def _erase(self, gone: _Watched) -> None:
        self._watched.pop(gone.key, None)
        self.ledger.book(-self._booked.pop(gone.key, 0))
        self._false.discard(gone.key)

    # -- masks -------------------------------------------------------------------------------------------

    def _is_false(self, mask: Tensor) -> bool:
        return mask.untyped_storage()._cdata in self._false

    def _note_opposite(self, args: Any, out: Any) -> None:
        if out.dtype is torch.bool and not self._is_false(args[0]):
            self._false.add(out.untyped_storage()._cdata)

    def _places(self, mask: Tensor) -> list[int]:
        """The shape of the places [n, axes] where a mask is true."""
        return [0 if self._is_false(mask) else mask.numel(), mask.ndim]

    def _by_shape(self, func: Any, args: Any, kwargs: Any) -> tuple[Any, Any, Any]:
        """The same operation, or one that knows how large the result is where a mask says so."""
        if func is _aten.index.Tensor:
            return func, (args[0], self._without_masks(args[1])), kwargs
        if func is _aten.nonzero.default:
            return _aten.new_empty.default, (args[0], self._places(args[0])), {"dtype": torch.int64}
        if func is _aten.masked_select.default:
            given, mask = torch.broadcast_tensors(*args)
            return _aten.new_empty.default, (given, self._places(mask)[:1]), {}
        return func, args, kwargs

    def _without_masks(self, indices: Any) -> list[Tensor | None]:
        """What a tensor is indexed with, every mask by the places where it is true."""
        found: list[Tensor | None] = []
        for index in indices:
            if index is None or index.dtype not in (torch.bool, torch.uint8):
                found.append(index)
                continue
            (rows, axes) = self._places(index)
            found += index.new_empty((axes, rows), dtype=torch.int64).unbind()
        return found


def _exchanged(func: Any, out: Any) -> int:
    """Bytes that came out of an exchange with other processes; 0 of anything else."""
    if func.namespace != "_c10d_functional" or func._opname == "wait_tensor":
        return 0
    return int(out.numel() * out.element_size())


def _on_paper(given: Any) -> bool:
    if isinstance(given, list | tuple):
        return any(map(_on_paper, given))
    return isinstance(given, FakeTensor)


def _asked(func: Any, args: Any, kwargs: Any) -> bool:
    """Whether a tensor is asked for that there is no need, or no device, to make."""
    device = kwargs.get("device")
    if device is not None and torch.device(device).type == "cuda":
        return True
    if func not in _EMPTY or (device is not None and torch.device(device).type != "cpu"):
        return False
    shape = args[0].shape if isinstance(args[0], Tensor) else args[0]
    from_meta = isinstance(args[0], Tensor) and args[0].is_meta
    return prod(shape) > SMALL and (device is not None or not from_meta)


@contextmanager
def on_paper() -> Iterator[PaperDevice]:
    """Within, ``cuda`` is a device on paper, whether there is a real one or not; yields it.

    Whatever asks for a real device's driver is answered in its place, and put back behind.
    """
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    fake.cache_enabled = False  # outcomes are remembered here, more of them
    device = PaperDevice(fake)
    with ExitStack() as stack:
        # Before anything is replaced: it imports a compiler that looks at all of torch.
        stack.enter_context(torch.compiler.set_stance("force_eager"))
        for place, value in _REPLACED.items():
            stack.enter_context(patch(place, value))
        stack.enter_context(patch("torch.UntypedStorage.resize_", _resize(device)))
        stack.enter_context(UsedOnce.hooks())
        stack.enter_context(fake)
        stack.enter_context(device)
        yield device


# -- in place of torch's own -------------------------------------------------------------------------------

_real_attention = F.scaled_dot_product_attention


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Attention as the fused kernels book it, which never hold the scores."""
    if not isinstance(query, FakeTensor):
        return _real_attention(
            query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa
        )
    parts = [query, key, value]
    if torch.is_autocast_enabled("cuda"):
        parts = [part.to(torch.get_autocast_dtype("cuda")) for part in parts]
    q, k, v = parts
    if q.ndim != 4:  # the fused kernels want [b, heads, n, d]
        return _aten._scaled_dot_product_attention_math(
            q, k, v, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa
        )[0]
    if enable_gqa and q.shape[1] != k.shape[1]:
        k, v = (part.repeat_interleave(q.shape[1] // k.shape[1], dim=1) for part in (k, v))
    if q.dtype in _HALF and attn_mask is None and q.shape[-1] <= FLASH_WIDTH:
        return _aten._scaled_dot_product_flash_attention(q, k, v, dropout_p, is_causal, scale=scale)[0]
    if attn_mask is not None:
        attn_mask = attn_mask.to(q.dtype).expand(*q.shape[:3], k.shape[2])
    recorded = torch.is_grad_enabled() and any(part.requires_grad for part in (q, k, v))
    return _aten._scaled_dot_product_efficient_attention(
        q, k, v, attn_mask, recorded, dropout_p, is_causal, scale=scale
    )[0]


def _apply(self: nn.Module, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
    """What ``nn.Module.to`` and its kin do, with new parameters: torch swaps fake ones, which can fail."""
    for child in self.children() if recurse else ():
        _apply(child, fn)
    places: tuple[dict[str, Any], ...] = (self._parameters, self._buffers)
    for held in places:
        for name, tensor in held.items():
            if tensor is None:
                continue
            with torch.no_grad():
                moved = fn(tensor)
            if moved is not tensor:
                is_parameter = isinstance(tensor, nn.Parameter)
                held[name] = nn.Parameter(moved, tensor.requires_grad) if is_parameter else moved
    return self


def _resize(device: PaperDevice) -> Callable[[Any, int], Any]:
    real = torch.UntypedStorage.resize_

    def resize_(self: Any, size: int) -> Any:
        found = real(self, size)
        device.resized(self)
        return found

    return resize_


_real_register_hook = torch.Tensor.register_hook


def _register_hook(self: Tensor, hook: Callable[[Tensor], Tensor | None]) -> Any:
    """A hook on a tensor on paper is the walk's to call."""
    if not isinstance(self, FakeTensor) or self.grad_fn is None:
        return _real_register_hook(self, hook)  # type: ignore[no-untyped-call]
    return register_hook(self, hook)


class _Engine:
    """Autograd's engine, which is never asked to go back."""

    queue_callback = staticmethod(after_the_walk)


class _Generator(torch.Generator):
    """A generator on the CPU, whatever the device."""

    def __new__(cls, device: Any = "cpu") -> _Generator:
        return super().__new__(cls)


class _Idle:
    """A device, a stream or an event: to switch to, to wait for."""

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...

    def record(self, *_: Any) -> None: ...

    def record_event(self, *_: Any) -> _Idle:
        return _Idle()

    def wait_stream(self, other: Any) -> None: ...

    def wait_event(self, event: Any) -> None: ...


def _nothing(*_: Any, **__: Any) -> None: ...


_REPLACED: dict[str, Any] = {
    "vader_core.nn.functional.Switch.find": without_launches,
    "vader_core.nn.functional.Switch.on": True,
    "torch.nn.functional.scaled_dot_product_attention": _attention,
    "torch.nn.Module._apply": _apply,
    "torch.Tensor.backward": walk_backward,
    "torch.autograd.backward": walk_all_backward,
    "torch.autograd.grad": walk_grad,
    "torch.Tensor.register_hook": _register_hook,
    "torch.autograd.Variable._execution_engine": _Engine(),
    # checkpointed blocks ask which backward pass they are in
    "torch._C._current_graph_task_id": lambda: 0,
    # draws again until every number is within bounds, which numbers without values never are
    "torch.nn.init._no_grad_trunc_normal_": lambda tensor, *_, **__: tensor,
    "torch.Generator": _Generator,
    "torch.cuda.amp.common.amp_definitely_not_available": lambda: False,
    "torch.cuda.is_bf16_supported": lambda *_, **__: True,
    "torch.cuda.get_device_capability": lambda *_: CAPABILITY,
    "torch.cuda.get_rng_state": lambda *_, **__: torch.zeros(16, dtype=torch.uint8),
    "torch.cuda.set_rng_state": _nothing,
    "torch.cuda.manual_seed": _nothing,
    "torch.cuda.manual_seed_all": _nothing,
    "torch.cuda.current_device": lambda: 0,
    "torch.cuda.set_device": _nothing,
    "torch.cuda.mem_get_info": lambda *_: (MEMORY, MEMORY),
    "torch.cuda.empty_cache": _nothing,
    "torch.cuda.max_memory_allocated": lambda *_: 0,
    "torch.cuda.reset_peak_memory_stats": _nothing,
    "torch.cuda.synchronize": _nothing,
    "torch.cuda.device": _Idle,
    "torch.cuda.Event": _Idle,
    "torch.cuda.Stream": _Idle,
    "torch.cuda.current_stream": _Idle,
    "torch.cuda.stream": _Idle,
    "torch.accelerator.current_stream": _Idle,
    "torch.Tensor.record_stream": _nothing,
}
