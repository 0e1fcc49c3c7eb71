import string
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import Compose
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

import train
from sourcewise import randomness, record, study, subsets
from sourcewise.errors import SourcewiseError

GROUPS = list(string.digits + string.ascii_uppercase)


def kept(mask: np.ndarray) -> str:
    return "".join(name for name, keep in zip(GROUPS, mask, strict=True) if keep)


GOLDEN = {
    (0.5, 0): "024568ABHIKNOPQTVZ",
    (0.5, 1): "01256BDEIKNOPQVWYZ",
    (0.25, 7): "39CDKLMQY",
}


@pytest.mark.parametrize(("fraction", "seed"), list(GOLDEN))
def test_random_subsets_never_change(fraction: float, seed: int) -> None:
    # If this fails, old records no longer mean what their config says: do not update, find out.
    assert kept(subsets.random(GROUPS, fraction, seed)) == GOLDEN[fraction, seed]


HADAMARD = {
    0: "123589AEFGHILNPRSTUVWX",
    1: "3456CEFGHILMOQRSTUWXYZ",
    64: "0467BCDJKMOQYZ",
    128: "12345678ACEJKLQTUWXY",
}


@pytest.mark.parametrize("seed", list(HADAMARD))
def test_hadamard_subsets_never_change(seed: int) -> None:
    assert kept(subsets.hadamard(GROUPS, seed)) == HADAMARD[seed]


