"""The adapter: attach, count, switch, read and write a LoRA."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

import torch
from torch import nn

from vader_core.errors import VaderError, near
from vader_core.files import replacing
from vader_core.lora.formats import Adapter
from vader_core.lora.layers import ADAPTER, KINDS, LoraLayer, put_adapter
from vader_core.lora.names import COMPONENTS, with_dots
from vader_core.lora.reader import CONFIG_FILE, TENSORS_FILES, read_lora
from vader_core.precision import wide
from vader_core.randomness import derive_seed
from vader_core.weights import save_tensors

#: peft's own file names, so that peft reads our folders.
TENSORS_FILE = TENSORS_FILES[0]
#: Which of an adapter's settings names the model that it belongs to.
BASE = "base_model_name_or_path"
_PREFIX = "base_model.model."


@dataclass(frozen=True)
class LoraSettings:
    """The shape of an adapter.

    Args:
        rank: r.
        alpha: The update is scaled by alpha / r.
        targets: Ends of module names, or patterns of whole names with ``*``; ``("all",)`` is every linear and
            convolution.
        dropout: Probability on the adapter's input, while training.
        seed: Of the initial A matrices; B starts at zero.
        ranks: Modules (whole names) whose own rank differs; their scale stays alpha / r.
    """

    rank: int = 16
    alpha: float = 16.0
    targets: tuple[str, ...] = ()
    dropout: float = 0.0
    seed: int = 0
    ranks: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Attached:
    """What was attached.

    Args:
        modules: Names of the modules that carry a LoRA.
        parameters: Trainable parameters.
    """

    modules: tuple[str, ...]
    parameters: int


def attach_lora(denoiser: nn.Module, settings: LoraSettings) -> Attached:
    """Put a LoRA into every module that the targets name; all else stays frozen.

    The adapter is float32 (float64 in a float64 model). A is drawn uniformly in ±1/sqrt(fan-in), peft's own
    start, from ``settings.seed``; B is zero, so that the tuned model starts as the base model.

    Args:
        denoiser: Changed in place.
        settings: Rank, alpha, targets, dropout, seed.

    Raises:
        VaderError: A target that names no module, with the names that are near.
    """
    modules = _resolve_targets(denoiser, settings.targets)
    denoiser.requires_grad_(False)
    for module in modules:
        rank = settings.ranks.get(module, settings.rank)
        alpha = settings.alpha * rank / settings.rank
        put_adapter(denoiser, module, ADAPTER, rank, alpha, settings.dropout)
    for name, parameter in denoiser.named_parameters():
        if _is_adapter(name):
            parameter.requires_grad_(True)
            if "lora_A" in name and not parameter.is_meta:
                _draw(parameter, derive_seed(settings.seed, "lora", name))
    denoiser.eval()
    return Attached(tuple(name for name, _ in lora_layers(denoiser)), count_trainable(denoiser))


def _draw(parameter: nn.Parameter, seed: int) -> None:
    bound = parameter[0].numel() ** -0.5
    generator, dtype = torch.Generator().manual_seed(seed), wide(parameter.dtype)
    drawn = torch.rand(parameter.shape, generator=generator, dtype=dtype)
    parameter.data.copy_((2 * drawn - 1) * bound)


def _resolve_targets(denoiser: nn.Module, targets: tuple[str, ...]) -> list[str]:
    """The modules that are meant, by their whole names."""
    candidates = list(_adaptable(denoiser, "", set()))
    meant: dict[str, None] = {}
    for target in targets:
        hits = [name for name in candidates if targets == ("all",) or named_by(target, name)]
        meant |= dict.fromkeys(hits)
        if not hits:
            near_ones = sorted({part for name in candidates for part in (name.rpartition(".")[2], name)})
            close = near(target, near_ones) or sorted({name.rpartition(".")[2] for name in candidates})[:12]
            raise VaderError(
                f"LoRA target {target!r} names no linear or convolution of the denoiser; "
                f"near or possible: {', '.join(close)} (`all` is every one)"
            )
    return list(meant)


def _adaptable(module: nn.Module, prefix: str, seen: set[nn.Module]) -> Iterator[str]:
    """Names of all that can carry a LoRA, or does; what a network holds twice has its first name."""
    for name, child in module.named_children():
        if child not in seen:
            seen.add(child)
            if isinstance(child, (LoraLayer, *KINDS)):
                yield prefix + name
            else:
                yield from _adaptable(child, f"{prefix}{name}.", seen)


def named_by(target: str, name: str) -> bool:
    """Whether a target means the module ``name``: by its end, or as a pattern where it holds a ``*``.

    >>> named_by("to_q", "blocks.0.attn.to_q"), named_by("blocks.*.to_q", "blocks.0.attn.to_q")
    (True, True)
    """
    if "*" in target:
        return fnmatchcase(name, target)
    return name == target or name.endswith(f".{target}")


def _is_adapter(name: str) -> bool:
    return f".lora_A.{ADAPTER}." in name or f".lora_B.{ADAPTER}." in name


def lora_layers(denoiser: nn.Module, adapter: str = ADAPTER) -> Iterator[tuple[str, LoraLayer]]:
    """The modules that carry the named adapter, by name; the trained one by default."""
    for name, module in denoiser.named_modules():
        if isinstance(module, LoraLayer) and adapter in module.lora_A:
            yield name, module


def adapter_parameters(denoiser: nn.Module) -> dict[str, nn.Parameter]:
    """The trainable tensors by peft's names less the adapter's, ``<module>.lora_A.weight``, in order."""
    return {
        name.replace(f".{ADAPTER}.", "."): parameter
        for name, parameter in denoiser.named_parameters()
        if _is_adapter(name)
    }


def count_trainable(denoiser: nn.Module) -> int:
    """How many parameters are trained."""
    return sum(parameter.numel() for parameter in denoiser.parameters() if parameter.requires_grad)


@contextmanager
def adapter_off(denoiser: nn.Module) -> Iterator[None]:
    """Within, the model is the base model."""
    with lora_scale(denoiser, 0.0):
        yield


@contextmanager
def lora_scale(denoiser: nn.Module, scale: float) -> Iterator[None]:
    """Within, the LoRA counts ``scale`` times; 0 skips its arithmetic: exactly the base model."""
    layers = [layer for _, layer in lora_layers(denoiser)]
    before = [dict(layer.scaling) for layer in layers]
    disabled = [layer.switched_off for layer in layers]
    try:
        for layer in layers:
            if scale == 0.0:
                layer.switched_off = True
            layer.scaling[ADAPTER] *= scale
        yield
    finally:
        for layer, scaling, was in zip(layers, before, disabled, strict=True):
            layer.scaling.update(scaling)
            layer.switched_off = was


@contextmanager
def adapter_dropout(denoiser: nn.Module, seed: int) -> Iterator[None]:
    """Within, the LoRA's dropout is on, with random numbers of its own; does nothing where there is none."""
    dropouts = [module for _, layer in lora_layers(denoiser) for module in layer.lora_dropout.values()]
    if not dropouts:
        yield
        return
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        for module in dropouts:
            module.train()
        try:
            yield
        finally:
            for module in dropouts:
                module.eval()


