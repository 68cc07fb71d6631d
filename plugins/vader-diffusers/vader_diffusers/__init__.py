"""diffusers' text-to-video pipelines as backbones."""
