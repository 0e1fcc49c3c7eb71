"""One run: a config becomes a source model, its transfers to the targets, and a record."""
