"""Pauses of Python's garbage collector: they stop a device, and with it every process that waits for it."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def short_pauses(device: torch.device) -> Iterator[None]:
    """Within, the collector passes over everything that was there before.

    A loaded model and its libraries are a million objects; walking over them takes 0.4 s, every few steps, on
    one process and then on another. Garbage that is made within is collected as ever.

    Args:
        device: Where the steps are computed; on the CPU nothing is changed, for nothing waits there.
    """
    if device.type == "cpu":
        yield
        return
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
