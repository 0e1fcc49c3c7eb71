import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sourcewise.errors import SourcewiseError
from sourcewise.moments import Moments, Stream, collapse
from tests.test_calibration import design

FIELDS = ("count", "kept", "total", "square", "kept_total", "kept_square", "gram", "pair_total", "pair_square", "pairs")


def study(seed, models=40, groups=5, columns=3, dtype=np.float64, offset=0.0):
    rng = np.random.default_rng(seed)
    masks = rng.random((models, groups)) < rng.uniform(0.2, 0.8, groups)
    return masks, (rng.normal(size=(models, columns)) + offset).astype(dtype)


def same(a, b, tolerance=1e-9):
    b = b.moved(a.reference)
    for name in FIELDS:
        left, right = getattr(a, name), getattr(b, name)
        np.testing.assert_allclose(left, right, rtol=tolerance, atol=tolerance * max(1.0, np.abs(right).max()))


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 9999), cuts=st.lists(st.integers(0, 40), max_size=4), turn=st.randoms())
def test_chunks_order_and_merging_do_not_matter(seed, cuts, turn):
    masks, outputs = study(seed)
    whole = Moments.empty(5, 3, gram=True).update(masks, outputs)
    edges = [0, *sorted(cuts), 40]
    parts = [slice(a, b) for a, b in itertools.pairwise(edges)]
    chunked = Moments.empty(5, 3, gram=True)
    for part in parts:
        chunked.update(masks[part], outputs[part])
    same(whole, chunked)
    turn.shuffle(parts)
    merged = Moments.empty(5, 3, gram=True)
    for part in parts:
        merged = merged + Moments.empty(5, 3, gram=True).update(masks[part], outputs[part])
    same(whole, merged)
    stream = Stream(5, 3, gram=True)
    for i in np.random.default_rng(seed).permutation(40):
        stream.add(masks[i], outputs[i])
    same(whole, stream.moments())
    same(whole - Moments.empty(5, 3, gram=True).update(masks[:7], outputs[:7]),
         Moments.empty(5, 3, gram=True).update(masks[7:], outputs[7:]))  # fmt: skip


def test_sums_are_those_of_brute_force():
    masks, outputs = study(1)
    m = Moments.empty(5, 3, gram=True).update(masks, outputs).moved(np.zeros(3))
    np.testing.assert_allclose(m.kept, masks.sum(0))
    np.testing.assert_allclose(m.kept_total, outputs.T @ masks, atol=1e-12)
    np.testing.assert_allclose(m.kept_square, (outputs**2).T @ masks, atol=1e-12)
    np.testing.assert_allclose(m.gram, masks.T.astype(float) @ masks)
    np.testing.assert_allclose(m.mean(), outputs.mean(0))


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_many_rows_and_columns_with_a_large_mean_keep_their_digits(dtype):
    masks, outputs = study(2, models=2500, groups=4, columns=1300, dtype=dtype, offset=300)
    exact = Moments.empty(4, 1300, gram=True).update(masks, outputs.astype(np.float64))
    same(exact, Moments.empty(4, 1300, gram=True).update(masks, outputs), 1e-5)


def test_stream_flushes_blocks_and_goes_on_after_a_look():
    masks, outputs = study(3, models=1500)
    stream = Stream(5, 3, gram=True)
    for i, (mask, output) in enumerate(zip(masks, outputs, strict=True)):
        stream.add(mask, output)
        if i == 700:
            assert stream.moments().count == 701
    same(Moments.empty(5, 3, gram=True).update(masks, outputs), stream.moments())


def test_stream_keeps_what_it_was_given_though_the_caller_reuses_its_buffers():
    masks, outputs = study(4)
    stream, mask, output = Stream(5, 3, gram=True), np.zeros(5, bool), np.zeros(3)
    for row in range(len(masks)):
        mask[:], output[:] = masks[row], outputs[row]
        stream.add(mask, output)
    same(Moments.empty(5, 3, gram=True).update(masks, outputs), stream.moments())


