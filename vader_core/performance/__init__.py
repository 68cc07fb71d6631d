"""What makes any network cheaper to run. Each file bears the name of its option."""
