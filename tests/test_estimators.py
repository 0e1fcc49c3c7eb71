import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.multitest import multipletests

from sourcewise.errors import SourcewiseError
from sourcewise.estimators import ESTIMATORS, difference
from sourcewise.inference import pvalues, qvalues
from sourcewise.moments import Moments


def moments(masks, outputs, gram=False):
    return Moments.empty(masks.shape[1], outputs.shape[1], gram=gram).update(masks, outputs)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 99999),
    models=st.integers(2, 50),
    groups=st.integers(1, 7),
    columns=st.integers(1, 4),
    offset=st.sampled_from([0.0, 1.0, -300.0]),
    chunk=st.integers(1, 50),
)
def test_difference_agrees_with_brute_force_scipy_and_statsmodels(
    seed, models, groups, columns, offset, chunk
):
    rng = np.random.default_rng(seed)
    masks = rng.random((models, groups)) < rng.choice([0.1, 0.5, 0.8], groups)
    masks[:, 0] |= seed % 3 == 0  # a group that is always kept
    outputs = rng.normal(offset, rng.choice([0.1, 1.0]), (models, columns))
    stream = Moments.empty(groups, columns)
    for start in range(0, models, chunk):
        stream.update(masks[start : start + chunk], outputs[start : start + chunk])
    found = difference(stream)
    p = pvalues(found.influence, found.stderr, found.dof)
    expected = np.full_like(p, np.nan)
    for e in range(columns):
        for g in range(groups):
            on, off = outputs[masks[:, g], e], outputs[~masks[:, g], e]
            if min(len(on), len(off)) == 0:
                assert np.isnan([found.influence[e, g], found.stderr[e, g], found.dof[e, g]]).all()
                continue
            assert found.influence[e, g] == pytest.approx(on.mean() - off.mean(), abs=1e-6)
            if min(len(on), len(off)) == 1:
                assert np.isnan([found.stderr[e, g], found.dof[e, g]]).all()
                continue
            test = stats.ttest_ind(on, off, equal_var=False)
            expected[e, g] = test.pvalue
            error = np.sqrt(on.var(ddof=1) / len(on) + off.var(ddof=1) / len(off))
            assert found.stderr[e, g] == pytest.approx(error, abs=1e-6)
            assert found.dof[e, g] == pytest.approx(test.df, rel=1e-6)
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
        found = difference(moments(masks, np.full((60, 2), 0.1, dtype)))
        assert not found.influence.any()
        assert not found.stderr.any()
        assert (pvalues(found.influence, found.stderr, found.dof) == 1).all()
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


def test_difference_is_registered():
    assert ESTIMATORS["difference"] is difference
