"""Tensors on their way to a device, without making the host wait for what the device still does."""

from __future__ import annotations

import torch
from torch import Tensor


def to_device(tensor: Tensor, device: torch.device | str) -> Tensor:
    """``tensor`` on ``device``.

    From the CPU to a CUDA device it goes through pinned memory: a plain copy would first wait until the
    device has done all its work, and the launches that follow could not run ahead.

    Args:
        tensor: Anywhere.
        device: Where it is wanted.
    """
    device = torch.device(device)
    if device.type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)
