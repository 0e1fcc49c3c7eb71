import warnings

import numpy as np
import pytest
import statsmodels.api as sm
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.linalg import hadamard
from sklearn.linear_model import Lasso, Ridge
from statsmodels.stats.multitest import multipletests

from sourcewise.core.errors import SourcewiseError
from sourcewise.estimation.arrays import PackedMasks
from sourcewise.estimation.collapse import collapse
from sourcewise.estimation.estimators import ESTIMATORS, difference, hierarchical, lasso, ols, ridge
from sourcewise.estimation.inference import pvalues, qvalues
from sourcewise.estimation.lasso import SHRINKAGES, GramProduct, centred_products, shrink
from sourcewise.estimation.moments import sum_models
from sourcewise.estimation.normal_equations import PENALTIES, NormalEquations
from sourcewise.estimation.spectra import eigen
from tests.estimation.test_calibration import design


def moments(masks, outputs, gram=False):
    return sum_models([(masks, outputs)], masks.shape[1], outputs.shape[1], gram)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 99999),
    models=st.integers(2, 50),
    groups=st.integers(1, 7),
    columns=st.integers(1, 4),
    offset=st.sampled_from([0.0, 1.0, -300.0]),
    chunk=st.integers(1, 50),
)
def test_difference_agrees_with_brute_force_scipy_and_statsmodels(seed, models, groups, columns, offset, chunk):
    rng = np.random.default_rng(seed)
    masks = rng.random((models, groups)) < rng.choice([0.1, 0.5, 0.8], groups)
    masks[:, 0] |= seed % 3 == 0  # a group that is always kept
    outputs = rng.normal(offset, rng.choice([0.1, 1.0]), (models, columns))
    starts = range(0, models, chunk)
    chunks = [(masks[start : start + chunk], outputs[start : start + chunk]) for start in starts]
    result = difference(sum_models(chunks, groups, columns))
    p = pvalues(result.influence, result.stderr, result.dof)
    expected = np.full_like(p, np.nan)
    for e in range(columns):
        for g in range(groups):
            on, off = outputs[masks[:, g], e], outputs[~masks[:, g], e]
            if min(len(on), len(off)) == 0:
                assert np.isnan([result.influence[e, g], result.stderr[e, g], result.dof[e, g]]).all()
                continue
            assert result.influence[e, g] == pytest.approx(on.mean() - off.mean(), abs=1e-6)
            if min(len(on), len(off)) == 1:
                assert np.isnan([result.stderr[e, g], result.dof[e, g]]).all()
                continue
            test = stats.ttest_ind(on, off)
            error = test.statistic and (on.mean() - off.mean()) / test.statistic
            if abs(len(on) - len(off)) > 0.1 * models and min(len(on), len(off)) > 2:
                welch = on.var(ddof=1) / len(on) + off.var(ddof=1) / len(off)
                gap = welch / error**2 - 1
                doubt = 2 * ((len(on) ** -3 + len(off) ** -3) / (1 / len(on) + 1 / len(off)) ** 2 - 1 / models)
                gap *= max(0, 1 - doubt * (1 if gap > 0 else 4) / gap**2)
                error *= np.sqrt(max(1 + gap, 0.25))
            expected[e, g] = 2 * stats.t(models - 2).sf(abs(on.mean() - off.mean()) / error)
            assert result.stderr[e, g] == pytest.approx(error, abs=1e-6)
            assert result.dof[e, g] == test.df == models - 2
    np.testing.assert_allclose(p, expected, atol=1e-6)
    known = ~np.isnan(expected)
    if known.any():
        q = multipletests(expected[known], method="fdr_bh")[1]
        np.testing.assert_allclose(qvalues(p)[known], q, atol=1e-6)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_outputs_that_never_vary_give_zero_influence_zero_error_and_no_noise(dtype):
    masks = np.random.default_rng(0).random((60, 4)) < 0.5
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for estimator in (difference, ridge, ols):
            result = estimator(moments(masks, np.full((60, 2), 0.1, dtype), gram=True))
            assert not result.influence.any()
            assert not result.stderr.any()
            assert (pvalues(result.influence, result.stderr, result.dof) == 1).all()
        sided = difference(moments(masks, np.where(masks[:, :1], 0.9, 0.1).astype(dtype)))
    assert sided.influence[0, 0] == pytest.approx(0.8, abs=1e-3)
    assert sided.stderr[0, 0] == 0


