"""Ridge regression and ordinary least squares of outputs on masks."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from sourcewise.core.errors import SourcewiseError
from sourcewise.estimation.contract import Estimate, Estimator
from sourcewise.estimation.moments import Moments
from sourcewise.estimation.normal_equations import NormalEquations


def ridge(moments: Moments) -> Estimate:
    """Regress with a penalty on squares, chosen a column at a time by generalised cross-validation.

    Needs moments with a Gram matrix. The mean of all coefficients is not penalised where sizes vary. For influence and
    stderr see `normal_equations`. Noise may differ between the models with and without a group (the sandwich estimator
    to its first order, which is all that these sums can show).

    Raises:
        SourcewiseError: fewer than four models, or no group that was ever dropped.
    """
    return NormalEquations(moments).estimate()


def ols(moments: Moments) -> Estimate:
    """Regress by ordinary least squares, which needs a Gram matrix and more subsets than groups.

    Errors are as in `ridge`. A group that cannot be told from others (always kept together with one, say) is NaN.

    Raises:
        SourcewiseError: too few subsets (a subset and its complement count once), or no group that was ever dropped.
    """
    normal = NormalEquations(moments)
    unpenalised = len(normal.penalties) - 1
    free, unknown = normal.free - normal.rank, normal.leak_gain[unpenalised] > 1e-6
    if free < 1 or unknown.all():
        raise SourcewiseError(
            f"{moments.count} models are too few for ols of {normal.groups.size} groups; ridge can do"
        )

    estimate = normal.estimate(
        lambda fits: (np.full_like(fits.best, unpenalised), fits.residual / free, np.zeros_like(fits.effects))
    )
    known = np.zeros(moments.groups, np.bool_)
    known[normal.groups[~unknown]] = True
    return replace(
        estimate,
        influence=np.where(known, estimate.influence, np.nan),
        dof=np.where(np.isnan(estimate.dof), np.nan, free),
    )


RIDGE = Estimator("ridge", ridge, needs_squares=False)
OLS = Estimator(
    "ols",
    ols,
    needs_squares=False,
    least_subsets=lambda groups: 2 * (groups + 6),  # even half of them leave some degrees of freedom
    substitute=RIDGE,
)
