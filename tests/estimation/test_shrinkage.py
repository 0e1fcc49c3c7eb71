"""Adaptive shrinkage: against numerical integration, planted distributions, and what it promises of its intervals."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, stats

from sourcewise.estimation.shrinkage import (
    Mixture,
    Posterior,
    adaptive_posterior,
    fit_mixture,
    normal_posterior,
    shrink,
    with_far_effects,
)


def symmetric(scales: list[float], weights: list[float]) -> Mixture:
    """Whole normals."""
    return Mixture(np.array([*scales, *(-s for s in scales)]), np.array([*weights, *weights]) / 2)


SPARSE = symmetric([0.05, 0.5, 4.0], [0.5, 0.3, 0.2])
DENSE = symmetric([1.0], [1.0])
SKEWED = Mixture(np.array([-0.3, 0.3, 5.0]), np.array([0.5, 0.4, 0.1]))


def draw(rng: np.random.Generator, shape: tuple[int, int], mixture: Mixture) -> np.ndarray:
    scale = rng.choice(mixture.scales, size=shape, p=mixture.weights)
    return np.abs(rng.normal(size=shape)) * scale


@given(estimate=st.floats(-5, 5), error=st.floats(0.1, 3), expected=st.floats(-2, 2))
def test_the_posterior_is_that_of_numerical_integration(estimate: float, error: float, expected: float) -> None:
    mixture = Mixture(np.array([-0.7, 0.3, 2.0]), np.array([0.3, 0.4, 0.3]))
    x = np.linspace(-14, 14, 28001)
    prior = np.zeros_like(x)
    for weight, scale in zip(mixture.weights, mixture.scales, strict=True):
        prior += weight * 2 * stats.norm.pdf(x, expected, abs(scale)) * (np.sign(x - expected) == np.sign(scale))
    values = prior * stats.norm.pdf(estimate, x, error)
    total = integrate.simpson(values, x=x)
    mean = integrate.simpson(values * x, x=x) / total
    spread = np.sqrt(integrate.simpson(values * (x - mean) ** 2, x=x) / total)
    wrong = integrate.simpson(np.where(np.sign(x) != np.sign(mean), values, 0), x=x) / total
    result = shrink(np.array([[estimate]]), np.array([[error]]), np.array([[expected]]), mixture)
    assert result.mean[0, 0] == pytest.approx(mean, abs=2e-3)
    assert result.sd[0, 0] == pytest.approx(spread, abs=5e-3)
    if abs(mean) > 0.01:
        assert result.lfsr[0, 0] == pytest.approx(wrong, abs=2e-2)


def test_an_effect_of_zero_counts_as_a_wrong_sign() -> None:
    never = shrink(np.array([[3.0, -3.0]]), np.ones((1, 2)), 0.0, Mixture(np.zeros(1), np.ones(1)))
    np.testing.assert_array_equal(never.mean, 0)
    np.testing.assert_array_equal(never.lfsr, 1)
    half = shrink(np.array([[9.0, -9.0]]), np.full((1, 2), 1e-3), 0.0, SPARSE)
    np.testing.assert_allclose(half.mean, [[9, -9]], rtol=1e-3)
    np.testing.assert_allclose(half.lfsr, 0, atol=1e-9)
    some = shrink(
        np.array([[1.0]]), np.ones((1, 1)), 0.0, Mixture(np.array([0.0, 1.0, -1.0]), np.array([0.5, 0.25, 0.25]))
    )
    zero = stats.norm.pdf(1) / (stats.norm.pdf(1) + stats.norm.pdf(1, scale=np.sqrt(2)))
    assert some.lfsr[0, 0] == pytest.approx(zero + (1 - zero) * stats.norm.cdf(-0.5 / np.sqrt(0.5)))


def test_what_is_unknown_stays_so_and_what_has_no_error_is_taken_as_it_is() -> None:
    result = adaptive_posterior(np.array([[np.nan, 1.0, -1.0, 0.4]]), np.array([[1.0, 0.0, 0.0, 0.3]]))
    assert np.isnan([result.mean[0, 0], result.sd[0, 0], result.lfsr[0, 0]]).all()
    np.testing.assert_allclose(result.mean[0, 1:3], [1, -1])
    np.testing.assert_allclose(result.sd[0, 1:3], 0, atol=1e-9)
    assert abs(result.mean[0, 3]) < 0.4


@pytest.mark.parametrize("mixture", [SPARSE, DENSE, SKEWED])
def test_intervals_cover_and_lfsr_is_the_rate_of_wrong_signs(mixture: Mixture) -> None:
    rng = np.random.default_rng(0)
    truth = draw(rng, (200, 100), mixture)
    error = rng.uniform(0.3, 1.5, truth.shape)
    estimate = truth + error * rng.normal(size=truth.shape)
    result = shrink(estimate, error, 0.0, fit_mixture(estimate, error))
    best = shrink(estimate, error, 0.0, mixture)
    assert ((result.mean - truth) ** 2).mean() < 1.02 * ((best.mean - truth) ** 2).mean()
    inside = np.abs(truth - result.mean) <= 1.96 * result.sd + 1e-9
    assert 0.92 < inside.mean() < 0.98
    wrong = np.sign(truth) != np.sign(result.mean)
    for low, high in ((0.0, 0.05), (0.05, 0.2), (0.2, 0.5)):
        cell = (result.lfsr >= low) & (result.lfsr < high)
        if cell.sum() > 300:
            assert wrong[cell].mean() < result.lfsr[cell].mean() + 0.03
            if mixture is DENSE:  # the others have effects that nobody can tell from zero, whose sign counts as wrong
                assert wrong[cell].mean() > result.lfsr[cell].mean() - 0.03


def test_estimates_of_nothing_shrink_to_nothing() -> None:
    influence = np.random.default_rng(4).normal(size=(60, 40))
    for table in (influence, influence - influence.mean(1, keepdims=True)):
        result = adaptive_posterior(table, np.ones((60, 40)))
        assert np.abs(result.mean).mean() < 0.05
        assert np.median(result.lfsr) > 0.4


def test_the_largest_of_many_are_not_too_large() -> None:
    rng = np.random.default_rng(1)
    truth = draw(rng, (50, 100), SPARSE)
    estimate = truth + rng.normal(size=truth.shape)
    largest = np.argsort(-np.abs(estimate), axis=None)[:300]
    result = adaptive_posterior(estimate, np.ones_like(estimate))
    naive, shrunken = (np.abs(table.ravel()[largest]).mean() for table in (estimate, result.mean))
    real = (truth * np.sign(estimate)).ravel()[largest].mean()
    assert naive > 1.05 * real
    assert shrunken == pytest.approx(real, rel=0.02)


def test_the_worst_are_not_taken_to_be_as_large_as_the_best() -> None:
    rng = np.random.default_rng(6)
    truth = draw(rng, (60, 36), SKEWED)
    estimate = truth + rng.normal(size=truth.shape)
    result = adaptive_posterior(estimate, np.ones_like(estimate)).mean
    best, worst = np.argsort(-result, axis=None)[:50], np.argsort(result, axis=None)[:50]
    assert result.ravel()[best].mean() == pytest.approx(truth.ravel()[best].mean(), rel=0.05)
    assert result.ravel()[worst].mean() > 2 * truth.ravel()[worst].mean()
    assert estimate.ravel()[worst].mean() < 4 * truth.ravel()[worst].mean()


def test_rows_shrink_towards_their_mean_where_that_is_more_likely_whose_error_stays() -> None:
    result = adaptive_posterior(np.random.default_rng(2).normal(5, 1, (40, 30)), np.ones((40, 30)))
    assert 4 < result.mean.min() < result.mean.max() < 6
    assert result.sd.min() >= np.sqrt(1 / 30)
    few = np.where(np.arange(30) < 2, 9.0, 0.0) + np.random.default_rng(2).normal(0, 1, (40, 30))
    assert np.abs(adaptive_posterior(few, np.ones((40, 30))).mean[:, 2:].mean()) < 0.05


@settings(max_examples=20, deadline=None)
@given(scale=st.floats(1e-6, 1e6))
def test_units_do_not_matter(scale: float) -> None:
    rng = np.random.default_rng(3)
    estimate, error = rng.normal(size=(6, 9)) * 2, rng.uniform(0.5, 1.5, (6, 9))
    plain, scaled = adaptive_posterior(estimate, error), adaptive_posterior(scale * estimate, scale * error)
    np.testing.assert_allclose(scaled.mean, scale * plain.mean, rtol=1e-6, atol=1e-9 * scale)
    np.testing.assert_allclose(scaled.lfsr, plain.lfsr, atol=1e-6)


def test_a_normal_posterior_has_the_tail_of_the_normal_distribution() -> None:
    result = normal_posterior(np.array([[2.0, -1.0, 0.0, 1.0, np.nan]]), np.array([[1.0, 2.0, 1.0, 0.0, 1.0]]))
    np.testing.assert_allclose(result.lfsr[0], [stats.norm.sf(2), stats.norm.sf(0.5), 0.5, 0, np.nan])


def test_single_effects_far_from_all_others_are_believed_and_nothing_else_changes() -> None:
    rng = np.random.default_rng(0)
    stderr, shape = rng.uniform(0.1, 0.3, (200, 50)), (200, 50)
    truth, dof = rng.normal(0, 0.1, shape), np.full(shape, 20.0)

    def drawn() -> tuple[Posterior, np.ndarray]:
        """The posterior of normal effects, which knows nothing of others, and unbiased estimates."""
        estimate, kept = truth + stderr * rng.standard_t(dof), 0.1**2 / (0.1**2 + stderr**2)
        return normal_posterior(kept * np.where(far, 0.0, estimate), np.sqrt(kept) * stderr), estimate

    far = np.zeros(shape, bool)
    posterior, estimate = drawn()
    even = with_far_effects(posterior, estimate, stderr, dof)
    assert np.abs(even.mean - posterior.mean).max() < 0.03
    far = rng.random(shape) < 0.002
    truth[far] += rng.choice([-3.0, 3.0], far.sum())
    posterior, estimate = drawn()
    result = with_far_effects(posterior, estimate, stderr, dof)
    near = np.abs(estimate - posterior.mean) < 3 * stderr
    assert (result.mean[near] == posterior.mean[near]).all()
    assert np.abs(result.mean - truth)[far].max() < 1
    assert (np.abs(result.mean - truth) < 1.96 * result.sd)[far].mean() > 0.85
    assert result.lfsr[far].max() < 0.01
    assert with_far_effects(posterior, np.full(shape, np.nan), stderr, dof) is posterior
