"""The hierarchical estimator: priors that help and that mislead, levels that agree, and what its posterior promises."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import optimize, stats

from sourcewise.core.errors import SourcewiseError
from sourcewise.estimation.arrays import PackedMasks
from sourcewise.estimation.collapse import Knowledge, collapse
from sourcewise.estimation.estimators import ESTIMATORS, hierarchical, ridge
from sourcewise.estimation.fitting import fit
from sourcewise.estimation.hierarchical import fit_classes
from sourcewise.estimation.normal_equations import NormalEquations
from tests.estimation.test_calibration import design

CLASSES = 6


def planted(models=64, groups=24, each=8, seed=0, kind="random", fraction=0.5, noise=1.0, sparse=True, deviation=0.3):
    """Masks, outputs, labels, effects on classes and on examples; noise is in part common to the examples of a class."""
    rng = np.random.default_rng(seed)
    masks = design(kind, groups, models, rng, fraction)
    effects = rng.normal(size=(CLASSES, groups)) * (rng.random((CLASSES, groups)) < 0.3 if sparse else 0.5)
    labels = np.arange(CLASSES * each) % CLASSES
    loading = rng.uniform(0.5, 1.5, len(labels))
    each_effect = loading[:, None] * effects[labels] + deviation * rng.normal(size=(len(labels), groups)) * 0.5
    common = noise * rng.normal(size=(models, CLASSES))[:, labels] * loading
    outputs = masks @ each_effect.T + common + noise * rng.normal(size=(models, len(labels)))
    return masks, outputs, labels, effects, each_effect


def relative(effects):
    """Effects relative to the other groups', as influences from subsets of one size are."""
    k = effects.shape[1]
    return (k * effects - effects.sum(1, keepdims=True)) / (k - 1)


def error(table, truth):
    return float(((table - truth) ** 2).mean())


@pytest.mark.parametrize(
    ("models", "kind", "fraction"),
    [(16, "random", 0.5), (64, "random", 0.5), (64, "random", 0.8), (64, "hadamard", 0.5), (96, "bernoulli", 0.5)],
)
def test_it_is_nearer_to_the_truth_than_ridge_and_its_influences_are_those_of_ridge(models, kind, fraction):
    masks, outputs, labels, _, effects = planted(models, kind=kind, fraction=fraction)
    result = fit(masks, outputs, "hierarchical", labels=labels)
    peer = fit(masks, outputs, "ridge")
    np.testing.assert_allclose(result.influence, peer.influence)
    np.testing.assert_allclose(result.stderr, peer.stderr)
    truth = relative(effects) if len(np.unique(masks.sum(1))) == 1 else effects
    assert error(result.posterior.mean, truth) < 0.8 * error(peer.estimate.slopes, truth)
    assert error(result.posterior.mean, truth) < error(peer.posterior.mean, truth)
    fresh = design(kind, 24, 400, np.random.default_rng(9), fraction)
    actual = fresh @ effects.T
    predictions = [item.predict(fresh) - actual for item in (result, peer)]
    left = [np.var(table - table.mean(0)) for table in predictions]
    assert left[0] < 0.85 * left[1]


def test_effects_on_a_class_are_the_mean_of_those_on_its_examples():
    masks, outputs, labels, *_ = planted()
    means = np.stack([outputs[:, labels == c].mean(1) for c in range(CLASSES)], axis=1)
    examples = fit(masks, outputs, "hierarchical", labels=labels).posterior.mean
    classes = fit(masks, means, "hierarchical", labels=np.arange(CLASSES)).posterior.mean
    of_examples = np.stack([examples[labels == c].mean(0) for c in range(CLASSES)])
    np.testing.assert_allclose(of_examples, classes, atol=1e-9)


def test_a_prior_that_is_right_helps_and_one_that_misleads_gets_no_weight():
    masks, outputs, labels, effects, on_examples = planted(models=24, sparse=False)
    rng = np.random.default_rng(1)
    right = 7 * effects + rng.normal(size=effects.shape)  # neither scale nor offset of a table matters
    wrong = rng.normal(size=effects.shape)
    truth = relative(on_examples)

    def squared_error(**priors):
        return error(fit(masks, outputs, "hierarchical", labels=labels, priors=priors).posterior.mean, truth)

    alone = squared_error()
    assert squared_error(right=right) < 0.6 * alone
    assert squared_error(right=right, wrong=wrong) < 0.65 * alone
    assert squared_error(wrong=wrong) < 1.05 * alone
    assert squared_error(inverse=-right) == pytest.approx(squared_error(right=right), rel=0.01)
    assert squared_error(right=40 * right + 3) == pytest.approx(squared_error(right=right), rel=1e-6)


