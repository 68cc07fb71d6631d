"""The loop around an update."""
