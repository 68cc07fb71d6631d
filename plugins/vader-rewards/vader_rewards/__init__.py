"""Rewards for video diffusion: published scorers, exact, differentiable to the pixels, batched."""
