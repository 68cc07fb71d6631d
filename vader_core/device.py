"""Tensors on their way to a device, without making the host wait for what the device still does."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from vader_core.errors import MachineError


def to_device(tensor: Tensor, device: torch.device | str) -> Tensor:
    """``tensor`` on ``device``.

    From the CPU to a CUDA device it goes through pinned memory: a plain copy would first wait until the
    device has done all its work, and the launches that follow could not run ahead. Pinned memory is laid out
    as the tensor is, so an expanded one is written out before.

    Args:
        tensor: Anywhere.
        device: Where it is wanted.
    """
    device = torch.device(device)
    if device.type == "cuda" and tensor.device.type == "cpu":
        return tensor.contiguous().pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


GIB = 1024**3


def peak_gib(device: torch.device) -> float:
    """Peak memory in GiB: allocated on a CUDA device, resident set size on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / GIB
    import resource
    import sys

    unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes, Linux KiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / GIB


def reset_peak(device: torch.device) -> None:
    """Begin a new peak on a CUDA device."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def free_gib() -> float | None:
    """What is free on the current CUDA device; ``None`` without one."""
    return torch.cuda.mem_get_info()[0] / GIB if torch.cuda.is_available() else None


@contextmanager
def out_of_memory_named(doing: str) -> Iterator[None]:
    """Turn the device's out-of-memory error into one message."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        plain = isinstance(error, RuntimeError) and not isinstance(error, torch.OutOfMemoryError)
        if plain and "can't allocate memory" not in str(error):
            raise
        raise MachineError(
            f"out of memory while {doing}: use fewer frames or a smaller size, --batch-size 1, --precision "
            "bf16, -o performance.gradient_checkpointing=true, or -o sampler.split_guidance=true"
        ) from error