def test_the_weight_of_a_prior_is_that_of_greatest_likelihood():
    masks, outputs, labels, effects, _ = planted(models=60, sparse=False, noise=0.5)
    means = np.stack([outputs[:, labels == c].mean(1) for c in range(CLASSES)], axis=1)
    prior = effects + 0.5 * np.random.default_rng(2).normal(size=effects.shape)
    subsets = collapse(masks, means, None, Knowledge(np.arange(CLASSES), np.ones(CLASSES), {"prior": prior}))
    moments = subsets.moments(hierarchy=True)
    weight = fit_classes(NormalEquations(moments.hierarchy.classes), moments.hierarchy.priors).weights["prior"]
    table = prior - prior.mean(1, keepdims=True)
    table /= np.sqrt((table**2).mean())
    centred, contrast = masks - masks.mean(0), np.linalg.svd(np.ones((1, 60)))[2][1:]

    def deviance(parameters):
        """Restricted likelihood of all classes, in the space orthogonal to the constant."""
        total = 0.0
        for column in range(CLASSES):
            log_noise, log_effect = parameters[1 + 2 * column : 3 + 2 * column]
            rest = contrast @ (means[:, column] - centred @ table[column] * parameters[0])
            x = contrast @ centred
            covariance = np.exp(log_noise) * np.eye(59) + np.exp(log_effect) * x @ x.T
            total -= stats.multivariate_normal.logpdf(rest, cov=covariance)
        return total

    best = optimize.minimize(deviance, np.r_[0.5, np.tile([-1.0, -2.0], CLASSES)], method="L-BFGS-B")
    assert weight == pytest.approx(best.x[0], rel=0.05)


@pytest.mark.parametrize("kind", ["random", "bernoulli", "hadamard"])
def test_intervals_of_the_posterior_cover_effects(kind):
    inside, wrong, lfsr = [], [], []
    for seed in range(8):
        masks, outputs, labels, _, effects = planted(seed=seed, kind=kind, sparse=False)
        posterior = fit(masks, outputs, "hierarchical", labels=labels).posterior
        truth = relative(effects) if kind == "random" else effects
        inside.append(np.abs(posterior.mean - truth) <= 1.96 * posterior.sd)
        wrong.append(np.sign(posterior.mean) != np.sign(truth))
        lfsr.append(posterior.lfsr)
    assert 0.9 < np.mean(inside) < 0.975
    assert np.mean(wrong) == pytest.approx(np.mean(lfsr), abs=0.05)


def test_logits_are_worth_the_slope_of_probabilities_on_them():
    masks, logits, labels, *_ = planted()
    probabilities = 1 / (1 + np.exp(-logits))
    result = fit(masks, probabilities, "hierarchical", logits=logits, labels=labels)
    slopes = [stats.linregress(x, y).slope for x, y in zip(logits.T, probabilities.T, strict=True)]
    alone = fit(masks, logits, "hierarchical", labels=labels)
    np.testing.assert_allclose(result.posterior.mean, np.array(slopes)[:, None] * alone.posterior.mean)
    np.testing.assert_allclose(result.posterior.sd, np.array(slopes)[:, None] * alone.posterior.sd)
    np.testing.assert_allclose(result.posterior.lfsr, alone.posterior.lfsr)
    np.testing.assert_allclose(result.influence, fit(masks, probabilities, "ridge").influence)


def test_an_effect_in_points_is_that_on_the_probability_even_where_it_is_large():
    rng = np.random.default_rng(0)
    masks = rng.random((400, 6)) < 0.5
    logits = 6 * masks[:, :1] - 2 + 0.3 * rng.normal(size=(400, 20))
    probabilities = 1 / (1 + np.exp(-logits))
    result = fit(masks, probabilities, "hierarchical", logits=logits)
    assert result.posterior.mean[:, 0] == pytest.approx(result.influence[:, 0], rel=0.02)
    assert (probabilities * (1 - probabilities)).mean() * 6 < 0.6 * result.influence[:, 0].mean()


def without_models(moments):
    parts = replace(moments.hierarchy.classes, models=None), replace(moments.hierarchy.logits, models=None)
    hierarchy = replace(moments.hierarchy, classes=parts[0], logits=parts[1])
    return replace(moments, models=None, hierarchy=hierarchy)


