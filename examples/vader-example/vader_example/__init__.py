"""A reward, a sampler and a prompt source, as small as they can be."""
