"""Records: their bytes, where they are read from, and how they reach W&B."""
