"""What operations leave on paper, remembered: one on tensors of the same make is not worked out again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

#: What decides how an operation's result is laid out, with the values of its plain arguments.
Key = tuple[Any, ...]
#: Makes one result, given the operation's tensors in their order.
Leaf = Callable[["Maker", list[FakeTensor]], Any]

#: Arguments that are compared as they are. Of numbers the type counts too: 1, 1.0 and True are equal.
_PLAIN = frozenset((str, torch.dtype, torch.device, torch.layout, torch.memory_format, type(None)))
_GENERATOR = torch.Generator
_NUMBERS = frozenset((int, float, bool))
#: Tags of operations whose result hangs on values, or that lay out anew what they are given.
_ELUSIVE = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape, torch.Tag.inplace_view}
#: Those without a tag.
_RESHAPING = {"set_", "resize_", "resize_as_"}


@dataclass(frozen=True)
class Outcome:
    """What an operation leaves.

    Args:
        leaves: Each makes one of its results.
        container: What the results come in; ``None`` for a single one.
        beside: Bytes that are taken and given back meanwhile.
    """

    leaves: tuple[Leaf, ...]
    container: type | None
    beside: int


#: Of every operation so far; nothing in it holds a tensor.
_outcomes: dict[Key, Outcome] = {}


def key_of(func: Any, args: Any, kwargs: dict[str, Any], tensors: list[FakeTensor]) -> Key | None:
    """The key of a call; ``None`` where it has an argument that is not known to be safe to compare.

    Args:
        func: The operation.
        args: What it is given.
        kwargs: The same, by name.
        tensors: Those among them are appended, in their order.
    """
    key = [func, torch.get_default_dtype(), torch.is_inference_mode_enabled()]
    if not _describe(args, key, tensors):
        return None
    for name, value in kwargs.items():
        key.append(name)
        if not _describe((value,), key, tensors):
            return None
    return tuple(key)


def _describe(given: Any, key: list[Any], tensors: list[FakeTensor]) -> bool:
    for one in given:
        kind = type(one)
        if kind is FakeTensor:
            if not _is_plain(one):
                return False
            tensors.append(one)
            key += (one.shape, one.stride(), one.storage_offset(), one.untyped_storage().nbytes())
            key += (one.dtype, one.fake_device)
        elif kind in _NUMBERS:
            key += (kind, one)
        elif kind in _PLAIN:
            key.append(one)
        elif isinstance(one, _GENERATOR):  # nothing is drawn on paper
            key.append(_GENERATOR)
        elif kind is list or kind is tuple:
            key += (kind, len(one))
            if not _describe(one, key, tensors):
                return False
        else:
            return False
    return True


def recall(key: Key | None) -> Outcome | None:
    """What the call of that key left before; ``None`` where there was none."""
    return None if key is None else _outcomes.get(key)


def foresee(key: Key | None, args: Any, kwargs: dict[str, Any], tensors: list[FakeTensor]) -> Outcome | None:
    """What a view leaves, which is a matter of shape and strides alone; ``None`` for anything else.

    Args:
        key: Of the call.
        args: What it is given.
        kwargs: The same, by name.
        tensors: Those among them.
    """
    if key is None or len(tensors) != 1 or args[0] is not tensors[0] or not _is_plain_view(key[0]):
        return None
    one = tensors[0]
    if one.untyped_storage().nbytes() < _reach(one):  # emptied: another view of it would fill it
        return None
    with torch._C._DisableTorchDispatch():
        bare = _bare(one.untyped_storage(), one.shape, one.stride(), one.storage_offset(), one.dtype)
        out = key[0](bare, *args[1:], **kwargs)
    remember(key, tensors, out, 0)
    return recall(key)


@cache
def _is_plain_view(func: Any) -> bool:
    return _is_predictable(func) and (func.is_view or func is torch.ops.aten._unsafe_view.default)


def remember(key: Key | None, tensors: list[FakeTensor], out: Any, beside: int) -> None:
    """Keep what a call left, where it can be made again.

    Args:
        key: Of the call.
        tensors: That it was given.
        out: What it left.
        beside: Bytes that it took and gave back meanwhile.
    """
    if key is None or not _is_predictable(key[0]):
        return
    container = type(out) if type(out) in (list, tuple) else None
    results = (out,) if container is None else out
    leaves = [_leaf(one, tensors) for one in results]
    if None in leaves or not _lie_apart(results, tensors):
        return
    _outcomes[key] = Outcome(tuple(leaves), container, beside)  # type: ignore[arg-type]


@cache
def _is_predictable(func: Any) -> bool:
    return (
        func.namespace == "aten"
        and not _ELUSIVE & set(func.tags)
        and func._opname not in _RESHAPING
        and not any(argument.is_out for argument in func._schema.arguments)
    )


def _lie_apart(results: Any, tensors: list[FakeTensor]) -> bool:
    """Whether no two results share a storage that is new."""
    given = {one.untyped_storage()._cdata for one in tensors}
    new = [one.untyped_storage()._cdata for one in results if isinstance(one, Tensor)]
    new = [one for one in new if one not in given]
    return len(new) == len(set(new))


def _leaf(made: Any, tensors: list[FakeTensor]) -> Leaf | None:
    """How to make one result again; ``None`` where that is not certain."""
    if not isinstance(made, Tensor):
        return _same(made) if type(made) in _NUMBERS | _PLAIN else None
    for place, one in enumerate(tensors):
        if made is one:
            return _given(place)
    if made.requires_grad or not _is_plain(made):
        return None
    device = made.fake_device if isinstance(made, FakeTensor) else tensors[0].fake_device
    shape, stride, start = tuple(made.shape), made.stride(), int(made.storage_offset())
    storage, reached = made.untyped_storage(), _reach(made)
    for place, one in enumerate(tensors):
        if one.untyped_storage()._cdata == storage._cdata:
            fits = reached <= storage.nbytes()  # in one that was emptied, a view made anew would fill it
            return _view(place, shape, stride, start, made.dtype, device) if fits else None
    return None if start or storage.nbytes() != reached else _fresh(shape, stride, made.dtype, device)


def _is_plain(tensor: Tensor) -> bool:
    """Whether shape, strides, dtype and device are all there is to know of it."""
    return not (getattr(tensor, "constant", None) is not None or tensor.dtype.is_complex or tensor.is_neg())


def _reach(tensor: Tensor) -> int:
    """The bytes of its storage up to the last number of ``tensor``."""
    if not tensor.numel():
        return 0
    steps = zip(tensor.shape, tensor.stride(), strict=True)
    last = tensor.storage_offset() + sum((size - 1) * step for size, step in steps)
    return int(1 + last) * tensor.itemsize


def _same(value: Any) -> Leaf:
    return lambda maker, tensors: value


def _given(place: int) -> Leaf:
    return lambda maker, tensors: tensors[place]


def _view(place: int, shape: Any, stride: Any, start: int, dtype: Any, device: Any) -> Leaf:
    return lambda maker, tensors: maker.view(
        tensors[place].untyped_storage(), shape, stride, start, dtype, device
    )


def _fresh(shape: Any, stride: Any, dtype: Any, device: Any) -> Leaf:
    return lambda maker, tensors: maker.fresh(shape, stride, dtype, device)


def _bare(storage: Any, shape: Any, stride: Any, start: int, dtype: torch.dtype) -> Tensor:
    """A tensor without a device on a storage that is there."""
    return torch.empty(0, dtype=dtype, device="meta").set_(storage, start, shape, stride)


class Maker:
    """Makes fake tensors, as their mode would.

    Args:
        mode: Whose they are.
    """

    def __init__(self, mode: FakeTensorMode) -> None:
        self._mode = mode
        #: What a fake tensor of each device has beside its place in memory.
        self._attributes: dict[torch.device, dict[str, Any]] = {}

    def make(self, outcome: Outcome, tensors: list[FakeTensor]) -> Any:
        """What an operation on ``tensors`` leaves."""
        with torch._C._DisableTorchDispatch():
            if outcome.container is None:
                return outcome.leaves[0](self, tensors)
            return outcome.container([leaf(self, tensors) for leaf in outcome.leaves])

    def fresh(self, shape: Any, stride: Any, dtype: torch.dtype, device: torch.device) -> FakeTensor:
        """A tensor with a storage of its own."""
        bare = torch.empty_strided(shape, stride, dtype=dtype, device="meta")
        torch._C._set_throw_on_mutable_data_ptr(bare)
        return self._fake(bare, device)

    def view(
        self, storage: Any, shape: Any, stride: Any, start: int, dtype: torch.dtype, device: torch.device
    ) -> FakeTensor:
        """A tensor on a storage that is there."""
        return self._fake(_bare(storage, shape, stride, start, dtype), device)

    def _fake(self, bare: Tensor, device: torch.device) -> FakeTensor:
        made: FakeTensor = Tensor._make_subclass(
            FakeTensor, bare, False, dispatch_device=True, device_for_backend_keys=device
        )
        found = self._attributes.get(device)
        if found is None:
            found = self._attributes[device] = dict(vars(FakeTensor(self._mode, bare, device)))
        vars(made).update(found)
        return made
