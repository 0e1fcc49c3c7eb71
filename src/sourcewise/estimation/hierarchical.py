"""Influences that borrow strength: examples from their class, classes from what one expects of them.

The logit y_e of an example is a loading times the mean logit of its class, plus a rest:

    y_e = l_e mean_c + r_e,   so that   effect of a group on e = l_e (effect on the class) + (effect on the rest).

l_e comes from all variance, not only that of the masks. So what training a model anew does to all examples of a class
alike is no noise of the rest; and loadings average one, rests zero, so that effects on examples average that on the
class. Three questions are answered by likelihood, so that what does not fit the data gets no weight:

* how much each prior (a table of expected effects on the classes) counts, for all classes together, by an expansion of
  their marginal likelihood (MacKay, Neural Computation 4, 1992: the evidence framework);
* how effects on classes scatter about what is expected of them: `shrinkage`;
* how much rests depend on the groups at all, for the examples of each class together: the variance of their effects has
  the restricted likelihood of `normal_equations`.

The posterior is in units of the output, through the scale of each column. influence and stderr are those of ridge, on
the outputs themselves: shrinkage does not bias them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sourcewise.core.errors import SourcewiseError
from sourcewise.estimation.arrays import TILE_COLUMNS, Array, Index, Mask, cuts
from sourcewise.estimation.contract import Estimate, Estimator
from sourcewise.estimation.moments import HierarchyMoments, Moments
from sourcewise.estimation.normal_equations import NormalEquations, Projection, relative_likelihood
from sourcewise.estimation.ridge import RIDGE
from sourcewise.estimation.shrinkage import Posterior, adaptive_posterior, normal_posterior, with_far_effects


def hierarchical(moments: Moments) -> Estimate:
    """Estimate the effects on examples from those on their classes, and these from priors where they help.

    Args:
        moments: with a Gram matrix and a hierarchy.

    Raises:
        SourcewiseError: as `ridge` does, or moments without a hierarchy.
    """
    if moments.hierarchy is None:
        raise SourcewiseError("hierarchical needs moments with a hierarchy (hierarchy=True)")
    equations, hierarchy = NormalEquations(moments), moments.hierarchy
    companion = replace(equations.estimate(), coefficients=None)  # frees its table
    normal = equations.with_outputs(hierarchy.classes)
    effects = fit_classes(normal, hierarchy.priors)
    posterior, slopes = _fit_examples(normal, hierarchy, effects)
    posterior = with_far_effects(posterior, companion.influence, companion.stderr, companion.dof)
    return replace(companion, coefficients=slopes, penalty=None, posterior=posterior, weights=effects.weights)


@dataclass(frozen=True)
class ClassEffects:
    """Effects of the K groups that vary on C classes, in units of the logit.

    Attributes:
        posterior: float[C, K] each, as influences are.
        slopes: float[C, K], what the groups add to predictions.
        weights: weight of each prior, by name.
    """

    posterior: Posterior
    slopes: Array
    weights: Mapping[str, float]


def fit_classes(normal: NormalEquations, priors: Mapping[str, Array]) -> ClassEffects:
    """Estimate the effects on classes, about what priors let expect as far as the data support them.

    Args:
        normal: equations of the mean logit of each class.
        priors: tables float[C, G], each in proportion to expected effects; their mean over groups does not matter.
    """
    groups, k = normal.groups, normal.groups.size
    tables = {name: table[:, groups] - table[:, groups].mean(1, keepdims=True) for name, table in priors.items()}
    tables = {
        name: table / np.sqrt((table**2).mean())
        for name, table in tables.items()
        if np.abs(table).max(initial=0) > 1e-9 * np.abs(priors[name]).max()  # not constant but for rounding
    }
    weights = _prior_weights(normal, np.array([*tables.values()])) if tables else np.zeros(0)
    prior_slopes = np.einsum("p,pck->ck", weights, np.array([*tables.values()])) if tables else 0.0
    expected_slopes = np.zeros((normal.moments.columns, k)) + prior_slopes
    rest = normal.with_outputs(_without_slopes(normal, expected_slopes)).estimate()
    factor = 1.0 if normal.sizes_vary or k == 1 else k / (k - 1)
    deviation, stderr = rest.influence[:, groups], rest.stderr[:, groups]
    expected = expected_slopes * factor
    posterior = adaptive_posterior(deviation + expected, stderr, expected)
    slopes = np.nan_to_num(posterior.mean) / factor  # groups that are never apart add nothing that can be told
    if not normal.sizes_vary:
        slopes = slopes - slopes.mean(1, keepdims=True)
    return ClassEffects(posterior, slopes, dict(zip(tables, weights.tolist(), strict=True)))


def _prior_weights(normal: NormalEquations, tables: Array) -> Array:
    """Return the weights of the tables float[P, C, K] of expected slopes, float[P], zero for one that does not help.

    Iterates between the variances of each class, averaged by their likelihood, and the weights given these, each of
    which has a variance of its own (automatic relevance determination).
    """
    projection = normal.project()
    usable = projection.total > projection.floor
    rotated, total, floor = projection.rotated[usable], projection.total[usable], projection.floor[usable]
    expected = (tables[:, usable] @ normal.vectors) * normal.values  # [P, c, rank], as `rotated`
    if not usable.any() or not normal.rank:
        return np.zeros(len(tables))
    rest = np.maximum(total - (rotated**2 / normal.values).sum(1), floor)
    penalties = normal.penalties[:-1, None]
    precision = penalties / (normal.values * (normal.values + penalties))  # [L, rank]
    weights, variances = np.zeros(len(tables)), np.ones(len(tables))
    for _ in range(50):
        quadratic = rest + precision @ ((rotated - np.tensordot(weights, expected, 1)) ** 2).T  # [L, c]
        likelihood = relative_likelihood(normal.free * np.log(quadratic) + normal.log_determinant[:, None])
        column_precision = (likelihood * normal.free / quadratic).T @ precision  # [c, rank]
        information = np.einsum("pcr,cr,qcr->pq", expected, column_precision, expected)
        covariance = np.linalg.inv(information + np.diag(1 / np.maximum(variances, 1e-300)))
        before, weights = weights, covariance @ np.einsum("pcr,cr,cr->p", expected, column_precision, rotated)
        variances = weights**2 + np.diag(covariance)
        if np.abs(weights - before).max() <= 1e-4 * np.abs(weights).max():
            break
    return weights


def _without_slopes(normal: NormalEquations, slopes: Array) -> Moments:
    """Return the moments of the outputs less what the groups' slopes float[C, K] predict for each model."""
    moments, models = normal.moments, normal.moments.models
    if not slopes.any():
        return moments
    full = np.zeros((moments.columns, moments.groups))
    full[:, normal.groups] = slopes
    cross = moments.kept_total - np.outer(moments.total / moments.count, moments.kept)
    predicted = full @ moments.gram_about_mean()
    squares = moments.squares_about_mean()[0] - 2 * (full * cross).sum(1) + (full * predicted).sum(1)

    def rests() -> Iterator[tuple[Mask, NDArray[Any]]]:
        for masks, outputs in models() if models is not None else ():
            yield masks, outputs - (masks - moments.kept_share) @ full.T

    result = _centred(moments, moments.mean, squares, cross - predicted)
    return replace(result, models=None if models is None else rests)


