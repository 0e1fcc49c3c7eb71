"""Errors under noise that differs from model to model: against statsmodels and the textbook formula of HC2."""

from dataclasses import replace

import numpy as np
import pytest
import statsmodels.api as sm

from sourcewise.estimation import normal_equations
from sourcewise.estimation.collapse import collapse
from sourcewise.estimation.estimators import ols
from sourcewise.estimation.hierarchical import HIERARCHICAL
from sourcewise.estimation.inference import uneven_noise_ratio
from sourcewise.estimation.ridge import RIDGE
from tests.estimation.test_calibration import design


@pytest.mark.parametrize("kind", ["one size", "bernoulli"])
def test_errors_under_noise_that_differs_from_model_to_model_are_those_of_statsmodels(kind):
    rng = np.random.default_rng(9)
    masks = design("random" if kind == "one size" else kind, 8, 3000, rng, 0.8)
    outputs = rng.normal(size=(3000, 3)) * np.where(masks[:, :2].all(1), 1, 4)[:, None]
    result = ols(collapse(masks, outputs).moments())
    known = masks[:, :7] if kind == "one size" else masks  # where the last follows from the others
    contrast = np.eye(7) * 8 / 7 - 1 / 7 if kind == "one size" else np.eye(8)
    for e in range(3):
        model = sm.OLS(outputs[:, e], sm.add_constant(known.astype(float)))
        robust, even = (
            np.sqrt(np.diag(contrast @ fitted.cov_params()[1:, 1:] @ contrast.T))
            for fitted in (model.fit(cov_type="HC2"), model.fit())
        )
        np.testing.assert_allclose(result.stderr[e, : len(known.T)], robust, rtol=0.05)  # shrunken to even noise
        assert result.stderr[e, 0] == pytest.approx(robust[0], rel=0.005)
        assert np.abs(robust[0] / even[0] - 1) > 0.1


@pytest.mark.parametrize("kind", ["one size", "bernoulli"])
def test_uneven_noise_is_weighed_as_by_hc2_with_few_models_too(kind, monkeypatch):
    seen = []
    monkeypatch.setattr(normal_equations, "uneven_noise_ratio", lambda *given: seen.append(given) or given[0])
    rng = np.random.default_rng(3)
    masks = design("random" if kind == "one size" else kind, 6, 20, rng, 0.5)
    outputs = rng.normal(size=(20, 2)) * np.where(masks[:, 0], 1, 4)[:, None]
    ols(collapse(masks, outputs).moments())
    known = masks[:, :5] if kind == "one size" else masks
    contrast = np.vstack([np.eye(5) * 6 / 5 - 1 / 5, -np.ones(5)]) if kind == "one size" else np.eye(6)
    x = sm.add_constant(known.astype(float))
    inverse = np.linalg.inv(x.T @ x)
    weight = (contrast @ (inverse @ x.T)[1:]) ** 2  # [groups, models]
    leverage = np.einsum("mi,ij,mj->m", x, inverse, x)
    ((ratio, variance),) = seen
    for e in range(2):
        square = sm.OLS(outputs[:, e], x).fit().resid ** 2 / (1 - leverage)
        np.testing.assert_allclose(ratio[e], weight @ square / weight.sum(1) / square.mean())
        spread = np.maximum((weight**2).sum(1) / weight.sum(1) ** 2 - 1 / 20, 0)
        np.testing.assert_allclose(variance[e], ((square**2).mean() / square.mean() ** 2 - 1) * spread)


def test_a_ratio_of_uneven_noise_is_believed_as_far_as_it_exceeds_its_error():
    ratio = uneven_noise_ratio(np.array([1.0, 1.5, 3.0, 3.0, 0.5, 0.01]), np.array([0.1, 0.5, 0.0, 1.0, 0.01, 0.0]))
    np.testing.assert_allclose(ratio, [1, 1, 3, 2.5, 1 - 0.5 * (1 - 0.04 / 0.25), 0.25])


@pytest.mark.parametrize("estimator", [RIDGE, HIERARCHICAL], ids=lambda estimator: estimator.name)
def test_errors_take_a_second_pass_over_the_models_unless_told_otherwise(estimator):
    rng = np.random.default_rng(5)
    masks = design("bernoulli", 6, 200, rng, 0.8)
    subsets = collapse(masks, rng.normal(size=(200, 2)) * np.where(masks[:, 0], 1, 9)[:, None])
    twice, once = (estimator.estimate_subsets(subsets, second_pass=again) for again in (True, False))
    assert (estimator.estimate_subsets(subsets).stderr == twice.stderr).all()
    assert (once.influence == twice.influence).all()
    sums = replace(subsets.moments(hierarchy=estimator.needs_hierarchy), models=None)
    assert (once.stderr == estimator.estimate(sums).stderr).all()
    assert (np.abs(once.stderr / twice.stderr - 1) > 0.1).any()