def test_half_precision_agrees_with_double():
    rng = np.random.default_rng(5)
    masks = rng.random((3000, 6)) < 0.5
    outputs = rng.beta(5, 2, (3000, 4)).astype(np.float16)
    half, double = difference(moments(masks, outputs)), difference(moments(masks, outputs.astype(float)))
    for name in ("influence", "stderr", "dof"):
        np.testing.assert_allclose(getattr(half, name), getattr(double, name), rtol=1e-4, atol=1e-6)


def test_the_sign_is_positive_where_keeping_helps():
    masks = np.random.default_rng(1).random((200, 3)) < 0.5
    outputs = masks @ np.array([[0.5], [-0.25], [0.0]]) + np.random.default_rng(2).normal(0, 0.01, (200, 1))
    np.testing.assert_allclose(difference(moments(masks, outputs)).influence[0], [0.5, -0.25, 0], atol=0.15)


@pytest.mark.parametrize("count", [0, 1])
def test_too_few_records_are_refused(count):
    with pytest.raises(SourcewiseError, match=rf"{count} records?: an estimate needs"):
        difference(moments(np.ones((count, 3), bool), np.ones((count, 2))))


def test_estimators_are_registered_by_their_names():
    assert {name: estimator.function for name, estimator in ESTIMATORS.items()} == {
        "difference": difference,
        "ridge": ridge,
        "ols": ols,
        "lasso": lasso,
        "hierarchical": hierarchical,
    }
    assert all(estimator.name == name for name, estimator in ESTIMATORS.items())


def study(kind, groups=8, models=90, columns=3, seed=0):
    rng = np.random.default_rng(seed)
    masks = design(kind, groups, models, rng)
    return masks, masks @ rng.normal(0, 0.3, (groups, columns)) + rng.normal(0, 0.2, (models, columns))


def centred_arrays(masks, outputs):
    return masks - masks.mean(0), outputs - outputs.mean(0)


def test_ols_is_that_of_statsmodels():
    masks, outputs = study("bernoulli", models=400)  # so many that no group is kept by far from half of them
    result = ols(moments(masks, outputs, gram=True))
    for e in range(3):
        peer = sm.OLS(outputs[:, e], sm.add_constant(masks.astype(float))).fit()
        np.testing.assert_allclose(result.influence[e], peer.params[1:], atol=1e-9)
        np.testing.assert_allclose(result.stderr[e], peer.bse[1:], rtol=1e-6)
        np.testing.assert_allclose(result.dof[e], peer.df_resid)
    np.testing.assert_allclose(
        result.predict(PackedMasks.pack(masks))[:, 2], sm.add_constant(masks.astype(float)) @ peer.params, atol=1e-9
    )


def test_ols_on_subsets_of_one_size_is_relative_to_the_other_groups():
    masks, outputs = study("random")
    x, y = centred_arrays(masks, outputs)
    b = np.linalg.lstsq(x, y, rcond=None)[0].T
    np.testing.assert_allclose(ols(moments(masks, outputs, gram=True)).influence, b * 8 / 7, atol=1e-9)


def test_ols_drops_what_it_cannot_tell_apart():
    masks, outputs = study("bernoulli")
    masks[:, 1] = masks[:, 0]
    result = ols(moments(masks, outputs, gram=True))
    assert np.isnan(result.influence[:, :2]).all()
    assert np.isfinite(result.influence[:, 2:]).all()


def test_ols_needs_one_degree_of_freedom_and_no_more():
    masks, outputs = study("bernoulli", models=9)  # 7 groups, size and mean leave one
    masks, outputs = masks[:, :7], outputs
    assert np.isfinite(ols(moments(masks, outputs, gram=True)).stderr).all()
    with pytest.raises(SourcewiseError, match="^8 models are too few for ols of 7 groups; ridge can do$"):
        ols(moments(masks[:8], outputs[:8], gram=True))


