"""The studio: a page to generate, watch, compare and share."""
