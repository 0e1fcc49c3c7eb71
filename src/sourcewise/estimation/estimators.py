"""The estimators by name, and the look-up of those that a setting asks for, a user's included."""

from __future__ import annotations

from collections.abc import Sequence

from sourcewise.core import extensions
from sourcewise.core.errors import SourcewiseError
from sourcewise.estimation.contract import Estimate, Estimator
from sourcewise.estimation.difference import DIFFERENCE, difference
from sourcewise.estimation.lasso import LASSO, lasso
from sourcewise.estimation.moments import GRAM_GROUPS
from sourcewise.estimation.ridge import OLS, RIDGE, ols, ridge

__all__ = ["AUTO", "ESTIMATORS", "Estimate", "Estimator", "difference", "find_estimators", "lasso", "ols", "ridge"]

ESTIMATORS = {estimator.name: estimator for estimator in (DIFFERENCE, RIDGE, OLS, LASSO)}
"""Our estimators by the name that configs and results use."""
AUTO = "auto"
"""The setting that lets all of ESTIMATORS compete."""

Choice = str | Estimator
"""A name of ESTIMATORS, AUTO, the dotted path of a user's estimator, or an estimator itself."""


def find_estimators(choice: Choice | Sequence[Choice], groups: int) -> tuple[Estimator, ...]:
    """Return the estimators that compete: one, or all that a list or `auto` stands for and that can do the groups.

    >>> [estimator.name for estimator in find_estimators("auto", groups=50)]
    ['difference', 'ridge', 'ols', 'lasso']
    >>> [estimator.name for estimator in find_estimators("auto", groups=50_000)]
    ['difference']

    Raises:
        SourcewiseError: nothing has that name, what has it is no `Estimator`, two have one name, or none can do so many
            groups.
    """
    choices = [choice] if isinstance(choice, str | Estimator) else list(choice)
    estimators = [estimator for item in choices for estimator in _find(item)]
    names = [estimator.name for estimator in estimators]
    if not names or len(set(names)) < len(names):
        raise SourcewiseError(f"estimator={', '.join(names)}: name at least one, and none twice")
    able = tuple(estimator for estimator in estimators if groups <= GRAM_GROUPS or not estimator.needs_gram)
    if not able:
        raise SourcewiseError(
            f"estimator={', '.join(names)} can do {GRAM_GROUPS} groups, not {groups}: use {DIFFERENCE.name}"
        )
    return able


def _find(choice: Choice) -> list[Estimator]:
    """Return the estimators that one choice stands for. Raises SourcewiseError as `find_estimators` does."""
    if isinstance(choice, Estimator):
        return [choice]
    if choice == AUTO:
        return list(ESTIMATORS.values())
    estimator = extensions.find({AUTO: None, **ESTIMATORS}, choice, "estimator")
    if not isinstance(estimator, Estimator):
        raise SourcewiseError(
            f"estimator={choice}: that is a {type(estimator).__name__}, not an Estimator (see estimation.contract)"
        )
    return [estimator]
