"""Parts that compute in their own dtype, whatever the run's autocast says."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch


def without_autocast(device: torch.device) -> AbstractContextManager[None]:
    """Within, autocast is off on ``device``; a device that has none (meta) is left alone."""
    if device.type == "meta":
        return nullcontext()
    return torch.autocast(device.type, enabled=False)
