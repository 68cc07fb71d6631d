"""Plans by name."""
