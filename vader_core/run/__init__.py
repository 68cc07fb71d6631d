"""A run as files."""
