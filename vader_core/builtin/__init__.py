"""The core's own plugin: samplers and prompt sources, through the hooks that every plugin uses."""
