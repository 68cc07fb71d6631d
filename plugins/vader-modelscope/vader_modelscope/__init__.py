"""ModelScope text-to-video (1.7 billion parameters with its text encoder) as a vader backbone."""
