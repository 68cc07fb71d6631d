"""The pages, one a file: what is shown, and what their scripts ask for."""
