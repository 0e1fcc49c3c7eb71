import itertools
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats
from statsmodels.stats.multitest import multipletests

from sourcewise.estimation.inference import intervals, least_pvalues, pvalues, qvalues


@given(arrays(np.float64, st.integers(1, 60), elements=st.floats(0, 1)), st.sets(st.integers(0, 59)))
def test_qvalues_are_those_of_statsmodels_and_leave_nan_out(p, holes):
    p[[i for i in holes if i < p.size]] = np.nan
    known = ~np.isnan(p)
    q = qvalues(p.reshape(1, -1))[0]
    assert np.isnan(q[~known]).all()
    if known.any():
        np.testing.assert_allclose(q[known], multipletests(p[known], method="fdr_bh")[1], atol=1e-12)


def test_pvalues_of_a_table_without_variation_are_one_and_make_no_noise():
    influence = np.array([0.0, 0.1, np.nan, 0.2, 0.0])
    stderr = np.array([0.0, 0.0, np.nan, np.nan, 0.1])
    dof = np.array([5.0, 5.0, np.nan, np.nan, 5.0])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(pvalues(influence, stderr, dof), [1, 0, np.nan, np.nan, 1])
        assert np.isnan(qvalues(np.full((2, 2), np.nan))).all()


@pytest.mark.parametrize("level", [0.5, 0.95])
def test_pvalues_and_intervals_are_those_of_student(level):
    influence, stderr, dof = np.array([0.3, -2.0]), np.array([0.2, 0.5]), np.array([3.4, 80.0])
    np.testing.assert_allclose(
        pvalues(influence, stderr, dof), 2 * stats.t(dof).sf(np.abs(influence / stderr)), rtol=1e-9
    )
    low, high = intervals(influence, stderr, dof, level)
    expected = stats.t(dof, loc=influence, scale=stderr).interval(level)
    np.testing.assert_allclose([low, high], expected, rtol=1e-9)


@given(st.integers(10, 12), st.data())
def test_least_pvalue_is_that_of_the_most_extreme_of_all_choices(subsets, data):
    pairs = data.draw(st.integers(0, subsets // 2))
    kept = data.draw(st.integers(pairs, subsets - pairs))
    if min(kept, subsets - kept) < 5:
        assert np.isnan(least_pvalues(np.array([kept]), subsets, pairs))
        return
    masks = []
    for sides in itertools.product([0, 1], repeat=pairs):
        for chosen in itertools.combinations(range(2 * pairs, subsets), kept - pairs):
            mask = np.zeros(subsets)
            mask[[2 * i + side for i, side in enumerate(sides)]] = 1
            mask[list(chosen)] = 1
            masks.append(mask)
    table, output = np.array(masks), masks[0]
    gap = np.abs(table @ output / kept - (1 - table) @ output / (subsets - kept))
    assert least_pvalues(np.array([kept]), subsets, pairs)[0] == pytest.approx((gap > 1 - 1e-9).mean())
