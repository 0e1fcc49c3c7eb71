"""The search for a better source: what to train next, and what follows, as functions of the models that there are."""
