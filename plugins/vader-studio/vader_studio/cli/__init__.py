"""The commands that the studio adds."""
