"""Fixed prompts and noise: validate, compare, watch."""
