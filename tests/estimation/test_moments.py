import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sourcewise.estimation.collapse import collapse
from sourcewise.estimation.masks import PackedMasks
from sourcewise.estimation.moments import Accumulator
from tests.estimation.test_calibration import design

FIELDS = ("count", "kept", "total", "square", "kept_total", "kept_square", "gram", "pairs")


def study(seed, models=40, groups=5, columns=3, dtype=np.float64, offset=0.0):
    rng = np.random.default_rng(seed)
    masks = rng.random((models, groups)) < rng.uniform(0.2, 0.8, groups)
    return masks, (rng.normal(size=(models, columns)) + offset).astype(dtype)


def summed(chunks, groups, columns, gram=False):
    """Moments of models that come in chunks of masks and outputs."""
    sums = Accumulator(groups, columns, gram)
    for masks, outputs in chunks:
        sums.add(masks, outputs)
    return sums.finish()


def same(a, b, tolerance=1e-9):
    b = b.recentred(a.reference)
    for name in FIELDS:
        left, right = getattr(a, name), getattr(b, name)
        np.testing.assert_allclose(left, right, rtol=tolerance, atol=tolerance * max(1.0, np.abs(right).max()))


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 9999), cuts=st.lists(st.integers(0, 40), max_size=4), turn=st.randoms())
def test_chunks_order_and_merging_do_not_matter(seed, cuts, turn):
    masks, outputs = study(seed)
    whole = summed([(masks, outputs)], 5, 3, gram=True)
    edges = [0, *sorted(cuts), 40]
    parts = [slice(a, b) for a, b in itertools.pairwise(edges)]
    same(whole, summed([(masks[part], outputs[part]) for part in parts], 5, 3, gram=True))
    turn.shuffle(parts)
    merged = Accumulator(5, 3, gram=True).finish()
    for part in parts:
        merged = merged + summed([(masks[part], outputs[part])], 5, 3, gram=True)
    same(whole, merged)
    same(whole - summed([(masks[:7], outputs[:7])], 5, 3, gram=True),
         summed([(masks[7:], outputs[7:])], 5, 3, gram=True))  # fmt: skip


def test_sums_are_those_of_brute_force():
    masks, outputs = study(1)
    m = summed([(masks, outputs)], 5, 3, gram=True).recentred(np.zeros(3))
    np.testing.assert_allclose(m.kept, masks.sum(0))
    np.testing.assert_allclose(m.kept_total, outputs.T @ masks, atol=1e-12)
    np.testing.assert_allclose(m.kept_square, (outputs**2).T @ masks, atol=1e-12)
    np.testing.assert_allclose(m.gram, masks.T.astype(float) @ masks)
    np.testing.assert_allclose(m.mean, outputs.mean(0))


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_many_rows_and_columns_with_a_large_mean_keep_their_digits(dtype):
    masks, outputs = study(2, models=2500, groups=4, columns=1300, dtype=dtype, offset=300)
    exact = summed([(masks, outputs.astype(np.float64))], 4, 1300, gram=True)
    same(exact, summed([(masks, outputs)], 4, 1300, gram=True), 1e-5)


@given(seed=st.integers(0, 999), models=st.integers(0, 9), groups=st.integers(1, 40), left=st.sampled_from([0, 8, 16]))
def test_packed_masks_are_the_masks(seed, models, groups, left):
    masks = np.random.default_rng(seed).random((models, groups)) < 0.5
    packed = PackedMasks.pack(masks)
    np.testing.assert_array_equal(packed.unpack(), masks)
    np.testing.assert_array_equal(packed[1:5].unpack(slice(left, left + 11)), masks[1:5, left : left + 11])
    np.testing.assert_array_equal(packed.sizes(), masks.sum(1))
    np.testing.assert_allclose(packed.kept_share() * models, masks.sum(0))


def foldover(seed, groups=6, pairs=20, columns=3):
    rng = np.random.default_rng(seed)
    masks = design("hadamard", groups, 2 * pairs, rng)
    return masks, rng.normal(5, 1, (2 * pairs, columns))


def test_what_pairs_have_in_common_is_left_out_and_the_rest_stays():
    masks, outputs = foldover(0, groups=20)
    more = np.random.default_rng(1).random((3, 20)) < 0.3
    masks, outputs = np.vstack([masks, more]), np.vstack([outputs, outputs[:3] + 1])
    found = collapse(masks, outputs)
    assert (found.pairs, len(found.masks)) == (20, 43)
    sums, plain = found.moments(), summed([(masks, outputs)], 20, 3, gram=True)
    plain = plain.recentred(sums.reference)
    for name in ("count", "kept", "total", "gram", "kept_total"):
        np.testing.assert_allclose(getattr(sums, name), getattr(plain, name), atol=1e-9)
    spread, free = collapse(masks[:40], outputs[:40]).moments().squares_about_mean()
    halves = (outputs[0:40:2] - outputs[1:40:2]) / 2
    np.testing.assert_allclose(spread, 2 * (halves**2).sum(0))
    assert free == 20
    part = found.moments(slice(1, 3), slice(8, 20))
    np.testing.assert_allclose(part.kept_total, sums.kept_total[1:3, 8:])


def test_spread_without_pairs_is_the_sum_of_squares_about_the_mean():
    masks, outputs = study(5)
    spread, free = summed([(masks, outputs)], 5, 3).squares_about_mean()
    np.testing.assert_allclose(spread, 40 * outputs.var(0))
    assert free == 39


def test_collapse_averages_seeds_and_pairs_complements():
    masks, outputs = foldover(0, groups=20, pairs=30)
    masks, outputs = np.vstack([masks, ~masks[:1], masks[:2]]), np.vstack([outputs, outputs[:1], outputs[:2] + 1])
    order = np.random.default_rng(1).permutation(len(masks))
    found = collapse(masks[order], outputs[order], np.arange(63))
    assert found.pairs == 30
    assert found.runs.sum() == 63
    kept = found.masks.unpack()
    np.testing.assert_array_equal(kept[0::2], ~kept[1::2])
    np.testing.assert_array_equal(found.unit, np.arange(60) // 2)
    row = int(np.flatnonzero((kept == masks[0]).all(1))[0])
    np.testing.assert_allclose(found.outputs[row], outputs[0] + 0.5)
    assert found.runs[row] == 2
    assert found.moments().pairs == 30
    half = found.take(np.arange(10))
    assert (half.pairs, len(half.masks), half.moments().pairs) == (10, 20, 10)


def test_collapse_leaves_repeats_by_chance_alone_but_not_by_design():
    rng = np.random.default_rng(2)
    masks, outputs = rng.random((100, 3)) < 0.5, rng.normal(size=(100, 2))
    found = collapse(masks, outputs)
    np.testing.assert_array_equal(found.masks.unpack(), masks)
    assert found.within is None
    assert len(collapse(masks, outputs, np.arange(100)).masks) == 8
    masks = np.repeat(rng.random((50, 20)) < 0.5, 2, axis=0)
    found = collapse(masks, outputs)
    assert len(found.masks) == 50
    pairs = outputs.reshape(50, 2, 2)
    np.testing.assert_allclose(found.within, pairs.var(1, ddof=1).mean(0))
