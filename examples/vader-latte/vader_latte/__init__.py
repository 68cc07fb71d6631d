"""Latte (text to video) through diffusers."""
