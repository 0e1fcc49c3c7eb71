import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sourcewise.core.errors import SourcewiseError
from sourcewise.estimation.arrays import CELLS, PackedMasks, row_blocks
from sourcewise.estimation.collapse import Knowledge, collapse
from sourcewise.estimation.moments import sum_models

FIELDS = ("count", "kept", "total", "square", "kept_total", "kept_square", "gram", "pairs")


def study(seed, models=40, groups=5, columns=3, dtype=np.float64, offset=0.0):
    rng = np.random.default_rng(seed)
    masks = rng.random((models, groups)) < rng.uniform(0.2, 0.8, groups)
    return masks, (rng.normal(size=(models, columns)) + offset).astype(dtype)


def same(a, b, tolerance=1e-9):
    b = b.recentred(a.reference)
    for name in FIELDS:
        left, right = getattr(a, name), getattr(b, name)
        if left is None and right is None:
            continue
        np.testing.assert_allclose(left, right, rtol=tolerance, atol=tolerance * max(1.0, np.abs(right).max()))


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 9999), cuts=st.lists(st.integers(0, 40), max_size=4), turn=st.randoms())
def test_chunks_order_and_merging_do_not_matter(seed, cuts, turn):
    masks, outputs = study(seed)
    whole = sum_models([(masks, outputs)], 5, 3, gram=True)
    edges = [0, *sorted(cuts), 40]
    parts = [slice(a, b) for a, b in itertools.pairwise(edges)]
    same(whole, sum_models([(masks[part], outputs[part]) for part in parts], 5, 3, gram=True))
    turn.shuffle(parts)
    merged = sum_models([], 5, 3, gram=True)
    for part in parts:
        merged = merged + sum_models([(masks[part], outputs[part])], 5, 3, gram=True)
    same(whole, merged)
    same(whole - sum_models([(masks[:7], outputs[:7])], 5, 3, gram=True),
         sum_models([(masks[7:], outputs[7:])], 5, 3, gram=True))  # fmt: skip


def test_sums_are_those_of_brute_force():
    masks, outputs = study(1)
    m = sum_models([(masks, outputs)], 5, 3, gram=True).recentred(np.zeros(3))
    np.testing.assert_allclose(m.kept, masks.sum(0))
    np.testing.assert_allclose(m.kept_total, outputs.T @ masks, atol=1e-12)
    np.testing.assert_allclose(m.kept_square, (outputs**2).T @ masks, atol=1e-12)
    np.testing.assert_allclose(m.gram, masks.T.astype(float) @ masks)
    np.testing.assert_allclose(m.mean, outputs.mean(0))


def test_without_squares_by_group_all_other_sums_are_the_same_and_sides_have_no_variance():
    masks, outputs = study(1)
    full, part = (sum_models([(masks, outputs)], 5, 3, gram=True, squares=squares) for squares in (True, False))
    assert part.kept_square is (part + part).kept_square is None
    same(replace(full, kept_square=None), part, 0)
    with pytest.raises(SourcewiseError, match="squares=True"):
        part.side_means(slice(None))


def test_a_hierarchy_adds_up_and_is_taken_away():
    masks, outputs = study(6)
    knowledge = Knowledge(np.array([0, 1, 1]), np.ones(3), {}, 3 * outputs + 1)
    subsets = collapse(masks, outputs, knowledge=knowledge)
    units = np.arange(40)
    whole, left, right = (subsets.take(part).moments(hierarchy=True) for part in (units, units[:11], units[11:]))
    for result, expected in ((left + right, whole), (whole - left, right)):
        result, expected = result.hierarchy, expected.hierarchy
        same(expected.logits, result.logits)
        same(expected.classes, result.classes)
        np.testing.assert_allclose(result.products, expected.products)


def test_equal_outputs_vary_by_nothing_and_sums_of_both_precisions_have_the_rounding_of_the_coarser():
    masks = study(7, models=7)[0]
    values = np.array([0.1, 0.7, 1 / 3])  # whose means over seven models are a rounding off
    fine = sum_models([(masks, np.tile(values, (7, 1)))], 5, 3)
    assert (fine.square == 0).all()
    assert fine.gram is None
    coarse = sum_models([(masks, np.tile(values, (7, 1)).astype(np.float32))], 5, 3)
    assert (fine + coarse).precision == (coarse + fine).precision == np.finfo(np.float32).eps
    assert fine.precision == np.finfo(np.float64).eps


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_many_rows_and_columns_with_a_large_mean_keep_their_digits(dtype):
    masks, outputs = study(2, models=2500, groups=4, columns=1300, dtype=dtype, offset=300)
    exact = sum_models([(masks, outputs.astype(np.float64))], 4, 1300, gram=True)
    same(exact, sum_models([(masks, outputs)], 4, 1300, gram=True), 1e-5)


@given(seed=st.integers(0, 999), models=st.integers(0, 9), groups=st.integers(1, 40), left=st.sampled_from([0, 8, 16]))
def test_packed_masks_are_the_masks(seed, models, groups, left):
    masks = np.random.default_rng(seed).random((models, groups)) < 0.5
    packed = PackedMasks.pack(masks)
    np.testing.assert_array_equal(packed.unpack(), masks)
    np.testing.assert_array_equal(packed[1:5].unpack(slice(left, left + 11)), masks[1:5, left : left + 11])
    np.testing.assert_array_equal(packed.sizes(), masks.sum(1))
    np.testing.assert_allclose(packed.kept_share() * models, masks.sum(0))
    complements = packed.complements()
    np.testing.assert_array_equal(complements.unpack(), ~masks)
    assert complements.groups == groups


def test_masks_of_several_blocks_are_counted_together():
    masks = np.random.default_rng(0).random((5000, 9)) < 0.5
    packed = PackedMasks.pack(masks)
    assert len(packed.blocks()) > 1
    np.testing.assert_array_equal(packed.kept(), masks.sum(0))
    np.testing.assert_array_equal(packed.sizes(), masks.sum(1))


@pytest.mark.parametrize(("single", "free"), [(0, 6), (5, 10), (1, 6)])
def test_a_pair_of_complements_has_one_degree_of_freedom(single, free):
    masks, outputs = study(4, models=12 + single)
    assert sum_models([(masks, outputs)], 5, 3, pairs=6).squares_about_mean()[1] == free


def test_spread_without_pairs_is_the_sum_of_squares_about_the_mean():
    masks, outputs = study(5)
    spread, free = sum_models([(masks, outputs)], 5, 3).squares_about_mean()
    np.testing.assert_allclose(spread, 40 * outputs.var(0))
    assert free == 39


@pytest.mark.parametrize(
    ("shape", "rows"), [((10, CELLS // 8), 2), ((3, CELLS), 1), ((7, CELLS // 4 - 1), 1), ((5, 9), 5)]
)
def test_blocks_of_rows_cover_a_table_and_hold_a_quarter_of_the_cells_in_memory(shape, rows):
    blocks = [range(*block.indices(shape[0])) for block in row_blocks(shape)]
    assert [row for block in blocks for row in block] == list(range(shape[0]))
    assert len(blocks[0]) == rows
