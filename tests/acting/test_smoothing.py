"""What is expected of subsets, against a Gaussian process that is written out model by model."""

import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import multivariate_normal

from sourcewise.acting.search.smoothing import LENGTHS, RATIOS, expected

WIDE = 1e8
"""Variance of the centre, which nothing is known of."""


def test_expected_values_are_those_of_the_likeliest_gaussian_process() -> None:
    rng = np.random.default_rng(0)
    subsets, counts = rng.random((12, 10)) < 0.6, rng.integers(1, 5, 12)
    truth = subsets @ rng.normal(0, 0.5, 10)
    values = [(truth[i] + rng.normal(0, 0.7, count)).tolist() for i, count in enumerate(counts)]
    masks, flat = np.repeat(subsets, counts, axis=0), np.concatenate(values)
    models, best, reference = len(flat), -np.inf, flat
    for ratio, length in itertools.product(RATIOS, LENGTHS):
        alike = ratio * np.exp(-(masks[:, None] != masks).mean(2) / length) + WIDE
        covariance = alike + np.eye(models)
        noise = flat @ np.linalg.solve(covariance, flat) / (models - 1)  # the likeliest one
        likelihood = multivariate_normal(cov=noise * covariance, allow_singular=True).logpdf(flat)
        likelihood += 0.5 * np.log(noise)  # the density of the centre alone does not count
        if likelihood > best:
            best, reference = likelihood, alike @ np.linalg.solve(covariance, flat)
    np.testing.assert_allclose(np.repeat(expected(subsets, values), counts), reference, atol=1e-4)


@given(st.integers(8, 16), st.integers(0, 10**6), st.floats(-5, 5))
def test_a_constant_on_all_models_moves_what_is_expected_by_it(subsets: int, seed: int, constant: float) -> None:
    rng = np.random.default_rng(seed)
    masks = rng.random((subsets, 7)) < 0.5
    values = rng.normal(0, 1, (subsets, 2))
    first, second = (expected(masks, (values + shift).tolist()) for shift in (0, constant))
    np.testing.assert_allclose(second - first, constant, atol=1e-6)
