"""Sampling the demo's rectified flow without the toolkit's core: what the build and its measurements use."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from vader_demo.autoencoder import AutoEncoder
from vader_demo.denoiser import Denoiser

NUM_STEPS = 6
GUIDANCE_SCALE = 3.0
SHIFT = 2.0
"""Sampling defaults; see the model card for the accuracy they give."""


def shifted_times(num_steps: int, shift: float) -> Tensor:
    """Times from 1 (noise) to 0, (num_steps + 1,), moved towards noise: s t / (1 + (s - 1) t)."""
    times = torch.linspace(1, 0, num_steps + 1)
    return shift * times / (1 + (shift - 1) * times)


@torch.no_grad()
def sample(
    denoiser: Denoiser, text: Tensor, empty_text: Tensor, noise: Tensor, schedule: tuple[int, float, float]
) -> Tensor:
    """Euler integration with classifier-free guidance, both branches in one batch.

    Args:
        denoiser: the velocity model.
        text: (b, 12, 128), caption features.
        empty_text: (1, 12, 128), features of the empty caption.
        noise: (b, 8, 8, 8, 8).
        schedule: number of steps, guidance scale, time shift.

    Returns:
        Latents shaped like `noise`.
    """
    num_steps, guidance, shift = schedule
    both = torch.cat([text, empty_text.expand_as(text)])
    latents, times = noise, shifted_times(num_steps, shift).tolist()
    for now, after in pairwise(times):
        timesteps = torch.full((len(both),), now, device=noise.device)
        conditional, unconditional = denoiser(torch.cat([latents, latents]), timesteps, both).chunk(2)
        velocity = unconditional + guidance * (conditional - unconditional)
        latents = latents + (after - now) * velocity
    return latents


@torch.no_grad()
def decode_video(autoencoder: AutoEncoder, latents: Tensor) -> Tensor:
    """Decode latents (b, 8, 8, 8, 8) to video (b, 8, 3, 64, 64), not clamped."""
    frames = autoencoder.decode(latents.transpose(1, 2).flatten(0, 1))
    return frames.unflatten(0, (latents.shape[0], latents.shape[2]))
