"""The estimators by name, and the look-up of those that a setting asks for, a user's included."""

from __future__ import annotations

from collections.abc import Sequence

from sourcewise.core import extensions
from sourcewise.core.errors import SourcewiseError
from sourcewise.estimation.contract import Estimate, Estimator
from sourcewise.estimation.difference import DIFFERENCE, difference
from sourcewise.estimation.hierarchical import HIERARCHICAL, hierarchical
from sourcewise.estimation.lasso import LASSO, lasso
from sourcewise.estimation.moments import GRAM_GROUPS
from sourcewise.estimation.ridge import OLS, RIDGE, ols, ridge

__all__ = [
    "AUTO",
    "ESTIMATORS",
    "Estimate",
    "Estimator",
    "difference",
    "find_estimators",
    "hierarchical",
    "lasso",
    "ols",
    "ridge",
]

ESTIMATORS = {estimator.name: estimator for estimator in (DIFFERENCE, RIDGE, OLS, LASSO, HIERARCHICAL)}
"""Our estimators by the name that configs and results use."""
AUTO = "auto"
"""The setting that lets all of ESTIMATORS compete."""

EstimatorSetting = str | Estimator | Sequence[str | Estimator]
"""A name of ESTIMATORS, AUTO, the dotted path of a user's estimator, an estimator itself, or a list of these."""


def find_estimators(setting: EstimatorSetting, groups: int) -> tuple[Estimator, ...]:
    """Return the estimators that compete: one, or of those that a list or `auto` stands for all that can do the groups.

    >>> [estimator.name for estimator in find_estimators("auto", groups=50)]
    ['difference', 'ridge', 'ols', 'lasso', 'hierarchical']
    >>> [estimator.name for estimator in find_estimators("auto", groups=50_000)]
    ['difference']

    Raises:
        SourcewiseError: nothing has that name, what has it is no `Estimator`, two have one name, or none can do so many
            groups.
    """
    settings = [setting] if isinstance(setting, str | Estimator) else setting
    estimators = [estimator for item in settings for estimator in _look_up(item)]
    names = [estimator.name for estimator in estimators]
    if not names or len(set(names)) < len(names):
        raise SourcewiseError(f"estimator={', '.join(names)}: name at least one, and none twice")
    able = tuple(estimator for estimator in estimators if groups <= GRAM_GROUPS or not estimator.needs_gram)
    if not able:
        raise SourcewiseError(
            f"estimator={', '.join(names)} can do {GRAM_GROUPS} groups, not {groups}: use {DIFFERENCE.name}"
        )
    return able


def _look_up(setting: str | Estimator) -> list[Estimator]:
    """Return the estimators that one setting stands for. Raises SourcewiseError as `find_estimators` does."""
    if isinstance(setting, Estimator):
        return [setting]
    if setting == AUTO:
        return list(ESTIMATORS.values())
    estimator = extensions.find({AUTO: None, **ESTIMATORS}, setting, "estimator")
    if not isinstance(estimator, Estimator):
        kind = type(estimator).__name__
        raise SourcewiseError(f"estimator={setting}: that is a {kind}, not an Estimator (see estimation.contract)")
    return [estimator]