@pytest.mark.parametrize(("models", "groups"), [(6, 8), (90, 8), (12, 40), (40, 90)])
def test_ridge_coefficients_are_those_of_sklearn_at_the_penalty_of_least_gcv(models, groups):
    masks, outputs = study("random", models=models, groups=groups)
    x, y = centred_arrays(masks, outputs)
    result = ridge(moments(masks, outputs, gram=True))
    gram = x.T @ x
    values = np.linalg.eigvalsh(gram)
    grid = PENALTIES * values[values > 1e-9 * values.max()].mean()
    scores = []
    for penalty in grid:
        hat = x @ np.linalg.solve(gram + penalty * np.eye(groups), x.T) + 1 / models
        scores.append(((y - hat @ y) ** 2).mean(0) / (1 - np.trace(hat) / models) ** 2)
    np.testing.assert_allclose(result.penalty, grid[np.argmin(scores, axis=0)])
    for e in range(3):
        peer = Ridge(alpha=result.penalty[e], fit_intercept=False).fit(x, y[:, e])
        np.testing.assert_allclose(result.coefficients[e], peer.coef_, atol=1e-9)


def test_ridge_influence_is_the_coefficient_over_its_own_shrinkage():
    masks, outputs = study("random")
    x, _ = centred_arrays(masks, outputs)
    result = ridge(moments(masks, outputs, gram=True))
    for e in range(3):
        shrinkage = np.linalg.solve(x.T @ x + result.penalty[e] * np.eye(8), x.T @ x)
        np.testing.assert_allclose(result.influence[e], result.coefficients[e] / np.diag(shrinkage), atol=1e-9)


@pytest.mark.parametrize("kind", ["random", "bernoulli", "hadamard", "mixed"])
def test_regressions_recover_noiseless_effects_in_one_convention(kind):
    rng = np.random.default_rng(3)
    masks, b = design(kind, 10, 128, rng), rng.normal(0, 1, (4, 10))
    result = collapse(masks, masks @ b.T).moments()
    expected = (10 * b - b.sum(1, keepdims=True)) / 9 if kind == "random" else b
    np.testing.assert_allclose(ols(result).influence, expected, atol=1e-6)
    np.testing.assert_allclose(ridge(result).influence, expected, atol=0.02)


def test_a_foldover_sees_neither_the_other_groups_nor_their_interactions():
    rng = np.random.default_rng(4)
    masks = design("hadamard", 20, 128, rng)
    x = masks - 0.5
    outputs = (x @ rng.normal(0, 1, (20, 5)) + 8 * x[:, :1] * x[:, 1:2]).round(12)
    outputs += rng.normal(0, 0.1, outputs.shape)
    result = collapse(masks, outputs).moments()
    assert result.pairs == 64
    assert ridge(result).stderr.max() < 0.04  # 0.1 * 2 / sqrt(128) = 0.018, against 1.2 of Welch
    assert difference(result).stderr.max() < 0.04


@pytest.mark.parametrize(("kind", "models"), [("random", 120), ("bernoulli", 120), ("bernoulli", 14)])
def test_lasso_is_that_of_sklearn(kind, models):
    masks, outputs = study(kind, groups=30, models=models, columns=6)
    x, y = centred_arrays(masks, outputs)
    result = lasso(moments(masks, outputs, gram=True), moments(masks[::5], outputs[::5], gram=True))
    for e in range(6):
        options = {"precompute": x.T @ x, "fit_intercept": False, "tol": 1e-10, "max_iter": 10**6}
        peer = Lasso(alpha=result.penalty[e], **options).fit(x, y[:, e])
        apart = result.coefficients[e] - peer.coef_
        if kind == "random":  # one size: a constant added to all can change nothing, penalty included
            apart -= apart.mean()
        np.testing.assert_allclose(apart, 0, atol=1e-5 if models > 30 else 1e-4)  # few models: ill-conditioned


def test_lasso_takes_the_penalty_of_least_held_out_error():
    masks, outputs = study("random", groups=30, models=120, columns=2)
    held = np.arange(120) % 5 == 0
    result = lasso(moments(masks, outputs, gram=True), moments(masks[held], outputs[held], gram=True))
    x, y = masks[~held] - masks[~held].mean(0), outputs[~held] - outputs[~held].mean(0)
    for e in range(2):
        grid = SHRINKAGES * np.abs(x.T @ y[:, e]).max() / len(x)
        errors = []
        for penalty in grid:
            model = Lasso(alpha=penalty, tol=1e-8).fit(masks[~held], outputs[~held, e])
            errors.append(((model.predict(masks[held]) - outputs[held, e]) ** 2).mean())
        chosen = errors[int(np.argmin(np.abs(grid - result.penalty[e])))]
        assert chosen <= min(errors) * 1.02


