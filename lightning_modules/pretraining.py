"""Pretraining a source model."""

from sourcewise.lightning_modules.classification import Classification


class Pretraining(Classification):
    """Cross-entropy over all source classes, whatever the subset: the head keeps an output for each of them."""
