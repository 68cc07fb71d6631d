"""Videos to learn from: tables of clips, their frames and pixels, and the batches that they come in."""