@pytest.mark.parametrize("kind", ["random", "hadamard"])
def test_sums_of_parts_are_sums_of_all(kind):
    masks, outputs, labels, effects, _ = planted(kind=kind)
    knowledge = Knowledge(labels, np.full(len(labels), 0.2), {"prior": effects}, outputs**3)
    subsets = collapse(masks, outputs, None, knowledge)
    parts = [subsets.take(units).moments(hierarchy=True) for units in np.array_split(np.arange(subsets.units), 3)]
    everything = without_models(subsets.moments(hierarchy=True))  # which a second pass would go through
    whole, summed = (hierarchical(m) for m in (everything, parts[0] + parts[1] + parts[2]))
    np.testing.assert_allclose(summed.posterior.mean, whole.posterior.mean, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(summed.coefficients, whole.coefficients, rtol=1e-3, atol=1e-3)
    less, sum_of_two = (
        hierarchical(m).posterior for m in (parts[0] + parts[1] + parts[2] - parts[2], parts[0] + parts[1])
    )
    np.testing.assert_allclose(less.sd, sum_of_two.sd, rtol=1e-3)


def test_the_order_of_models_columns_and_groups_and_seeds_that_are_averaged_do_not_matter():
    masks, outputs, labels, effects, _ = planted()
    rng = np.random.default_rng(3)
    result = fit(masks, outputs, "hierarchical", labels=labels, priors={"prior": effects}).posterior.mean
    rows, columns, groups = (rng.permutation(n) for n in (*outputs.shape, masks.shape[1]))
    again = fit(
        masks[rows][:, groups],
        outputs[rows][:, columns],
        "hierarchical",
        labels=labels[columns],
        priors={"prior": effects[:, groups]},
    )
    np.testing.assert_allclose(again.posterior.mean, result[columns][:, groups], atol=1e-8)
    twice = np.repeat(np.arange(64), 2)
    shift = np.tile([0.3, -0.3], 64)[:, None]
    seeds = np.tile([0, 1], 64)
    doubled = fit(masks[twice], outputs[twice] + shift, "hierarchical", seeds, labels=labels, priors={"prior": effects})
    np.testing.assert_allclose(doubled.posterior.mean, result, atol=1e-8)


def test_an_example_that_is_its_class_and_columns_that_never_vary_are_no_trouble():
    masks, outputs, labels, *_ = planted()
    labels = labels.copy()
    labels[3] = CLASSES
    outputs[:, 5] = 0.25
    masks[:, 7] = True
    result = fit(masks, outputs, "hierarchical", labels=labels)
    assert np.isfinite(np.delete(result.posterior.mean, 7, axis=1)).all()
    assert np.isnan(result.posterior.mean[:, 7]).all()
    np.testing.assert_allclose(np.delete(result.posterior.mean[5], 7), 0, atol=1e-12)
    packed = PackedMasks.pack(masks)
    assert np.isfinite(result.predict(packed)).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"labels": [0, 1]}, "labels must be 48 numbers of classes, not int64\\[2\\]"),
        ({"labels": np.full(48, -1)}, "labels must be 48 numbers of classes"),
        ({"labels": np.full(48, 0.5)}, "labels must be 48 numbers of classes, not float64"),
        (
            {"priors": {"mine": np.ones((1, 3))}},
            "prior mine: needs finite numbers \\[1 classes, 24 groups\\], not \\[1, 3\\]",
        ),
        ({"priors": {"mine": np.full((1, 24), np.nan)}}, "prior mine: needs finite numbers"),
        (
            {"priors": {"a": np.ones((1, 24)), "b": np.ones((2, 24))}},
            "priors a, b: all need the same number of classes",
        ),
        ({"logits": np.ones((64, 3))}, "logits need the shape of the outputs, \\(64, 48\\), not \\(64, 3\\)"),
        ({"logits": np.ones((64, 48))}, "logits go with outputs that are probabilities"),
    ],
)
def test_what_does_not_fit_is_one_clear_line(arguments, message):
    masks, outputs, *_ = planted()
    with pytest.raises(SourcewiseError, match=message) as caught:
        fit(masks, outputs, "hierarchical", **arguments)
    assert "\n" not in str(caught.value)


def test_moments_without_a_hierarchy_are_refused():
    masks, outputs, *_ = planted()
    with pytest.raises(SourcewiseError, match="hierarchical needs moments with a hierarchy"):
        ESTIMATORS["hierarchical"].estimate(collapse(masks, outputs).moments())
    assert ridge(collapse(masks, outputs).moments(hierarchy=True)).posterior is None


def test_checks_say_what_priors_bring_and_auto_takes_the_hierarchy_where_it_predicts_best():
    masks, outputs, labels, effects, _ = planted(models=40, sparse=False)
    result = fit(
        masks,
        outputs,
        labels=labels,
        priors={"prior": effects, "noise": np.random.default_rng(5).normal(size=effects.shape)},
    )
    checks = result.checks
    assert checks.estimator == "hierarchical"
    assert set(checks.candidates) == {*ESTIMATORS} - {"ols"}
    assert checks.lds > checks.lds_without_priors + 0.05
    assert abs(checks.prior_weights["prior"]) > 10 * abs(checks.prior_weights["noise"])
    assert checks.lds_interval[0] <= checks.lds <= checks.lds_interval[1]
    alone = fit(masks, outputs, "hierarchical", labels=labels).checks
    assert alone.prior_weights is None
    assert alone.lds == checks.lds_without_priors