@pytest.mark.parametrize(
    ("masks", "outputs", "says"),
    [
        (np.ones((2, 5)), np.ones((2, 3)), "must be bool"),
        (np.ones((2, 4), bool), np.ones((2, 3)), "4 groups, but 5"),
        (np.ones((2, 5), bool), np.ones((2, 2)), "2 columns, but 3"),
        (np.ones((3, 5), bool), np.ones((2, 3)), "3 masks but 2 rows"),
        (np.ones(5, bool), np.ones(3), "two dimensions"),
        (np.ones((2, 5), bool), np.array([[1, 1, 1], [1, np.nan, 1.0]]), r"1 of 2 rows \(1\)"),
        (np.ones((2, 5), bool), np.array([["a"] * 3] * 2), "real numbers"),
    ],
)
def test_bad_input_is_refused_and_nothing_is_added(masks, outputs, says):
    moments = Moments.empty(5, 3)
    with pytest.raises(SourcewiseError, match=says):
        moments.update(masks, outputs)
    assert moments.count == 0
    assert not moments.kept_total.any()


def test_moments_of_other_shapes_do_not_combine():
    with pytest.raises(SourcewiseError, match="do not combine"):
        Moments.empty(5, 3) + Moments.empty(5, 4)
    with pytest.raises(SourcewiseError, match="a group and a column"):
        Moments.empty(0, 3)


def foldover(seed, groups=6, pairs=20, columns=3):
    rng = np.random.default_rng(seed)
    masks = design("hadamard", groups, 2 * pairs, rng)
    return masks, rng.normal(5, 1, (2 * pairs, columns))


@given(cut=st.integers(0, 20), seed=st.integers(0, 99))
def test_pairs_add_up_and_move(cut, seed):
    masks, outputs = foldover(seed)
    whole = Moments.empty(6, 3, gram=True).update(masks, outputs, paired=True)
    parts = [Moments.empty(6, 3, gram=True).update(masks[s], outputs[s], paired=True)
             for s in (slice(0, 2 * cut), slice(2 * cut, 40))]  # fmt: skip
    same(whole, parts[0] + parts[1])
    same(parts[0], whole - parts[1])
    spread, free = whole.spread()
    halves = (outputs[0::2] - outputs[1::2]) / 2
    np.testing.assert_allclose(spread, 2 * (halves**2).sum(0))
    assert free == 20


def test_spread_without_pairs_is_the_sum_of_squares_about_the_mean():
    masks, outputs = study(5)
    spread, free = Moments.empty(5, 3).update(masks, outputs).spread()
    np.testing.assert_allclose(spread, 40 * outputs.var(0))
    assert free == 39


def test_collapse_averages_seeds_and_pairs_complements():
    masks, outputs = foldover(0, groups=20, pairs=30)
    masks, outputs = np.vstack([masks, ~masks[:1], masks[:2]]), np.vstack([outputs, outputs[:1], outputs[:2] + 1])
    order = np.random.default_rng(1).permutation(len(masks))
    found = collapse(masks[order], outputs[order], np.arange(63))
    assert found.pairs == 30
    assert found.runs.sum() == 63
    np.testing.assert_array_equal(found.masks[0::2], ~found.masks[1::2])
    np.testing.assert_array_equal(found.unit, np.arange(60) // 2)
    row = int(np.flatnonzero((found.masks == masks[0]).all(1))[0])
    np.testing.assert_allclose(found.outputs[row], outputs[0] + 0.5)
    assert found.runs[row] == 2
    assert found.moments().pairs == 30
    half = found.take(np.arange(10))
    assert (half.pairs, len(half.masks), half.moments().pairs) == (10, 20, 10)


def test_collapse_leaves_repeats_by_chance_alone_but_not_by_design():
    rng = np.random.default_rng(2)
    masks, outputs = rng.random((100, 3)) < 0.5, rng.normal(size=(100, 2))
    found = collapse(masks, outputs)
    np.testing.assert_array_equal(found.masks, masks)
    assert found.within is None
    assert len(collapse(masks, outputs, np.arange(100)).masks) == 8
    masks = np.repeat(rng.random((50, 20)) < 0.5, 2, axis=0)
    found = collapse(masks, outputs)
    assert len(found.masks) == 50
    pairs = outputs.reshape(50, 2, 2)
    np.testing.assert_allclose(found.within, pairs.var(1, ddof=1).mean(0))


def test_pairs_that_are_none_are_refused():
    masks, outputs = study(6)
    with pytest.raises(SourcewiseError, match="a subset and its complement"):
        Moments.empty(5, 3).update(masks, outputs, paired=True)
