"""A pipeline's modules: read from a folder or repository, or filled with random numbers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vader_core.errors import VaderError
from vader_core.hub import guarded
from vader_core.nn.build import fill_randomly
from vader_diffusers.pipeline_source import PipelineSource, check_weights, components, gated

#: Norms whose scale is not called ``weight``: mean and deviation of its random numbers.
_SPREAD = {"gamma": (1.0, 0.1)}


def model_class(kind: str, *, needed_for: str) -> Any:
    """A class of diffusers by name.

    Raises:
        VaderError: The installed diffusers does not have it.
    """
    import diffusers

    found = getattr(diffusers, kind, None)
    if found is None:
        raise VaderError(
            f"{needed_for}: diffusers {diffusers.__version__} has no {kind}: pip install --upgrade diffusers"
        )
    return found


def bare(source: PipelineSource, component: str, *, needed_for: str) -> nn.Module:
    """A component of the source's sizes, on torch's current default device."""
    config = source.config(component)
    if not config:
        raise VaderError(f"{needed_for}: the pipeline's folder has no configuration of its {component!r}")
    kind = model_class(str(config["_class_name"]), needed_for=needed_for)
    module: nn.Module = kind.from_config(dict(config))
    return module


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Within, new parameters are of ``dtype``, so that a large model is never built twice its size."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def random_part(
    source: PipelineSource,
    component: str,
    *,
    device: torch.device,
    dtype: torch.dtype,
    needed_for: str,
) -> nn.Module:
    """A component of random numbers, the same every time and, but for rounding, in every dtype."""
    accelerators = [] if device.type == "cpu" else [device]
    with torch.random.fork_rng(devices=accelerators), torch.device(device), default_dtype(dtype):
        module = bare(source, component, needed_for=needed_for)
    module = as_stored(module, dtype).to(device)
    fill_randomly(module, component, spread=_SPREAD)
    return module


def as_stored(module: nn.Module, dtype: torch.dtype) -> nn.Module:
    """``module`` in ``dtype``, but for the parts that its class keeps in float32 whatever is asked for."""
    wide = tuple(getattr(module, "_keep_in_fp32_modules", None) or ())
    half = dtype in (torch.bfloat16, torch.float16)
    for name, parameter in module.named_parameters():
        kept = half and any(part in name.split(".") for part in wide)
        parameter.data = parameter.data.to(torch.float32 if kept else dtype)
    return module


def stored_pipeline(
    source: PipelineSource,
    kind: Any,
    *,
    dtypes: Mapping[str, torch.dtype],
    given: Mapping[str, Any],
    needed_for: str,
) -> Any:
    """A pipeline with its weights, on the CPU.

    Args:
        source: Where it lies.
        kind: The pipeline's class.
        dtypes: Of its components; ``default`` is the others'.
        given: Components that are read otherwise.
        needed_for: Begins a message.

    Raises:
        VaderError: Weights that are missing, gated or do not fit.
    """
    from huggingface_hub.errors import GatedRepoError

    where = str(source.where)
    if Path(where).is_dir():
        check_weights(Path(where), source.index, needed_for=needed_for)
    backbone = needed_for.removeprefix("backbone ").strip("'")
    try:
        with torch.random.fork_rng(devices=[]), guarded():
            return kind.from_pretrained(where, revision=source.revision, dtype=dict(dtypes), **given)
    except GatedRepoError as error:
        raise VaderError(gated(backbone, where)) from error
    except ImportError as error:
        raise VaderError(f"{needed_for}: a package is missing: {error}") from error
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise VaderError(f"{needed_for}: {where} cannot be read: {first}") from error


def autocast_for(module: Any) -> AbstractContextManager[Any]:
    """Autocast off: the module computes in its own dtype, as it does in its pipeline."""
    device = module.device.type
    return torch.autocast(device, enabled=False) if torch.is_autocast_enabled(device) else nullcontext()


def without_weights(source: PipelineSource) -> dict[str, None]:
    """Components that a pipeline without weights does without: whatever belongs to text or pictures."""
    return {
        name: None for name, (library, _) in components(source.index).items() if library == "transformers"
    }
