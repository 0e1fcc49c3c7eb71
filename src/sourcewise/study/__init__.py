"""The records of one study as arrays, and influences laid out and written."""
