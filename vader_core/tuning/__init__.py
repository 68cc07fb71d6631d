"""What may learn beside adapters."""
