"""Agreement of two studies: near the truth, covered by its interval, and no differences where there are none."""

import numpy as np
import pytest

from sourcewise.estimation.agreement import Table, agreement, disagreement, shared_agreement
from sourcewise.estimation.collapse import collapse
from sourcewise.estimation.ridge import RIDGE

RELIABILITY = 0.5, 0.8


def studies(correlation: float, seed: int, groups: int = 36, rows: int = 1, alike: float = 0.0) -> tuple[Table, Table]:
    """True influences of this correlation with noise on them, in other units and from other zeros.

    alike: share of the variance that all rows have in common.
    """
    rng = np.random.default_rng([seed, groups, rows])
    shared, single = rng.normal(size=(2, 1, groups)), rng.normal(size=(2, rows, groups))
    first, rest = np.sqrt(alike) * shared + np.sqrt(1 - alike) * single
    truth = first, correlation * first + np.sqrt(1 - correlation**2) * rest
    noise = [np.full((rows, groups), np.sqrt(1 / reliability - 1)) for reliability in RELIABILITY]
    a, b = (value + error * rng.normal(size=error.shape) for value, error in zip(truth, noise, strict=True))
    return Table(a, noise[0], 100), Table(7 + 30 * b, 30 * noise[1], 100)


@pytest.mark.parametrize(("correlation", "rows", "alike"), [(0.0, 1, 0), (0.5, 1, 0), (0.5, 5, 0.5), (1.0, 1, 0)])
def test_the_corrected_correlation_is_near_the_truth_and_its_interval_covers_it(
    correlation: float, rows: int, alike: float
) -> None:
    results = [agreement(*studies(correlation, seed, rows=rows, alike=alike)) for seed in range(40)]
    covered = [item.low - 1e-9 <= correlation <= item.high + 1e-9 for item in results]
    assert np.mean(covered) >= 0.85
    assert np.mean([item.corrected for item in results]) == pytest.approx(correlation, abs=0.1)
    ceiling = np.sqrt(np.prod(RELIABILITY))
    assert np.mean([item.ceiling for item in results]) == pytest.approx(ceiling, abs=0.06)
    assert np.mean([item.correlation for item in results]) == pytest.approx(correlation * ceiling, abs=0.08)


def test_correlation_is_numpys_and_unknown_groups_are_left_out() -> None:
    first, second = studies(0.6, 0)
    results = agreement(first, second)
    assert results.correlation == pytest.approx(np.corrcoef(first.influence, second.influence)[0, 1])
    first.influence[0, 3] = second.stderr[0, 5] = np.nan
    keep = np.setdiff1d(np.arange(36), [3, 5])
    again = agreement(first, second)
    assert again.groups == 34
    assert again.correlation == pytest.approx(np.corrcoef(first.influence[0, keep], second.influence[0, keep])[0, 1])


def test_noise_alone_and_few_groups_cannot_tell() -> None:
    rng = np.random.default_rng(0)
    noise = [Table(rng.normal(size=(1, 14)), np.ones((1, 14)), 50) for _ in range(2)]
    assert not agreement(*noise).is_known
    few = agreement(*studies(0.9, 1, groups=4))
    assert few.groups == 4
    assert not few.is_known
    same = Table(np.ones((1, 9)), np.zeros((1, 9)), 50)
    assert not agreement(same, same).is_known
    exact = Table(np.arange(9.0)[None], np.zeros((1, 9)), 50)
    assert agreement(exact, exact).corrected == pytest.approx(1)


def test_differences_are_false_as_rarely_as_promised_and_a_planted_one_is_found() -> None:
    false = sum((disagreement(*studies(1.0, seed), same_unit=False)[2] <= 0.05).any() for seed in range(60))
    assert false <= 9  # at most 5% expected
    first, second = studies(1.0, 3)
    second.influence[0, 7] -= 30 * 5
    difference, _, q = disagreement(first, second, same_unit=False)
    assert q[0, 7] <= 0.01
    assert difference[0, 7] > 2


def test_differences_in_one_unit_are_those_of_the_influences_relative_to_their_mean() -> None:
    first, second = studies(0.5, 0, rows=2)
    difference, stderr, _ = disagreement(first, second, same_unit=True)
    raw = first.influence - second.influence
    np.testing.assert_allclose(difference, raw - raw.mean(1, keepdims=True))
    np.testing.assert_allclose(stderr, np.sqrt(first.stderr**2 + second.stderr**2))


@pytest.mark.parametrize("correlation", [0.0, 0.6, 1.0])
def test_outputs_of_the_same_models_agree_as_their_effects_do_whatever_noise_they_share(correlation: float) -> None:
    groups, columns, results = 24, 3, []
    for seed in range(25):
        rng = np.random.default_rng([seed, 7])
        masks = np.array([rng.permutation(groups) < groups // 2 for _ in range(120)])
        first, rest = rng.normal(size=(2, columns, groups))
        second = correlation * first + np.sqrt(1 - correlation**2) * rest
        of_model = 3 * rng.normal(size=(120, columns))  # what a source model does to both
        outputs = [masks @ effects.T + of_model + 0.5 * rng.normal(size=(120, columns)) for effects in (first, second)]
        results.append(shared_agreement(collapse(masks, np.hstack(outputs)), columns, RIDGE))
    assert np.mean([item.corrected for item in results]) == pytest.approx(correlation, abs=0.12)
    assert np.mean([item.low <= correlation <= item.high for item in results]) >= 0.85
    assert all(0.2 < item.ceiling < 0.9 for item in results)


def test_outputs_without_effects_cannot_tell_how_they_agree() -> None:
    rng = np.random.default_rng(0)
    masks = np.array([rng.permutation(20) < 10 for _ in range(60)])
    noise = rng.normal(size=(60, 4))
    assert not shared_agreement(collapse(masks, np.hstack([noise, noise])), 4, RIDGE).is_known
    assert not shared_agreement(collapse(masks[:, :4], np.hstack([noise, noise])), 4, RIDGE).is_known


def test_studies_that_share_their_noise_cannot_be_compared():
    rng = np.random.default_rng(0)
    for true in (0.0, 0.3):
        noise = rng.normal(size=(10, 36))
        tables = [Table(true * rng.normal(size=noise.shape) + noise, np.ones_like(noise), 64) for _ in range(2)]
        result = agreement(*tables)
        assert result.correlation > 0.8 > result.ceiling
        assert not result.is_known
        assert np.isnan(result.corrected)