# -- files -------------------------------------------------------------------------------------------------


def adapter_of(denoiser: nn.Module) -> Adapter:
    """The attached adapter, copied to the CPU."""
    tensors = {name: value.detach().cpu().clone() for name, value in adapter_parameters(denoiser).items()}
    # one scale everywhere, so any layer's pair of numbers would do; the commonest rank is the run's own
    found = [(layer.ranks[ADAPTER], layer.alphas[ADAPTER]) for _, layer in lora_layers(denoiser)]
    rank, alpha = max(found, key=found.count)
    return Adapter(tensors, rank, alpha)


def set_adapter(denoiser: nn.Module, adapter: Adapter, *, what: str = "adapter") -> None:
    """Copy an adapter into the attached one: every tensor must find its place.

    Raises:
        VaderError: Names or shapes that do not fit, or another scaling.
    """
    own = adapter_parameters(denoiser)
    missing = sorted(own.keys() - adapter.tensors.keys())
    unexpected = sorted(adapter.tensors.keys() - own.keys())
    shapes = [
        f"{name} {tuple(adapter.tensors[name].shape)} instead of {tuple(own[name].shape)}"
        for name in sorted(own.keys() & adapter.tensors.keys())
        if adapter.tensors[name].shape != own[name].shape
    ]
    if missing or unexpected or shapes:
        from vader_core.weights import misfit_message

        raise VaderError(misfit_message(what, missing, unexpected, shapes))
    with torch.no_grad():
        for name, parameter in own.items():
            parameter.copy_(adapter.tensors[name])


