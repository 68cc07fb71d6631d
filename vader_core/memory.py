"""How much memory the process holds."""

from __future__ import annotations

import torch

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
