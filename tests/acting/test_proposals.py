"""Proposals of groups to remove: held-out gains are those of the truth, and hold for all numbers at once."""

from itertools import combinations
from typing import Any

import numpy as np
import pytest
from scipy import stats

from sourcewise.acting import curation
from sourcewise.acting.curation import Curation
from sourcewise.core.errors import SourcewiseError
from sourcewise.designs.random_designs import random
from sourcewise.estimation.collapse import Subsets, collapse
from sourcewise.estimation.estimators import ridge
from sourcewise.report.sections.counterfactuals import proposal_sentences

ONE = np.ones(1)
"""The share of a target's only class."""


def models(b: np.ndarray, noise: float, seed: int, count: int = 128, varying: bool = False) -> Subsets:
    rng = np.random.default_rng(seed)
    groups = [str(i) for i in range(len(b))]
    fixed = [random(groups, 0.5, 1000 * seed + i) for i in range(count)]
    masks = rng.random((count, len(b))) < 0.5 if varying else np.array(fixed)
    return collapse(masks, (masks @ b + rng.normal(0, noise, count))[:, None], np.arange(count))


@pytest.mark.slow  # ten seconds
def test_the_winner_s_curse_is_paid_for() -> None:
    result, naive = [], []
    for seed in range(20):
        parts = models(np.zeros(24), 1.0, seed)
        result.append(curation.gains(parts, ONE).value[5])
        slopes = ridge(parts.moments()).influence[0]
        naive.append(-np.sort(slopes - slopes.mean())[:6].sum())
    assert abs(np.mean(result)) < 3 * stats.sem(result)  # there is nothing to gain
    assert np.mean(naive) > 10 * stats.sem(naive)


def test_over_all_subsets_of_one_size_a_held_out_gain_is_exact() -> None:
    masks = np.array([[i in kept for i in range(8)] for kept in combinations(range(8), 4)])
    b = np.random.default_rng(2).normal(size=8)
    train, test = (collapse(masks, (masks @ x)[:, None], np.arange(70)) for x in (1e-9 * np.arange(8.0), b))
    # The order is that of the first, the gain that of the second.
    result, variance = curation._held_out_gain(train, test, ONE)
    assert result == pytest.approx(-np.cumsum(b - b.mean())[:-1], abs=1e-6)
    assert (variance >= 0).all()


@pytest.mark.slow  # ten seconds each
@pytest.mark.parametrize("varying", [False, True])
def test_gains_are_those_of_the_truth_and_their_intervals_hold(varying: bool) -> None:
    b = np.r_[np.full(4, -3.0), np.full(20, 1.0)]
    inside, values = 0, []
    for seed in range(20):
        result = curation.gains(models(b, 2.0, seed, varying=varying), ONE)
        low, high = result.interval()
        truth = 4 * (3.0 + b.mean())
        values.append(result.value[3])
        inside += bool(low[3] <= truth <= high[3])
    assert abs(np.mean(values) - truth) < 0.1 * truth
    assert inside >= 17


@pytest.mark.parametrize("varying", [False, True])
def test_harmful_groups_are_proposed_and_helpful_ones_are_not(varying: bool) -> None:
    b = np.r_[np.full(4, -1.0), np.linspace(0.3, 1, 20)]
    good = 0
    for seed in range(10):
        full = b.sum() + np.random.default_rng(seed).normal(0, 1.0, 5)
        result = curation.propose(models(b, 1.0, seed, varying=varying), ONE, full.tolist())
        good += (~result.keep[:4]).sum() >= 3 and (~result.keep[4:]).sum() <= 2
        assert result.removed == (~result.keep).sum()
    assert good >= 9


@pytest.mark.slow  # sixty proposals take half a minute
@pytest.mark.parametrize("varying", [False, True])
def test_where_nothing_harms_little_is_proposed_and_no_gain_is_claimed(varying: bool) -> None:
    claims, nothing = 0, 0
    for seed in range(60):
        full = np.random.default_rng(seed).normal(0, 1, 5).tolist()
        result = curation.propose(models(np.zeros(16), 1.0, seed, 64, varying), ONE, full)
        claims += result.expected.full.low > 0
        nothing += result.removed == 0
        assert result.expected.removed == (result.removed or result.expected.removed) > 0
    assert claims <= 3  # 13 to 15% without intervals for all numbers at once
    assert nothing >= 24


def test_a_certain_loss_is_called_a_loss_and_nothing_is_removed() -> None:
    b = np.full(16, 1.0)
    result = curation.propose(models(b, 0.3, 0, 64), ONE, [b.sum() + 0.01 * i for i in range(4)])
    assert result.removed == 0
    assert result.keep.all()
    assert result.expected.full.high < 0
    curated = Curation({"pets": 1.0}, (), ("a", "b"), result.expected, {}, "", {}, "")
    text = "\n".join(proposal_sentences(curated, "prob"))
    assert "Proposed: remove none of 2 groups" in text
    assert "By these models the removal is a loss: keep the full source." in text
    assert "cannot tell" not in text


def test_the_width_is_that_of_one_interval_for_one_number_and_grows_with_their_number() -> None:
    subsets = models(np.zeros(16), 1.0, 0)
    one, many = (curation.simultaneous_width(subsets, np.arange(n), 1000.0) for n in (1, 15))
    assert one == pytest.approx(1.96, abs=0.12)
    assert 2.3 < many < stats.norm.isf(0.025 / 15)  # Bonferroni's is larger


def test_no_more_is_proposed_than_random_subsets_go_without() -> None:
    b = np.linspace(-2, -1, 24)  # every group hurts
    assert curation.propose(models(b, 0.1, 0), ONE, [b.sum()] * 3).removed == 12


def test_a_proposal_removes_as_many_groups_as_are_asked_for() -> None:
    b, full = np.linspace(-1, 1, 16), [0.0, 0.1, 0.2]
    proposal = curation.propose(models(b, 0.1, 0), ONE, full, remove=3)
    assert np.flatnonzero(~proposal.keep).tolist() == [0, 1, 2]
    assert proposal.expected.removed == 3
    with pytest.raises(SourcewiseError, match="remove=15: these random subsets hold evidence of removing 8 groups"):
        curation.propose(models(b, 0.1, 0), ONE, full, remove=15)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"cats": 1}, "curate.cats: no such target"),
        ({"pets": 0}, "above 0"),
        ({"pets": True}, "above 0"),
        ("pets", "give true, or weights"),
    ],
)
def test_bad_weights_are_one_clear_line(setting: Any, message: str) -> None:
    with pytest.raises(SourcewiseError, match=message):
        curation.target_weights(setting, ["pets", "birds"])
    assert curation.target_weights(True, ["pets", "birds"]) == {"pets": 0.5, "birds": 0.5}
    assert curation.target_weights({"birds": 3}, ["pets", "birds"]) == {"birds": 1.0}
