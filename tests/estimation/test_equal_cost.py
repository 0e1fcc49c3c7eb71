"""What models of one cost bring: scores against brute force, and errors against studies that are drawn again."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from sourcewise.estimation import equal_cost
from sourcewise.estimation.collapse import Knowledge, Subsets, collapse
from sourcewise.estimation.equal_cost import ProxySample, Purchase, compare
from sourcewise.estimation.hierarchical import HIERARCHICAL

GROUPS, CLASSES = 12, 4
EFFECTS = np.random.default_rng(0).normal(size=(CLASSES, GROUPS))


def recipe(rng: np.random.Generator, units: int = 24, noise: float = 2.0) -> Subsets:
    masks = rng.random((units, GROUPS)) < 0.5
    outputs = masks @ EFFECTS.T + noise * rng.normal(size=(units, CLASSES))
    return collapse(masks, outputs, None, Knowledge(np.arange(CLASSES), np.ones(CLASSES), {}))


def proxy(rng: np.random.Generator, units: int, noise: float) -> ProxySample:
    """A proxy whose effects are the mean over its units."""
    by_unit = EFFECTS + noise * rng.normal(size=(units, CLASSES, GROUPS))
    return ProxySample(units, lambda members: by_unit[members].mean(0))


def spearman(predicted: np.ndarray, outputs: np.ndarray) -> float:
    return float(np.mean([stats.spearmanr(*pair).statistic for pair in zip(predicted.T, outputs.T, strict=True)]))


@settings(max_examples=30)
@given(st.integers(1, 40), st.integers(1, 20), st.integers(0, 5))
def test_parts_are_disjoint_and_the_halves_of_a_deal_share_each_evenly(units: int, size: int, deal: int) -> None:
    everything = equal_cost._parts(units, size, equal_cost.ALL)
    assert [len(part) for part in everything] == [size] * min(units // size, equal_cost.PARTS)
    assert len(np.unique(np.concatenate([[], *everything]))) == size * len(everything)
    halves = [equal_cost._parts(units, size, ("", deal, side)) for side in (0, 1)]
    for part, first, second in zip(everything, *halves, strict=True):
        assert sorted([*first, *second]) == sorted(part)
        assert abs(len(first) - len(second)) <= 2
    sides = [equal_cost._members(units, ("", deal, side)) for side in (0, 1)]
    np.testing.assert_array_equal(sides[0], ~sides[1])


def test_scores_are_those_of_models_that_the_purchase_does_not_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(equal_cost, "DEALS", 1)
    rng = np.random.default_rng(2)
    subsets, sample = recipe(rng), proxy(rng, 20, 3.0)
    purchases = [Purchase(8), Purchase(0, "p", 10), Purchase(8, "p", 10)]
    values, _ = compare(purchases, subsets, {"p": sample})
    masks, outputs, order = subsets.masks.unpack(), subsets.outputs, np.random.default_rng(0).permutation(24)
    halves = np.random.default_rng(0).permutation(20).reshape(2, 10)
    tables = [sample.effects(half) for half in halves]
    alone, together = [], []
    for start, table in zip((0, 8), tables, strict=True):
        part, rest = order[start : start + 8], np.delete(order, range(start, start + 8))
        units = np.argsort(subsets.unit)  # the row of each unit
        known, held_out = masks[units[part]], units[rest]
        for scores, priors in ((alone, {}), (together, {"p": table})):
            knowledge = Knowledge(np.arange(CLASSES), np.ones(CLASSES), priors)
            fitted = HIERARCHICAL.estimate_subsets(collapse(known, outputs[units[part]], None, knowledge))
            scores.append(spearman(masks[held_out] @ fitted.slopes.T, outputs[held_out]))
    by_proxy = [spearman(masks @ table.T, outputs) for table in tables]
    np.testing.assert_allclose(values, [np.mean(alone), np.mean(by_proxy), np.mean(together)], atol=1e-6)


def test_errors_are_those_of_studies_that_are_drawn_again() -> None:
    scores, variances = [], []
    for seed in range(24):
        rng = np.random.default_rng(seed)
        samples = {"good": proxy(rng, 16, 2.0), "bad": proxy(rng, 16, 8.0)}
        purchases = [Purchase(0, "good", 16), Purchase(0, "bad", 16)]
        values, distances = compare(purchases, recipe(rng), samples)
        scores.append([*values, values[0] - values[1]])
        variances.append([*(distances**2).sum(0), ((distances @ [1, -1]) ** 2).sum()])
    assert np.mean(scores, axis=0)[2] > 0.2
    ratio = np.sqrt(np.mean(variances, axis=0)) / np.std(scores, axis=0, ddof=1)
    assert (ratio > 0.7).all()
    assert (ratio < 1.5).all(), ratio
