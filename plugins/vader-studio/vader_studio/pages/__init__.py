"""The pages, one per file: what is shown, and what their scripts ask for."""