def _centred(moments: Moments, mean: Array, squares: Array, cross: Array) -> Moments:
    """Return moments of other outputs of the same models, from their mean and centred sums."""
    return replace(
        moments,
        reference=mean,
        total=np.zeros(len(mean)),
        square=np.maximum(squares, 0.0),
        kept_total=cross,
        kept_square=None,
        models=None,
        hierarchy=None,
    )


def _fit_examples(
    normal: NormalEquations, hierarchy: HierarchyMoments, effects: ClassEffects
) -> tuple[Posterior, Array]:
    """Return the posterior of the effects on examples and the slopes that predict them, float[E, G] each."""
    labels, groups, k = hierarchy.labels, normal.groups, normal.groups.size
    loading, loading_variance, rest = _split(hierarchy)
    projections = [normal.with_outputs(rest).project(tile) for tile in cuts(len(labels), TILE_COLUMNS)]
    del rest  # its table is no longer needed
    likelihood = _class_likelihood(normal, projections, labels, hierarchy.classes.columns)
    filters = likelihood.T @ normal.filters[:-1]  # [C, rank]
    square = normal.vectors**2
    unseen = np.maximum(1 - square.sum(1) - (0.0 if normal.sizes_vary else 1 / k), 0.0)
    gain = filters @ square.T + np.outer(likelihood.T @ (1 / normal.penalties[:-1]), unseen)
    if normal.sizes_vary:
        gain += 1 / normal.size_square
    factor = 1.0 if normal.sizes_vary or k == 1 else k / (k - 1)
    mean, sd, lfsr = np.full((3, len(labels), hierarchy.logits.groups), np.nan)
    coefficients = np.zeros((len(labels), hierarchy.logits.groups))
    for tile, projection in zip(cuts(len(labels), TILE_COLUMNS), projections, strict=True):
        label, column_loading, scale = labels[tile], loading[tile, None], hierarchy.scale[tile, None]
        noise = (likelihood[:, label] * _quadratic(normal, projection) / normal.free).sum(0)
        noise[projection.total <= projection.floor] = 0.0
        slopes = normal.group_slopes(projection.rotated * filters[label], projection.size_product)
        class_mean, class_sd = effects.posterior.mean[label], effects.posterior.sd[label]
        variance = (column_loading * class_sd) ** 2 + noise[:, None] * gain[label] * factor**2
        variance += loading_variance[tile, None] * class_mean**2
        posterior = normal_posterior(
            scale * (column_loading * class_mean + factor * slopes), np.abs(scale) * np.sqrt(variance)
        )
        # A column that is its class has the very distribution of its class, which need not be normal.
        is_class = ((noise == 0) & (column_loading[:, 0] * scale[:, 0] > 0))[:, None]
        mean[tile][:, groups], sd[tile][:, groups] = posterior.mean, posterior.sd
        lfsr[tile][:, groups] = np.where(is_class, effects.posterior.lfsr[label], posterior.lfsr)
        coefficients[tile][:, groups] = scale * (column_loading * effects.slopes[label] + slopes)
    return Posterior(mean, sd, lfsr), coefficients


