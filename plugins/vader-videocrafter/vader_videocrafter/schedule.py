"""The noise schedule of VideoCrafter2: Latent Diffusion's, with a falling scale on the clean latents."""

from __future__ import annotations

import torch
from torch import Tensor

from vader_core.schedule import VariancePreserving

SCALE_START = 1.0
SCALE_END = 0.7
SCALE_STEPS = 400
"""The scale falls linearly from 1 to 0.7 over the first 400 training timesteps and stays there (`scale_a`,
`scale_b` and `mid_step` of the official configuration)."""

STORED_SCALE_LENGTH = 1400
"""Length of the checkpoint's `scale_arr`: the official code appends 1000 constant entries rather than 600.
Only the first 1000 are ever read."""


def clean_scale(num_train_timesteps: int = 1000) -> Tensor:
    """Scale of the clean latents at each training timestep: float64, `[N]`, from 1 down to 0.7."""
    falling = torch.linspace(SCALE_START, SCALE_END, SCALE_STEPS, dtype=torch.float64)
    constant = torch.full((max(0, num_train_timesteps - SCALE_STEPS),), SCALE_END, dtype=torch.float64)
    return torch.cat([falling, constant])[:num_train_timesteps]


def videocrafter_schedule() -> VariancePreserving:
    """Square roots of beta linear from 0.00085 to 0.012, 1000 timesteps, noise prediction, scaled."""
    return VariancePreserving(
        alphas_cumprod=VariancePreserving.scaled_linear(0.00085, 0.012, 1000),
        prediction_type="epsilon",
        scale=clean_scale(1000),
    )
