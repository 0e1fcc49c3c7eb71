"""The interval of the LDS: its parts against brute force, and how often it covers what was planted."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from sourcewise.estimation import score_interval as interval
from sourcewise.estimation.collapse import Subsets, collapse
from sourcewise.estimation.estimators import ESTIMATORS, RIDGE
from sourcewise.estimation.scoring import correlation, cross_fitted_lds, predictions, ranks
from tests.estimation.test_calibration import design

GROUPS, COLUMNS = 36, 70


def by_class(rng, rows, classes=7):
    """Noise float[rows, COLUMNS] of unit variance, half of it shared by the outputs of a class."""
    shared = rng.normal(size=(rows, classes))[:, np.arange(COLUMNS) % classes]
    return (shared + rng.normal(size=(rows, COLUMNS))) / np.sqrt(2)


def planted(kind, models, rng, signal=1.0, fresh=1000):
    """Subsets of a study whose noise has the variance of all effects, and fresh masks with their outputs."""
    masks = np.concatenate([design(kind, GROUPS, models, rng), design(kind, GROUPS, fresh, rng)])
    outputs = signal * masks @ by_class(rng, GROUPS) + 3 * by_class(rng, len(masks))
    return collapse(masks[:models], outputs[:models]), masks[models:], outputs[models:]


def spearman(left, right):
    return correlation(ranks(left), ranks(right), np.ones((1, len(left))))[0]


def true_lds(subsets, masks, outputs, estimator=RIDGE):
    slopes = estimator.estimate_subsets(subsets, second_pass=False).slopes
    return spearman(masks @ slopes.T, outputs)


@given(st.integers(1, 30), st.integers(1, 5), st.integers(1, 40), st.sampled_from([np.float16, np.float32, np.float64]))
def test_ranks_are_those_of_scipy(rows, columns, levels, dtype):
    table = (np.random.default_rng(rows).integers(0, levels, (rows, columns)) / 7).astype(dtype)
    expected = stats.rankdata(table.astype(np.float64), axis=0) - (rows + 1) / 2
    np.testing.assert_array_equal(ranks(table), expected)


def pairs(rng):
    return planted("hadamard", 48, rng, fresh=2)[0]


def test_the_jackknife_leaves_out_each_unit_with_ranks_kept():
    subsets = pairs(np.random.default_rng(0))
    fold = subsets.folds()
    predicted = predictions(subsets, RIDGE, fold)
    score, variance = interval._jackknife(predicted, subsets, fold, 35)
    expected = np.zeros(2)
    for f in range(fold.max() + 1):
        rows = fold == f
        left, right, unit = ranks(predicted[rows]), ranks(subsets.outputs[rows]), subsets.unit[rows]
        np.testing.assert_allclose(score[f], spearman(predicted[rows], subsets.outputs[rows]))
        without = np.array([correlation(left, right, 1.0 * (unit != u)[None])[0] for u in np.unique(unit)])
        means = without.reshape(len(without), 2, 35).mean(2)
        expected += ((means - means.mean(0)) ** 2).sum(0) * (len(means) - 1) / len(means)
    np.testing.assert_allclose(variance, expected / (fold.max() + 1) ** 2)


@pytest.mark.parametrize("kind", ["random", "bernoulli", "uneven", "mixed"])
def test_scores_on_fresh_subsets_are_those_of_fresh_subsets(kind):
    rng = np.random.default_rng(1)
    masks = design(kind, 24, 8000, rng)
    subsets = collapse(masks[:4], rng.normal(size=(4, 5)))
    subsets = Subsets(type(subsets.masks).pack(masks), subsets.outputs, subsets.runs, subsets.unit)
    effects, slopes = rng.normal(size=(2, 5, 24))
    slopes += effects + 1
    effects /= np.sqrt(2 * (masks @ effects.T).var(0))[:, None]
    predicted, signal = masks @ slopes.T, masks @ effects.T
    covariance = ((predicted - predicted.mean(0)) * (signal - signal.mean(0))).mean(0)
    np.testing.assert_allclose(interval._covariance(slopes, effects, subsets.masks), covariance, atol=0.1)
    outputs = signal + rng.normal(0, np.sqrt(0.5), signal.shape)
    measured = interval._score_on_fresh(slopes, effects, subsets.masks)
    np.testing.assert_allclose(measured, spearman(predicted, outputs), atol=0.05)


def test_outputs_are_dealt_in_whole_rows_and_pairs_among_pairs():
    rng = np.random.default_rng(2)
    masks = np.concatenate([design("hadamard", 36, 48, rng), design("random", 36, 13, rng)])
    subsets = collapse(masks, rng.normal(size=(61, 6)))
    assert subsets.pairs == 24
    dealt, effects = interval._planted(subsets, np.arange(6), np.array([0.0, 0.5]), np.random.default_rng(0))
    table = stats.zscore(subsets.outputs, axis=0)
    distance = np.abs(dealt.outputs[:, None, :6] - table[None]).max(2)
    source = distance.argmin(1)
    assert distance.min(1).max() < 1e-5
    assert sorted(source) == list(range(61))
    assert (source != np.arange(61)).sum() > 40
    assert set(source[:48]) == set(range(48))
    assert (source[0:48:2] // 2 == source[1:48:2] // 2).all()
    assert not effects[:6].any()
    np.testing.assert_allclose(interval._covariance(effects[6:], effects[6:], subsets.masks), 0.5)


@pytest.mark.parametrize("estimator", ["difference", "ridge"])
def test_an_interval_holds_the_score_and_does_not_depend_on_the_order_of_records(estimator):
    rng = np.random.default_rng(3)
    subsets, _, _ = planted("hadamard", 40, rng, fresh=2)
    order = rng.permutation(40)
    shuffled = collapse(subsets.masks.unpack()[order], subsets.outputs[order])
    low, high = interval.score_interval(subsets, ESTIMATORS[estimator])
    assert -1 <= low <= cross_fitted_lds(subsets, ESTIMATORS[estimator]) < high <= 1
    np.testing.assert_allclose(interval.score_interval(shuffled, ESTIMATORS[estimator]), (low, high), atol=2e-3)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_an_estimate_without_errors_has_the_same_influences_and_predictions(estimator):
    subsets, _, _ = planted("uneven", 120, np.random.default_rng(5), fresh=2)
    full = ESTIMATORS[estimator].estimate_subsets(subsets)
    quick = ESTIMATORS[estimator].estimate_subsets(subsets, second_pass=False)
    np.testing.assert_allclose(quick.influence, full.influence)
    np.testing.assert_allclose(quick.slopes, full.slopes)


def test_the_error_is_at_least_the_noise_share_of_scores_dealt_anew(monkeypatch):
    masks = design("random", 8, 12, np.random.default_rng(4))
    monkeypatch.setattr(interval, "_simulated", lambda *_: (0.04, 0.5, 1.2))
    for variance, total in ((0.0, 0.6**2 * 0.04), (0.1, 0.1 * (1 + 0.6**2 * 0.5))):
        scores = np.full((2, 3), 0.4), np.array([variance])
        monkeypatch.setattr(interval, "_jackknife", lambda *_, scores=scores: scores)
        ends = interval.score_interval(collapse(masks, np.zeros((12, 3))), RIDGE, np.zeros((12, 3)))
        error = stats.t.ppf(0.975, 10) * np.sqrt(total)
        np.testing.assert_allclose(ends, np.clip([1.2 * (0.4 - error), 1.2 * (0.4 + error)], -1, 1))


def test_constant_outputs_have_no_interval():
    masks = design("random", 8, 20, np.random.default_rng(4))
    assert np.isnan(interval.score_interval(collapse(masks, np.ones((20, 2))), RIDGE)).all()


@pytest.mark.slow
@pytest.mark.parametrize("models", [12, 48])
def test_the_interval_covers_the_lds_of_the_fit_of_all_models(models):
    """A bootstrap over held-out subsets alone covers it in 4 to 5 of 40 studies of 48 models."""
    covered = 0
    for seed in range(40):
        subsets, masks, outputs = planted("random", models, np.random.default_rng(seed))
        low, high = interval.score_interval(subsets, RIDGE)
        covered += low <= true_lds(subsets, masks, outputs).mean() <= high
    assert covered >= 35  # at 95%, fewer have a probability of 1%


@pytest.mark.slow
def test_without_effects_the_interval_rarely_lies_above_zero():
    above = 0
    for seed in range(60):
        subsets, _, _ = planted("random", 48, np.random.default_rng(seed), signal=0.0, fresh=2)
        above += interval.score_interval(subsets, RIDGE)[0] > 0
    assert above <= 4  # at 2.5%, more have a probability of 2%
