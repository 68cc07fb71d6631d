"""A small text-to-video diffusion model, trained from scratch on a drawn world, with rewards of that world."""

__version__ = "0.1.0"
