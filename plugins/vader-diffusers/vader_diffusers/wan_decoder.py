"""Wan's decoder, one latent frame at a time, up to the last frame that is wanted.

The decoder is causal: a frame depends on the latents up to its own and on nothing behind. Diffusers keeps
what the convolutions need of earlier frames in a list that every call changes in place. Here a call is a
function of a latent frame and that list, which gives back its frames and another list, so that it can be
checkpointed: what the backward pass computes again does not depend on what came after.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import WanCausalConv3d, unpatchify
from torch import Tensor
from torch.utils.checkpoint import checkpoint

#: What the convolutions have kept of earlier frames; the words stand for "nothing yet".
Kept = tuple[Tensor | str | None, ...]


def decode_frames(vae: Any, latents: Tensor, wanted: list[int], *, recompute: bool) -> Tensor:
    """Decode the wanted frames, exactly as the whole video would be.

    Args:
        vae: An ``AutoencoderKLWan``.
        latents: [B, C, T, h, w], unscaled.
        wanted: Frame indices, in the order of the result.
        recompute: Work each latent frame's activations out again in the backward pass.

    Returns:
        [B, 3, len(wanted), H, W], nominally in [-1, 1], not clamped.
    """
    given = vae.post_quant_conv(latents)
    kept: Kept = (None,) * sum(isinstance(part, WanCausalConv3d) for part in vae.decoder.modules())
    chosen: dict[int, Tensor] = {}
    start = 0
    for index in range(latents.shape[2]):
        if start > max(wanted, default=-1):
            break
        frames, kept = _latent_frame(vae, given[:, :, index : index + 1], kept, index == 0, recompute)
        count = frames.shape[2]
        chosen |= {frame: frames[:, :, frame - start] for frame in wanted if start <= frame < start + count}
        start += count
    return torch.stack([chosen[frame] for frame in wanted], dim=2)


def _latent_frame(vae: Any, latent: Tensor, kept: Kept, first: bool, recompute: bool) -> tuple[Tensor, Kept]:
    """The frames of one latent frame, and what is kept behind it."""

    def run(latent: Tensor, *kept: Any) -> tuple[Any, ...]:
        held = list(kept)
        frames = vae.decoder(latent, feat_cache=held, feat_idx=[0], first_chunk=first)
        size = vae.config.patch_size
        return (frames if size is None else unpatchify(frames, patch_size=size), *held)

    if recompute and torch.is_grad_enabled():
        found = checkpoint(run, latent, *kept, use_reentrant=False)
    else:
        found = run(latent, *kept)
    return found[0], tuple(found[1:])
