"""The adapter: layers, files, and the formats of other programs."""