def settings_of(adapter: Adapter, *, dropout: float = 0.0, seed: int = 0) -> LoraSettings:
    """Settings that attach exactly the modules of ``adapter``."""
    modules = tuple(dict.fromkeys(name.rpartition(".lora_")[0] for name in adapter.tensors))
    ranks = {
        name.rpartition(".lora_A")[0]: len(value)
        for name, value in adapter.tensors.items()
        if ".lora_A" in name and len(value) != adapter.rank
    }
    return LoraSettings(adapter.rank, adapter.alpha, modules, dropout, seed, ranks)


def attach_adapter(denoiser: nn.Module, adapter: Adapter, *, what: str) -> Attached:
    """Attach a read adapter with its own rank, alpha and modules.

    Raises:
        VaderError: It was made for another model.
    """
    adapter = fitted(denoiser, adapter)
    settings = settings_of(adapter)
    refuse_foreign(denoiser, settings, what=what)
    attached = attach_lora(denoiser, settings)
    set_adapter(denoiser, adapter, what=what)
    return attached


def fitted(denoiser: nn.Module, adapter: Adapter) -> Adapter:
    """The adapter under the denoiser's own module names, where the file's differ by form alone.

    Kohya's names have no dots, and a pipeline's component may be part of a module's name.
    """
    modules = {name: None for name, _ in denoiser.named_modules()}
    tensors = {}
    for name, value in adapter.tensors.items():
        module, _, part = name.rpartition(".lora_")
        if module not in modules:
            longer = [f"{component}.{module}" for component in COMPONENTS]
            own = next((one for one in longer if one in modules), None)
            module = own or (with_dots(modules, module) if adapter.flat else None) or module
        tensors[f"{module}.lora_{part}"] = value
    return Adapter(tensors, adapter.rank, adapter.alpha)


def refuse_foreign(denoiser: nn.Module, settings: LoraSettings, *, what: str) -> None:
    """Refuse an adapter that names modules the denoiser does not have.

    Raises:
        VaderError: It was made for another model.
    """
    names = {name for name, _ in denoiser.named_modules()}
    foreign = [target for target in settings.targets if target not in names]
    if foreign:
        raise VaderError(
            f"{what} was made for another model: {len(foreign)} of its {len(settings.targets)} modules are "
            f"not in this denoiser, first {foreign[0]!r} (the denoiser's own begin with {_first(denoiser)!r})"
        )


def _first(denoiser: nn.Module) -> str:
    return next((name for name, module in denoiser.named_modules() if isinstance(module, KINDS)), "")


def save_adapter(adapter: Adapter, folder: Path, base: str | None = None) -> None:
    """Write an adapter the way peft does: ``adapter_model.safetensors`` and ``adapter_config.json``.

    Args:
        adapter: The adapter.
        folder: Where to; made where it is missing.
        base: The model that it belongs to, for whoever reads the folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    save_tensors({_PREFIX + name: value for name, value in adapter.tensors.items()}, folder / TENSORS_FILE)
    settings = settings_of(adapter)
    config = {
        "peft_type": "LORA",
        "task_type": None,
        BASE: base,
        "r": adapter.rank,
        "lora_alpha": adapter.alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": sorted(settings.targets),
        "rank_pattern": {f"^{name}": rank for name, rank in settings.ranks.items()},
        "alpha_pattern": {
            f"^{name}": adapter.alpha * rank / adapter.rank for name, rank in settings.ranks.items()
        },
    }
    with replacing(folder / CONFIG_FILE) as beside:
        beside.write_text(json.dumps(config, indent=1) + "\n")


def load_adapter(folder: Path) -> Adapter:
    """Read a folder that :func:`save_adapter`, or peft, wrote.

    Raises:
        VaderError: A file is missing or unreadable, or it is not a plain LoRA.
    """
    return read_lora(folder)
