"""The core's own LoRA formats: peft's folder and diffusers' file."""