def _split(hierarchy: HierarchyMoments) -> tuple[Array, Array, Moments]:
    """Split columns into their class and a rest; return loadings, their variances, both float[E], and the rest."""
    m, classes, labels = hierarchy.logits, hierarchy.classes, hierarchy.labels
    class_squares, free = classes.squares_about_mean()
    product = hierarchy.products - m.count * m.mean * classes.mean[labels]
    squares, class_square = m.squares_about_mean()[0], class_squares[labels]
    varies = class_square > 0
    loading = np.where(varies, product / np.where(varies, class_square, 1.0), 0.0)
    rest = squares - loading * product
    rest = np.where(rest > 1e-12 * squares, rest, 0.0)
    variance = np.where(varies, rest / max(free - 1, 1) / np.where(varies, class_square, 1.0), 0.0)
    cross = m.kept_total - np.outer(m.total / m.count, m.kept)
    class_cross = classes.kept_total - np.outer(classes.total / classes.count, classes.kept)
    cross -= loading[:, None] * class_cross[labels]
    return loading, variance, _centred(m, m.mean - loading * classes.mean[labels], rest, cross)


def _class_likelihood(
    equations: NormalEquations, projections: Sequence[Projection], labels: Index, classes: int
) -> Array:
    """Return the likelihood of each penalty for the examples of a class together, float[L, C], from their tiles."""
    deviance = np.zeros((len(equations.penalties) - 1, classes))
    for tile, projection in zip(cuts(len(labels), TILE_COLUMNS), projections, strict=True):
        varies = projection.total > projection.floor
        quadratic = _quadratic(equations, projection)[:, varies]
        each = (equations.free - 1) * np.log(quadratic) + equations.log_determinant[:, None]
        np.add.at(deviance.T, labels[tile][varies], each.T)
    return relative_likelihood(deviance)


def _quadratic(equations: NormalEquations, projection: Projection) -> Array:
    """Return the quadratic form of the likelihood of each penalty, float[L, e]."""
    explained = equations.filters[:-1] @ (projection.rotated**2).T
    return np.asarray(np.maximum(projection.total - explained, projection.floor))


HIERARCHICAL = Estimator("hierarchical", hierarchical, needs_squares=False, needs_hierarchy=True, substitute=RIDGE)
