"""Stable Video Diffusion, image to video, as a plugin of ``vader``."""
