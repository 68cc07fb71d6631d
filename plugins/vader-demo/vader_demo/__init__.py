"""A small text-to-video diffusion model, trained on a drawn world, with rewards of that world."""
