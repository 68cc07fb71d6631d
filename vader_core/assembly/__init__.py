"""A run as objects: from a configuration to loaded parts."""
