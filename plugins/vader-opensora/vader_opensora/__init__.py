"""Open-Sora 1.2 as a vader backbone."""
