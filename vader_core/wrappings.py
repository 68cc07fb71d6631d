"""What training code wraps weights in, taken off: one place for every backbone and reward."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from vader_core.errors import VaderError

if TYPE_CHECKING:
    from torch import Tensor

#: Names under which averaged weights stand beside the trained ones, and are preferred.
AVERAGES = (
    "ema",
    "ema_model",
    "ema_state_dict",
    "model_ema",
    "params_ema",
    "state_dict_ema",
    "generator_ema",
    "averaged_model",
    "shadow",
)
#: Names under which training code keeps the weights.
CONTAINERS = (
    *AVERAGES,
    "state_dict",
    "model_state_dict",
    "model",
    "module",
    "params",
    "net",
    "network",
    "generator",
    "weights",
)
#: What DistributedDataParallel, torch.compile, FSDP and Lightning's DeepSpeed put before every name.
PREFIXES = (
    "module.",
    "_orig_mod.",
    "_fsdp_wrapped_module.",
    "_checkpoint_wrapped_module.",
    "_forward_module.",
)
#: What torch.compile, FSDP and activation checkpointing put within names, where they wrap single blocks.
INNER = ("._orig_mod.", "._fsdp_wrapped_module.", "._checkpoint_wrapped_module.")
#: Lightning's average beside the weights: every name without its dots.
_FLAT_AVERAGE = "model_ema."
_FLAT_COUNTERS = ("model_ema.decay", "model_ema.num_updates")
_ROOTS = ("", "model.", "model.diffusion_model.")
#: No training code nests its containers deeper.
_DEEPEST = 6


def unwrapped(loaded: Mapping[str, Any], *, what: str) -> dict[str, Tensor]:
    """The tensors of a loaded file under the names that the model gave them.

    Containers (``state_dict``, ``model``, DeepSpeed's ``module`` …) are opened, the averaged weights first;
    ``module.`` and ``_orig_mod.`` before every name are taken off in any order, and within names that of
    compiled parts; LVDM's ``model_ema.*`` stands in for the weights that it averages.

    Args:
        loaded: From :func:`vader_core.weights.load_tensors`.
        what: The file, for messages.

    Raises:
        VaderError: There are no tensors by name in it.
    """
    from torch import Tensor

    held, opened = loaded, False
    for _ in range(_DEEPEST):
        inner = next((held[name] for name in CONTAINERS if _leads_to_tensors(held.get(name))), None)
        if inner is None:
            break
        held, opened = inner, True
    tensors = {name: value for name, value in held.items() if isinstance(value, Tensor)}
    torn = opened and any(_holds_more(value) for value in held.values())
    if torn or not tensors or not all(isinstance(name, str) for name in tensors):
        shown = ", ".join(str(name)[:60] for name in list(held)[:6]) or "nothing"
        raise VaderError(f"{what} holds no flat dictionary of tensors, but {shown}")
    return _averaged(without_prefixes(tensors))


def _leads_to_tensors(value: Any, depth: int = _DEEPEST) -> bool:
    """Whether a container holds tensors by name, itself or within another."""
    from torch import Tensor

    if not isinstance(value, Mapping) or not depth:
        return False
    return any(isinstance(one, Tensor) for one in value.values()) or any(
        _leads_to_tensors(value.get(name), depth - 1) for name in CONTAINERS
    )


def _holds_more(value: Any) -> bool:
    """Whether it may hold weights that are not read; a counter, a rate or a word holds none."""
    from torch import Tensor

    return not isinstance(value, Tensor) and not isinstance(value, str | int | float | None)


def without_prefixes(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors without the prefixes that wrappers put before every name."""
    named = dict(tensors)
    while named:
        prefix = next((one for one in PREFIXES if all(name.startswith(one) for name in named)), None)
        if prefix is None:
            break
        named = {name.removeprefix(prefix): value for name, value in named.items()}
    for part in INNER:
        named = {name.replace(part, "."): value for name, value in named.items()}
    return named


def _averaged(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    flat = {
        name.removeprefix(_FLAT_AVERAGE): value
        for name, value in tensors.items()
        if name.startswith(_FLAT_AVERAGE)
    }
    own = {name: value for name, value in tensors.items() if not name.startswith(_FLAT_AVERAGE)}
    if not flat or not own:
        return tensors
    for name in own:
        for root in _ROOTS:
            short = name.removeprefix(root).replace(".", "")
            if name.startswith(root) and short in flat and flat[short].shape == own[name].shape:
                own[name] = flat.pop(short)
                break
    left = {_FLAT_AVERAGE + name: value for name, value in flat.items()}
    return own | {name: value for name, value in left.items() if name not in _FLAT_COUNTERS}


def refuse_not_finite(tensors: Mapping[str, Tensor], *, what: str) -> None:
    """Refuse tensors that hold NaN or an infinity.

    Raises:
        VaderError: Naming the first such tensor.
    """
    for name, value in tensors.items():
        if value.is_meta or not (value.is_floating_point() or value.is_complex()):
            continue
        kept = value if value.element_size() > 1 else value.float()  # float8 has no such test
        if not bool(kept.isfinite().all()):
            kind = "NaN" if bool(kept.isnan().any()) else "infinite numbers"
            raise VaderError(
                f"{what}: {name} holds {kind}, as a diverged run leaves it; take an earlier checkpoint"
            )