@pytest.mark.parametrize("unit", [1e-25, 1e25])
def test_lasso_is_the_same_in_any_unit(unit):  # its path of penalties is in single precision
    masks, outputs = study("random", groups=30, models=120, columns=6)
    plain, scaled = (
        lasso(moments(masks, y, gram=True), moments(masks[::5], y[::5], gram=True)) for y in (outputs, outputs * unit)
    )
    np.testing.assert_allclose(scaled.penalty, plain.penalty * unit, rtol=1e-6)
    largest = np.abs(plain.coefficients).max()
    np.testing.assert_allclose(scaled.coefficients / unit, plain.coefficients, atol=1e-5 * largest)


def test_few_models_span_few_directions_which_are_all_that_is_kept():
    masks, _ = study("bernoulli", groups=50, models=16, columns=1)
    x = masks - masks.mean(0)
    spectrum = eigen(x.T @ x, 16)
    assert spectrum.vectors.shape == (50, 16)
    np.testing.assert_allclose(spectrum.values, np.linalg.eigvalsh(x.T @ x)[-16:], atol=1e-9)
    np.testing.assert_allclose((spectrum.vectors * spectrum.values) @ spectrum.vectors.T, x.T @ x, atol=1e-9)
    rows = np.random.default_rng(1).normal(size=(3, 50))
    for count in (16, 25):  # through the models, and through the matrix
        gram = GramProduct(x.T @ x, count)
        np.testing.assert_allclose(gram(rows), rows @ x.T @ x, atol=1e-9)
        np.testing.assert_allclose(gram.largest, spectrum.values[-1])


def test_shrink_leaves_nothing_at_the_largest_penalty_and_least_squares_at_none():
    masks, outputs = study("bernoulli")
    matrix, cross = centred_products(moments(masks, outputs, gram=True))
    gram, top = GramProduct(matrix, len(masks)), np.abs(cross).max(1) / len(masks)
    assert not shrink(gram, cross, 1.0001 * top).any()
    np.testing.assert_allclose(
        shrink(gram, cross, 0 * top, tolerance=1e-9), np.linalg.solve(matrix, cross.T).T, atol=1e-6
    )


def test_mixed_sizes_are_noticed_and_ordinary_designs_are_not():
    for kind, expected in (("random", False), ("bernoulli", False), ("hadamard", False), ("mixed", True)):
        masks, _ = study(kind, groups=36, models=200)
        assert PackedMasks.pack(masks).mixes_sizes() is expected, kind


@pytest.mark.parametrize("name", ["ridge", "ols"])
def test_one_group_is_enough(name):
    masks, outputs = study("bernoulli", groups=1)
    result, peer = ESTIMATORS[name].estimate(moments(masks, outputs, gram=True)), difference(moments(masks, outputs))
    np.testing.assert_allclose(result.influence, peer.influence, atol=1e-9)
    np.testing.assert_allclose(result.stderr, peer.stderr, rtol=0.1)


def test_regressions_say_what_they_need():
    masks, outputs = study("bernoulli")
    with pytest.raises(SourcewiseError, match="need moments with a Gram matrix"):
        ridge(moments(masks, outputs))
    with pytest.raises(SourcewiseError, match="too few for ols of 8 groups"):
        few = study("random", models=7)
        ols(moments(*few, gram=True))
    whole = moments(masks, outputs, gram=True)
    with pytest.raises(SourcewiseError, match="needs some models held out, not 90 of 90"):
        lasso(whole, whole)


def test_noise_on_the_smaller_side_of_a_group_widens_its_error_as_in_welch():
    rng = np.random.default_rng(7)
    masks = rng.random((400, 6)) < 0.15
    outputs = rng.normal(0, 1, (400, 50)) * np.where(masks[:, :1], 4.0, 1.0)
    sums = collapse(masks, outputs).moments()
    welch = np.sqrt(np.subtract(*sums.side_means(slice(None))).variance)
    for estimator in (ridge, ols):
        ratio = estimator(sums).stderr / welch
        assert 0.9 < ratio[:, 0].mean() < 1.1  # about 0.5 if the noise is taken to be the same on both sides
        assert 0.9 < ratio[:, 1:].mean() < 1.1


def answers(masks, outputs, penalty):
    """Influence float[groups, columns] that ridge at one penalty, an index, gives for some outputs of the models."""
    normal = NormalEquations(moments(masks, outputs, gram=True))
    none = np.zeros(outputs.shape[1])
    return normal.estimate(lambda fits: (np.full(len(none), penalty), none, none)).influence.T


