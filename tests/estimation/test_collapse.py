import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sourcewise.estimation.collapse import collapse
from sourcewise.estimation.moments import sum_models
from tests.estimation.test_calibration import design


def foldover(seed, groups=6, pairs=20, columns=3):
    rng = np.random.default_rng(seed)
    masks = design("hadamard", groups, 2 * pairs, rng)
    return masks, rng.normal(5, 1, (2 * pairs, columns))


def test_what_pairs_have_in_common_is_left_out_and_the_rest_stays():
    masks, outputs = foldover(0, groups=20)
    more = np.random.default_rng(1).random((3, 20)) < 0.3
    masks, outputs = np.vstack([masks, more]), np.vstack([outputs, outputs[:3] + 1])
    result = collapse(masks, outputs)
    assert (result.pairs, len(result.masks)) == (20, 43)
    sums, plain = result.moments(), sum_models([(masks, outputs)], 20, 3, gram=True)
    plain = plain.recentred(sums.reference)
    for name in ("count", "kept", "total", "gram", "kept_total"):
        np.testing.assert_allclose(getattr(sums, name), getattr(plain, name), atol=1e-9)
    spread, free = collapse(masks[:40], outputs[:40]).moments().squares_about_mean()
    halves = (outputs[0:40:2] - outputs[1:40:2]) / 2
    np.testing.assert_allclose(spread, 2 * (halves**2).sum(0))
    assert free == 20
    part = result.moments(slice(1, 3), slice(8, 20))
    np.testing.assert_allclose(part.kept_total, sums.kept_total[1:3, 8:])


def test_collapse_averages_seeds_and_pairs_complements():
    masks, outputs = foldover(0, groups=20, pairs=30)
    masks, outputs = np.vstack([masks, ~masks[:1], masks[:2]]), np.vstack([outputs, outputs[:1], outputs[:2] + 1])
    order = np.random.default_rng(1).permutation(len(masks))
    result = collapse(masks[order], outputs[order], np.arange(63))
    assert result.pairs == 30
    assert result.runs.sum() == 63
    kept = result.masks.unpack()
    np.testing.assert_array_equal(kept[0::2], ~kept[1::2])
    np.testing.assert_array_equal(result.unit[0::2], result.unit[1::2])
    np.testing.assert_array_equal(np.sort(result.unit), np.arange(60) // 2)
    row = int(np.flatnonzero((kept == masks[0]).all(1))[0])
    np.testing.assert_allclose(result.outputs[row], outputs[0] + 0.5)
    assert result.runs[row] == 2
    assert result.moments().pairs == 30
    half = result.take(np.arange(10))
    assert (half.pairs, len(half.masks), half.moments().pairs) == (10, 20, 10)


def test_collapse_leaves_repeats_by_chance_alone_but_not_by_design():
    rng = np.random.default_rng(2)
    masks, outputs = rng.random((100, 3)) < 0.5, rng.normal(size=(100, 2))
    result = collapse(masks, outputs)
    np.testing.assert_array_equal(result.masks.unpack(), masks)
    assert result.squares is None
    assert len(collapse(masks, outputs, np.arange(100)).masks) == 8
    masks = np.repeat(rng.random((50, 20)) < 0.5, 2, axis=0)
    result = collapse(masks, outputs)
    assert len(result.masks) == 50
    pairs = outputs.reshape(50, 2, 2)
    np.testing.assert_allclose(result.squares, pairs.var(1, ddof=1))


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 9999),
    models=st.integers(1, 40),
    groups=st.integers(1, 9),
    distinct=st.integers(1, 12),
    complements=st.booleans(),
    seeds=st.sampled_from(["none", "numbers", "words"]),
)
def test_collapse_is_that_of_pandas(seed, models, groups, distinct, complements, seeds):
    rng = np.random.default_rng(seed)
    pool = rng.random((distinct, groups)) < 0.5
    pool = np.vstack([pool, ~pool]) if complements else pool
    masks = pool[rng.integers(0, len(pool), models)]
    outputs = rng.integers(0, 3, (models, 2)).astype(float)
    labels = None if seeds == "none" else rng.integers(0, 3, models)
    labels = np.array([f"seed {label}" for label in labels]) if seeds == "words" else labels
    subsets = collapse(masks, outputs, labels)

    table = pd.DataFrame({"mask": [tuple(mask) for mask in masks.tolist()], "y0": outputs[:, 0], "y1": outputs[:, 1]})
    if labels is not None:
        table = table.assign(seed=labels).drop_duplicates()
    kept = [tuple(mask) for mask in subsets.masks.unpack().tolist()]
    assert subsets.runs.sum() == len(table)
    assert len(kept) == len(subsets.outputs) == len(subsets.unit)
    if subsets.squares is not None or labels is not None:
        means = table.groupby("mask", sort=False)[["y0", "y1"]].mean()
        assert sorted(kept) == sorted(means.index)
        np.testing.assert_allclose(subsets.outputs, means.loc[kept], atol=1e-12)
        np.testing.assert_array_equal(subsets.runs, table["mask"].value_counts().loc[kept])
    else:
        assert sorted(zip(kept, subsets.outputs.tolist(), strict=True)) == sorted(
            zip(table["mask"], table[["y0", "y1"]].values.tolist(), strict=True)
        )
    if subsets.squares is not None:
        squares = table.groupby("mask", sort=False)[["y0", "y1"]].agg(lambda y: ((y - y.mean()) ** 2).sum())
        np.testing.assert_allclose(subsets.squares, squares.loc[kept], atol=1e-12)
    paired = subsets.masks.unpack()[: 2 * subsets.pairs]
    np.testing.assert_array_equal(paired[::2], ~paired[1::2])
    np.testing.assert_array_equal(subsets.unit[: len(paired) : 2], subsets.unit[1 : len(paired) : 2])
    rows = np.repeat([2, 1], [len(paired), len(kept) - len(paired)])  # of the unit of each row
    np.testing.assert_array_equal(np.bincount(subsets.unit)[subsets.unit], rows)


@pytest.mark.parametrize("seeds", [None, "given"])
def test_rows_stand_in_the_order_in_which_subsets_first_appear(seeds):
    rng = np.random.default_rng(3)
    masks = np.repeat(rng.random((30, 12)) < 0.5, 3, axis=0)[rng.permutation(90)]
    subsets = collapse(masks, rng.normal(size=(90, 1)), None if seeds is None else np.arange(90))
    first = pd.DataFrame(masks).drop_duplicates().index
    np.testing.assert_array_equal(subsets.masks.unpack(), masks[first])


def test_folds_keep_units_whole_and_are_as_large_as_they_can_be():
    masks, outputs = foldover(0, groups=20, pairs=30)
    for units, folds in ((2, 2), (9, 2), (15, 3), (24, 4), (30, 5)):
        subsets = collapse(masks, outputs).take(np.arange(units))
        sizes = np.bincount(subsets.folds())
        assert len(sizes) == folds
        assert sizes.max() - sizes.min() <= 2
        np.testing.assert_array_equal(subsets.folds()[::2], subsets.folds()[1::2])
