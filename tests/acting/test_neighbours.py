"""What models near a subset say of single groups there: slopes that are as uncertain as they say, and draws by them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sourcewise.acting.search.neighbours import MOVES, NEAR, Slopes, draws, local_slopes, moves


def test_slopes_are_those_of_bayesian_ridge_and_their_errors_are_as_large_as_they_say() -> None:
    from sklearn.linear_model import Ridge

    rng = np.random.default_rng(0)
    keep, ratios = np.arange(12) % 3 > 0, []
    for _ in range(60):
        truth, prior = rng.normal(0, 1, 12), rng.normal(0, 0.2, 12)
        masks = keep ^ (rng.random((100, 12)) < 0.3)
        values = masks @ (prior + truth) + rng.normal(0, 1, 100)
        slopes = local_slopes(keep.tolist(), masks, values, prior)
        ratios.append((slopes.mean - prior - truth) / np.sqrt((slopes.root @ slopes.root).diagonal()))
        rest = values - masks @ prior
        fits = [prior + Ridge(alpha=10.0**power).fit(masks, rest).coef_ for power in np.linspace(-4, 5, 721)]
        assert min(np.abs(fit - slopes.mean).max() for fit in fits) < 0.02
    assert np.std(ratios) == pytest.approx(1, abs=0.1)


def test_groups_that_no_model_tells_of_are_as_uncertain_as_the_spread_of_the_others_says() -> None:
    rng = np.random.default_rng(1)
    masks = np.ones((80, 20), bool)
    masks[:, :19] = rng.random((80, 19)) < 0.5
    values = masks @ rng.normal(0, 1, 20) + rng.normal(0, 0.1, 80)
    slopes = local_slopes([True] * 20, masks, values, np.zeros(20))
    deviation = np.sqrt((slopes.root @ slopes.root).diagonal())
    assert slopes.mean[19] == pytest.approx(0, abs=1e-9)
    assert deviation[19] == pytest.approx(1, abs=0.5)
    assert deviation[:19].max() < 0.1


def test_a_group_in_doubt_is_drawn_in_half_of_the_subsets_and_a_sure_one_in_all() -> None:
    keep = [True, True, False, False, *[True] * 8]
    slopes = Slopes(np.array([5.0, -5.0, 0.0, -5.0, *[5.0] * 8]), np.diag([0.1, 0.1, 1.0, 0.1, *[0.0] * 8]))
    drawn = np.array([item.keep for item in draws(keep, slopes, 400, "test")])
    assert drawn[:, 0].all()
    assert not drawn[:, 1].any()
    assert 0.42 < drawn[:, 2].mean() < 0.58
    assert not drawn[:, 3].any()


@given(st.integers(1, 30), st.integers(0, 10**6))
@settings(deadline=None)
def test_subsets_that_are_drawn_or_moved_to_keep_something_and_drawn_ones_are_near(groups: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    keep = rng.random(groups) < 0.5
    keep[rng.integers(groups)] = True
    slopes = Slopes(rng.normal(-1, 1, groups), np.eye(groups))
    drawn = np.array([item.keep for item in draws(keep.tolist(), slopes, 9, f"test/{seed}")])
    assert drawn.any(1).all()
    assert ((drawn ^ keep).mean(1) <= NEAR).all()
    moved = [np.array(item.keep) for item in moves(keep.tolist(), slopes)]
    assert len(moved) <= MOVES
    assert all(item.any() and (item != keep).any() for item in moved)
    gains = np.where(keep, -slopes.mean, slopes.mean)
    if moved and not (gains > 0).all():
        assert ((moved[0] ^ keep) <= (gains > 0)).all()