@pytest.mark.parametrize("kind", ["random", "bernoulli", "hadamard"])
def test_errors_are_what_noise_and_other_groups_do_to_the_influence(kind):
    masks, _ = study(kind, groups=12, models=60)
    normal = NormalEquations(moments(masks, np.eye(60), gram=True))
    assert normal.sizes_vary == (kind != "random")
    truth = np.eye(12) if normal.sizes_vary else np.eye(12) - (1 - np.eye(12)) / 11
    for penalty in (0, 10, 20, 31):
        noise = (answers(masks, np.eye(60), penalty) ** 2).sum(1)
        np.testing.assert_allclose(normal.noise_gain[penalty], noise, rtol=1e-9)
        even = np.abs(masks.sum(0) - 30) <= 3  # others get a correction on top
        both = np.full(60, penalty), np.full(60, 2.0), np.full(60, 3.0)  # variances of noise and of effects
        error = normal.estimate(lambda fits, both=both: both).stderr
        total = 2 * normal.noise_gain[penalty] + 3 * normal.leak_gain[penalty]
        np.testing.assert_allclose(error[:, even] ** 2, np.tile(total, (60, 1))[:, even], rtol=1e-9)
        leak = ((answers(masks, masks.astype(float), penalty) - truth) ** 2).sum(1)
        if normal.sizes_vary:  # what size and the other groups have in common is left out: it is nothing on average
            assert normal.leak_gain[penalty].mean() == pytest.approx(leak.mean(), rel=0.05, abs=1e-9)
        else:
            np.testing.assert_allclose(normal.leak_gain[penalty], leak, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("relative", [True, False])
def test_errors_of_differences_of_a_balanced_design_are_those_of_noise_and_other_groups(relative):
    rng = np.random.default_rng(8)
    masks = hadamard(32)[1:, 1:] > 0 if relative else design("hadamard", 20, 48, rng)  # the first are of one size
    models, groups = masks.shape
    y = masks @ rng.normal(1, 0.3, (groups, 4)) + rng.normal(0, 0.5, (models, 4))
    sums = moments(masks, y, gram=True)
    fit = NormalEquations(sums).fit(slice(None))
    leak = difference(moments(masks, masks.astype(float))).influence.T - np.eye(groups)  # of other groups, by group
    leak += (1 - np.eye(groups)) / (groups - 1) if relative else 0
    x = masks.sum(1) - masks.sum(1).mean()
    level = np.zeros(4) if relative else (y - y.mean(0)).T @ x / (x @ x)  # the mean effect
    expected = np.outer(fit.noise, 1 / masks.sum(0) + 1 / (~masks).sum(0))
    expected += np.outer(fit.effects, (leak**2).sum(1)) + np.outer(level**2, leak.sum(1) ** 2)
    assert sums.balanced
    result = difference(sums)
    np.testing.assert_allclose(result.stderr**2, expected, rtol=1e-9)
    assert (result.dof == NormalEquations(sums).free).all()
    with_one = difference(moments(np.insert(masks, 3, True, 1), y, gram=True))  # that every model kept
    assert np.isnan(with_one.influence[:, 3]).all()
    for name in ("influence", "stderr", "dof"):
        np.testing.assert_allclose(np.delete(getattr(with_one, name), 3, 1), getattr(result, name), rtol=1e-9)


def test_crowding_is_the_mean_square_correlation_of_two_groups_times_the_models():
    masks, outputs = study("bernoulli", groups=7, models=50)
    masks[:, 2] = True
    square = np.corrcoef(np.delete(masks, 2, 1).T) ** 2
    expected = 50 * square[~np.eye(6, dtype=bool)].mean()
    assert moments(masks, outputs, gram=True).crowding == pytest.approx(expected)
    assert moments(masks, outputs).crowding == 1  # that cannot be told


@pytest.mark.parametrize(("pairs", "expected"), [(10, True), (9, False)])
def test_a_design_is_balanced_if_half_of_its_models_are_complements_of_others(pairs, expected):
    masks = np.random.default_rng(3).random((40 - pairs, 20)) < 0.5
    masks = np.concatenate([masks, ~masks[:pairs]])
    sums = collapse(masks, np.random.default_rng(4).random((40, 1))).moments()
    assert (sums.count, sums.pairs) == (40, pairs)
    assert sums.balanced is expected
