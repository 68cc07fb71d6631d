"""Open-Sora's rectified flow: the path from data to noise, its time shift, its training loss."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

#: The model's unit of time.
NUM_TIMESTEPS = 1000
#: Pixels at which the time shift is 1 for a picture.
BASE_PIXELS = 512 * 512


def time_shift(height: Tensor, width: Tensor, num_frames: Tensor) -> Tensor:
    """The factor r by which longer and larger videos spend more steps at high noise.

    r = sqrt(pixels / 512²) · sqrt(f), f the latent frames of the whole chunks of 17, or 1 for a picture.
    Computed in the dtype of the arguments, as the official code does; float16 overflows above 65504 pixels.

    Args:
        height: Pixels.
        width: Pixels.
        num_frames: Video frames.
    """
    latent_frames = torch.where(num_frames == 1, torch.ones_like(num_frames), num_frames // 17 * 5)
    return (height * width / BASE_PIXELS).sqrt() * latent_frames.sqrt()


def shifted(timesteps: Tensor, ratio: Tensor) -> Tensor:
    """Timesteps [n] in 0 … 1000 moved by ``ratio``: u' = r u / (1 + (r - 1) u), u = t / 1000."""
    u = timesteps / NUM_TIMESTEPS
    return ratio * u / (1 + (ratio - 1) * u) * NUM_TIMESTEPS


def even_timesteps(num_steps: int) -> Tensor:
    """Timesteps (1 - i / S) · 1000 of ``num_steps`` evenly spaced steps: [S], float32."""
    return torch.tensor([(1.0 - i / num_steps) * NUM_TIMESTEPS for i in range(num_steps)])


def add_noise(clean: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
    """The point of the path at ``timesteps`` [b]: (1 - tau) clean + tau noise, tau = t / 1000."""
    tau = (timesteps / NUM_TIMESTEPS).view(-1, *[1] * (clean.ndim - 1))
    return (1 - tau) * clean + tau * noise


def training_loss(
    predict: Callable[[Tensor, Tensor], Tensor],
    clean: Tensor,
    noise: Tensor,
    timesteps: Tensor,
    frame_mask: Tensor | None = None,
) -> Tensor:
    """The rectified-flow loss of supervised training: [b].

    Args:
        predict: The velocity [b, c, t, h, w] from noised latents and timesteps; told of ``frame_mask`` by its
            maker.
        clean: Clean latents [b, c, t, h, w].
        noise: Standard normal, the same shape.
        timesteps: [b] in 0 … 1000.
        frame_mask: [b, t] bool: False frames stay clean and do not count.
    """
    noised = add_noise(clean, noise, timesteps)
    if frame_mask is not None:
        noised = torch.where(frame_mask[:, None, :, None, None], noised, clean)
    error = (predict(noised, timesteps) - (clean - noise)).pow(2)
    if frame_mask is None:
        return error.flatten(1).mean(dim=1)
    per_frame = error.mean(dim=(1, 3, 4))
    return (per_frame * frame_mask).sum(dim=1) / frame_mask.sum(dim=1)
