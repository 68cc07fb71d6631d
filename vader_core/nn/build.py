"""How networks are made: without storage, then on their device, then filled from a file or at random."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook
from torch.utils.weak import WeakIdKeyDictionary

from vader_core.errors import VaderError
from vader_core.randomness import Key, derive_seed

M = TypeVar("M", bound=nn.Module)
T = TypeVar("T")

#: Standard deviation of random vectors: around 1 where they are a layer's ``weight``, else around 0.
VECTOR_DEVIATION = 0.1


def frozen(module: M) -> M:
    """``module`` itself, frozen and in eval mode."""
    return module.requires_grad_(False).eval()


def built(make: Callable[[], T], *, what: str) -> T:
    """What a library's class makes of a configuration that was read from somebody's file.

    Args:
        make: Calls the class.
        what: Begins the message.

    Raises:
        VaderError: The class raised anything: they check little of what they are given.
    """
    try:
        return make()
    except VaderError:
        raise
    except Exception as error:
        raise VaderError(
            f"{what}: no network can be built from this configuration ({type(error).__name__}: {error})"
        ) from error


def empty_module(
    make: Callable[[], M],
    *,
    device: torch.device,
    dtype: torch.dtype,
    keep: Callable[[M], object] | None = None,
) -> M:
    """What ``make`` builds, on ``device`` in ``dtype``, frozen and in eval mode; its parameters are empty.

    While it is built its parameters are on the meta device, so that neither time nor memory goes into an
    initialisation that is replaced. Buffers hold what ``make`` computes, rounded once to the dtype that they
    end up with. Weights that are tied stay tied. No random state is touched.

    Args:
        make: Builds the module. It must not read its own parameters.
        device: Where the module goes; the meta device too.
        dtype: Of its floating-point parameters and buffers.
        keep: Called once they have ``dtype`` and before they have storage; gives parts another one.
    """
    with parameters_without_storage():
        module = make()
    computed = dict(module.named_buffers(remove_duplicate=False))
    tied = _tied(module)
    # Past a library's own `to`, which warns of parts that a loader would have to keep in float32.
    nn.Module.to(module, dtype)
    if keep is not None:
        keep(module)
    _tie(tied, dtype)
    _allocate(module, computed, device)
    return frozen(module)


def _tied(module: nn.Module) -> list[list[tuple[nn.Module, str]]]:
    """Where each parameter stands that has several places."""
    places: dict[int, list[tuple[nn.Module, str]]] = {}
    for part in module.modules():
        for name, one in part.named_parameters(recurse=False, remove_duplicate=False):
            places.setdefault(id(one), []).append((part, name))
    return [found for found in places.values() if len(found) > 1]


def _tie(tied: list[list[tuple[nn.Module, str]]], dtype: torch.dtype) -> None:
    """Tie again what came apart: on paper a change of dtype makes a parameter of its own in each place.

    Where a place was given another dtype than the module's, that one is taken.
    """
    for places in tied:
        found = [getattr(part, name) for part, name in places]
        one = next((value for value in found if value.dtype != dtype), found[0])
        for part, name in places:
            setattr(part, name, one)


def _allocate(module: nn.Module, computed: Mapping[str, Tensor], device: torch.device) -> None:
    # The old parameters are held on to, so that no new one can take over the identity of an old one.
    made: dict[int, tuple[Tensor, nn.Parameter]] = {}
    for path, part in module.named_modules():
        for name, old in part.named_parameters(recurse=False, remove_duplicate=False):
            if id(old) not in made:
                empty = torch.empty(old.shape, dtype=old.dtype, device=device)
                made[id(old)] = old, nn.Parameter(empty, requires_grad=False)
            setattr(part, name, made[id(old)][1])
        for name, buffer in part.named_buffers(recurse=False, remove_duplicate=False):
            value = computed[f"{path}.{name}" if path else name]
            setattr(part, name, value.to(device, buffer.dtype))


@contextmanager
def parameters_without_storage() -> Iterator[None]:
    """Within, what this thread registers as a parameter goes to the meta device; all else is on the CPU."""
    thread = threading.get_ident()
    moved = WeakIdKeyDictionary()

    def move(module: nn.Module, name: str, parameter: nn.Parameter | None) -> nn.Parameter | None:
        if parameter is None or parameter.is_meta or threading.get_ident() != thread:
            return parameter
        if parameter not in moved:
            bare = torch.empty(parameter.shape, dtype=parameter.dtype, device="meta")
            moved[parameter] = nn.Parameter(bare, requires_grad=parameter.requires_grad)
        bare_parameter: nn.Parameter = moved[parameter]
        return bare_parameter

    hook = register_module_parameter_registration_hook(move)  # type: ignore[arg-type]
    try:
        with torch.random.fork_rng(devices=[]), torch.device("cpu"):
            torch.default_generator.manual_seed(0)
            yield
    finally:
        hook.remove()


@torch.no_grad()
def fill_randomly(
    module: nn.Module, *key: Key, spread: Mapping[str, tuple[float, float]] | None = None
) -> None:
    """Give every parameter normal numbers of a sensible size, so that nothing is zero and no layer is blind.

    Whatever has two axes or more (matrices, kernels, tables) has mean 0 and variance 1 / fan-in, the fan-in
    being the numbers in one row; a layer's vector named ``weight`` (of a norm) has mean 1, every other vector
    and scalar mean 0, both with standard deviation :data:`VECTOR_DEVIATION`. Signals keep a size of about
    one. Buffers keep what they hold.

    Each name has its own generator, so neither the order of the parameters nor what else the module holds
    matters, and no global state is touched. The numbers are drawn in float32 on the parameter's own device
    and rounded to its dtype: equal on the same kind of device, whatever the dtype. Parameters on the meta
    device are left alone.

    Args:
        module: Any network.
        key: What sets these weights apart: a seed, and a part's name where several networks share it.
        spread: Mean and standard deviation of parameters that the rule does not suit, by the end of their
            names; buffers named here are filled too.
    """
    spread = spread or {}
    for name, value in module.named_parameters():
        _fill(value, (*key, name), _named(name, spread) or _usual(name, value))
    for name, buffer in module.named_buffers():
        named = _named(name, spread)
        if named is not None:
            _fill(buffer, (*key, name), named)


def _fill(value: Tensor, key: tuple[Key, ...], spread: tuple[float, float]) -> None:
    if value.is_meta:
        return
    generator = torch.Generator(value.device).manual_seed(derive_seed(*key))
    drawn = torch.empty(value.shape, dtype=torch.float32, device=value.device)
    value.copy_(drawn.normal_(*spread, generator=generator))


def _named(name: str, spread: Mapping[str, tuple[float, float]]) -> tuple[float, float] | None:
    return next((found for end, found in spread.items() if f".{name}".endswith(f".{end}")), None)


def _usual(name: str, value: Tensor) -> tuple[float, float]:
    if value.ndim > 1:
        return 0.0, value[0].numel() ** -0.5
    return float(name.rpartition(".")[2] == "weight"), VECTOR_DEVIATION
