"""Noise ceiling, split-half reliability and the forecast of the models needed, on data whose truth is planted."""

import numpy as np
import pytest

from sourcewise.designs.random_designs import hadamard
from sourcewise.estimation.checks import Checks, describe
from sourcewise.estimation.collapse import collapse
from sourcewise.estimation.estimators import DIFFERENCE, RIDGE
from sourcewise.estimation.fitting import fit
from sourcewise.estimation.reliability import GOAL, forecast, more_models, noise_ceiling, split_half
from tests.estimation.test_calibration import design

COLUMNS = 70


def ceilings(subsets, signal, repeats=30):
    """Ceiling of each of some studies of subsets x 2 seeds; signal: variance between subsets, that of noise is one."""
    results = []
    for seed in range(repeats):
        rng = np.random.default_rng([seed, subsets])
        masks = np.repeat(design("random", 36, subsets, rng), 2, axis=0)
        between = rng.normal(0, np.sqrt(signal), (subsets, COLUMNS))
        outputs = np.repeat(between, 2, axis=0) + rng.normal(size=(2 * subsets, COLUMNS))
        ceiling = noise_ceiling(collapse(masks, outputs, np.tile([0, 1], subsets)))
        results.append((ceiling.value, ceiling.low, ceiling.high))
    return np.array(results).T


@pytest.mark.parametrize("subsets", [12, 48, 200])
def test_without_any_signal_the_ceiling_reaches_zero(subsets):
    value, low, _ = ceilings(subsets, 0.0)
    assert (low == 0).mean() >= 0.9
    assert value.mean() < 0.13  # 0.26, 0.20 and 0.16 as a mean of roots
    assert np.median(value) < 0.1


@pytest.mark.parametrize("subsets", [12, 48])
def test_the_interval_of_the_ceiling_covers_the_truth(subsets):
    value, low, high = ceilings(subsets, 0.5)
    truth = np.sqrt(0.5 / (0.5 + 0.5))
    assert value.mean() == pytest.approx(truth, abs=0.03)
    assert ((low <= truth) & (truth <= high)).mean() >= 0.9


def planted(b, models=96, noise=1.0, seed=0):
    rng = np.random.default_rng(seed)
    masks = design("bernoulli", b.shape[1], models, rng)
    return masks, masks @ b.T + rng.normal(0, noise, (models, len(b)))


def test_one_output_that_is_no_noise_does_not_make_the_others_reliable():
    b = np.zeros((10, 36))
    b[0] = np.random.default_rng(1).normal(0, 8, 36)
    result = fit(*planted(b), "ridge", level="class")
    assert result.checks.split_half > GOAL
    assert result.checks.split_half_median < 0.3
    assert result.verdict.startswith("Influences at class level are mostly noise: split-half reliability 0.")
    assert "in the median output" in result.verdict


def test_one_group_that_carries_all_does_not_make_the_others_reliable():
    b = np.zeros((10, 36))
    b[:, 7] = 8
    result = fit(*planted(b), "ridge", level="class")
    assert min(result.checks.split_half, result.checks.split_half_median) > GOAL
    assert result.checks.split_half_without_largest < 0.3
    assert "class level are mostly noise" in result.verdict
    assert "without the largest group" in result.verdict


def test_reliability_is_that_of_the_influences_of_two_halves():
    masks, outputs = planted(np.random.default_rng(2).normal(0, 0.5, (6, 9)))
    subsets = collapse(masks, outputs)
    result = split_half(subsets, DIFFERENCE, seed=3)
    rng, expected = np.random.default_rng(3), []
    for _ in range(4):
        halves = np.split(rng.permutation(96), [48])
        first, second = (DIFFERENCE.estimate_subsets(subsets.take(half)).influence for half in halves)

        def pooled(keep, first=first, second=second):
            pair = [(a[:, keep] - a[:, keep].mean(1, keepdims=True)).ravel() for a in (first, second)]
            return pair[0] @ pair[1] / np.sqrt((pair[0] @ pair[0]) * (pair[1] @ pair[1]))

        spread = [((a - a.mean(1, keepdims=True)) ** 2).sum(0) for a in (first, second)]
        without = [pooled(np.arange(9) != k) for k in range(9)]
        each = [np.corrcoef(first[e], second[e])[0, 1] for e in range(6)]
        error = np.sqrt(8 / 9 * np.sum((without - np.mean(without)) ** 2))
        expected.append([pooled(np.arange(9)), error, np.median(each), without[np.argmax(spread[0] + spread[1])]])
    measured = [result.pooled, result.error, result.median, result.without_largest]
    np.testing.assert_allclose(measured, np.mean(expected, axis=0), atol=1e-9)


def test_words_follow_the_worst_reliability():
    numbers = {"lds": 0.5, "lds_interval": (0.4, 0.6), "noise_ceiling": None, "more_models": 0, "candidates": {}}
    checks = Checks(estimator="ridge", split_half=0.9, split_half_median=0.85, verdict="", **numbers)
    assert describe(checks, "class").startswith(
        "Influences at class level are reliable: split-half reliability 0.90, LDS"
    )


@pytest.mark.parametrize("estimator", [DIFFERENCE, RIDGE], ids=lambda estimator: estimator.name)
def test_a_forecast_from_32_hadamard_models_is_within_a_factor_of_one_and_a_half(estimator):
    masks = np.array([hadamard(range(36), seed) for seed in range(1024)])
    ratios, inside, truth = [], [], 0.0
    for seed in range(16):
        rng = np.random.default_rng(seed)
        outputs = masks @ rng.normal(0, 1, (36, COLUMNS)) + rng.normal(0, 3, (1024, COLUMNS))
        subsets = collapse(masks[:32], outputs[:32])
        needed = forecast(split_half(subsets, estimator), subsets, estimator)
        if not truth:
            counts = [256, 384, 512, 640, 768, 1024]
            reached = [split_half(collapse(masks[:n], outputs[:n]), estimator).pooled for n in counts]
            truth = float(np.interp(GOAL, reached, counts))
            assert counts[0] < truth < counts[-1]
        ratios.append((32 + needed.value) / truth)
        inside.append(32 + needed.low <= truth and (needed.high is None or truth <= 32 + needed.high))
    assert 1 / 1.4 < np.median(ratios) < 1.4
    assert np.mean([1 / 1.5 <= ratio <= 1.5 for ratio in ratios]) >= 0.85
    assert np.mean(inside) >= 0.85


def test_more_models_is_spearman_brown_and_knows_its_limits():
    assert more_models(0.5, 100) == 300  # r = 0.5 doubles to 2/3, ... and 0.8 needs a factor of 4
    assert more_models(0.85, 100) == 0
    assert more_models(0.0, 100) is None
    assert more_models(float("nan"), 100) is None
    assert more_models(0.5, 100, groups=20, joint=True) < 300