@pytest.mark.parametrize("groups", [12, 36, 63, 64, 200])
def test_hadamard_is_balanced(groups: int) -> None:
    order = 1 << groups.bit_length()
    signs = np.array([subsets.hadamard(range(groups), seed) for seed in range(4 * order)]) * 2 - 1
    for block in (signs[: 2 * order], signs[2 * order :]):
        rows, complements = block[:order], block[order:]
        assert np.array_equal(complements, -rows)
        assert np.array_equal(rows.T @ rows, order * np.eye(groups))
    assert not np.array_equal(signs[: 2 * order], signs[2 * order :])
    # Any prefix is like a random draw, or better: rows in Sylvester's own order would repeat groups' patterns.
    part = signs[: order // 2].T @ signs[: order // 2] / (order // 2)
    assert (part[np.triu_indices(groups, 1)] ** 2).mean() < 2 / order * 1.3


@given(st.integers(1, 9), st.integers(0, 2**40))
def test_hadamard_never_leaves_nothing(groups: int, seed: int) -> None:
    assert subsets.hadamard(range(groups), seed).any()


@pytest.mark.parametrize("design", ["random", "hadamard"])
def test_a_subset_of_a_million_groups_takes_no_time(design: str) -> None:
    settings = {"fraction": 0.5} if design == "random" else {}
    seconds = []
    for _ in range(3):
        start = time.process_time()
        mask = subsets.draw(range(1_281_167), design=design, seed=1234, **settings)
        seconds.append(time.process_time() - start)
    assert min(seconds) < 1
    assert abs(mask.mean() - 0.5) < 0.003


def test_replicas_share_their_subset_and_not_their_training() -> None:
    settings = [{"design": "replicated", "fraction": 0.5, "replicas": 4, "seed": seed} for seed in range(128)]
    masks = np.array([subsets.draw(GROUPS, **each) for each in settings])
    assert np.array_equal(masks[::4], [subsets.random(GROUPS, 0.5, seed) for seed in range(32)])
    assert all(np.array_equal(masks[::4], masks[n::4]) for n in range(4))
    seeds = {
        randomness.seed("order" + suffix, seed, mask)
        for mask, each in zip(masks, settings, strict=True)
        for suffix in (subsets.replica(**each), subsets.replica("random", fraction=0.5, seed=each["seed"] // 4))
        for seed in (0, 1)
    }
    assert len(seeds) == 32 * (4 + 1) * 2  # and none of them is that of a random run


def test_replicas_are_runs_with_outputs_of_their_own(tiny: Compose) -> None:
    items = []
    for overrides in (
        ("subset=replicated", "subset.seed=12"),
        ("subset=replicated", "subset.seed=13"),
        ("subset.seed=3",),
    ):
        config = tiny(*overrides)
        train.train(config)
        items.append(record.read(study.run_dir(config) / study.RECORD))
    assert len({item.header.run for item in items}) == 3
    assert len({item.header.study for item in items}) == 1
    assert len({item.mask.tobytes() for item in items}) == 1
    assert len({item.targets["digits"].margin.tobytes() for item in items}) == 3


def test_streams_never_change() -> None:
    mask = subsets.random(["x"] * 1000, 0.5, 12345)
    assert randomness.seed("initialisation", 3, mask) == 8172329116814454567
    assert randomness.uniform("k", 3).tolist() == [0.246809207018448, 0.4832145229434234, 0.6677113017468435]
    assert randomness.permutation("k", 8).tolist() == [0, 7, 1, 3, 2, 4, 6, 5]


@given(st.integers(1, 200), st.floats(0.01, 1), st.integers(0, 2**40))
def test_random_has_the_size_asked_for(groups: int, fraction: float, seed: int) -> None:
    names = [str(i) for i in range(groups)]
    mask = subsets.random(names, fraction, seed)
    assert mask.dtype == bool
    assert mask.sum() == max(1, round(fraction * groups))
    assert np.array_equal(mask, subsets.random(names, fraction, seed))


def test_random_keeps_groups_and_pairs_equally_often() -> None:
    masks = np.array([subsets.random(GROUPS, 0.5, seed) for seed in range(4000)]).astype(float)
    k = len(GROUPS)
    spread = (masks.mean(0) - 0.5) / np.sqrt(0.25 / len(masks))
    assert np.abs(spread).max() < stats.norm.isf(0.0005 / k)
    pairs = (masks.T @ masks / len(masks))[np.triu_indices(k, 1)]
    expected = 0.5 * (k / 2 - 1) / (k - 1)
    assert np.abs(pairs - expected).max() / np.sqrt(expected * (1 - expected) / len(masks)) < stats.norm.isf(
        0.0005 / len(pairs)
    )


@given(st.lists(st.sampled_from(GROUPS), min_size=1, max_size=30, unique=True))
def test_listed_keeps_or_drops_exactly_what_it_says(names: list[str]) -> None:
    keep, drop = subsets.listed(GROUPS, keep=names), subsets.listed(GROUPS, drop=names)
    assert set(kept(keep)) == set(names)
    assert np.array_equal(keep, ~drop)


def test_listed_reads_a_file(tmp_path: Path) -> None:
    path = tmp_path / "keep.txt"
    path.write_text("# the vowels\nA\nE\n\n I \nO\nU\n", encoding="utf-8")
    assert kept(subsets.listed(GROUPS, keep=str(path))) == "AEIOU"


def test_full_keeps_all() -> None:
    assert subsets.draw(GROUPS, design="full").all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"design": "listed"}, "exactly one"),
        ({"design": "listed", "keep": ["A"], "drop": ["B"]}, "exactly one"),
        ({"design": "listed", "keep": ["a"]}, "'a'"),
        ({"design": "listed", "keep": []}, "no group is left"),
        ({"design": "listed", "drop": GROUPS}, "no group is left"),
        ({"design": "listed", "keep": "missing.txt"}, "missing.txt"),
        ({"design": "random", "fraction": 0.0, "seed": 0}, "fraction"),
        ({"design": "random", "fraction": 1.5, "seed": 0}, "fraction"),
        ({"design": "replicated", "fraction": 0.5, "replicas": 0, "seed": 0}, "replicas"),
        ({"design": "randm"}, "randm"),
    ],
)
def test_bad_settings_are_one_clear_line(settings: dict, message: str) -> None:
    with pytest.raises(SourcewiseError, match=message) as caught:
        subsets.draw(GROUPS, **settings)
    assert "\n" not in str(caught.value)


def test_streams_of_seeds_and_subsets_differ() -> None:
    one, two = (subsets.random(GROUPS, 0.5, seed) for seed in (0, 1))
    seeds = {
        randomness.seed(purpose, seed, mask)
        for purpose in ("order", "initialisation")
        for seed in (0, 1)
        for mask in (one, two)
    }
    assert len(seeds) == 8
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_uniform_is_uniform() -> None:
    assert stats.kstest(randomness.uniform("test", 20000), "uniform").pvalue > 0.001
