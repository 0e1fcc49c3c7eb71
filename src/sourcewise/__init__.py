"""sourcewise: which parts of the source data help the target task, and which hurt it."""
