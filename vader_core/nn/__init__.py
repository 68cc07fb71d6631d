"""What a network is built with."""
