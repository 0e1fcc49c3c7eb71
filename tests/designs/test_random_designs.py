"""Random designs: golden subsets that can never change, and the distributions that they promise."""

import string
import time
from typing import Any

import numpy as np
import pytest
from conftest import Compose
from hypothesis import example, given
from hypothesis import strategies as st
from scipy import stats

from sourcewise import designs
from sourcewise.commands import train
from sourcewise.core import names, randomness
from sourcewise.core.errors import SourcewiseError
from sourcewise.designs.random_designs import hadamard, random, replicated
from sourcewise.records import record

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
    assert kept(random(GROUPS, fraction, seed)) == GOLDEN[fraction, seed]


HADAMARD = {
    0: "123589AEFGHILNPRSTUVWX",
    1: "3456CEFGHILMOQRSTUWXYZ",
    64: "0467BCDJKMOQYZ",
    128: "12345678ACEJKLQTUWXY",
}


@pytest.mark.parametrize("seed", list(HADAMARD))
def test_hadamard_subsets_never_change(seed: int) -> None:
    assert kept(hadamard(GROUPS, seed)) == HADAMARD[seed]


@pytest.mark.parametrize("groups", [12, 36, 63, 64, 200])
def test_hadamard_is_balanced(groups: int) -> None:
    order = 1 << groups.bit_length()
    signs = np.array([hadamard(range(groups), seed) for seed in range(4 * order)]) * 2 - 1
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
    assert hadamard(range(groups), seed).any()


@pytest.mark.parametrize("design", ["random", "hadamard"])
def test_a_subset_of_a_million_groups_takes_no_time(design: str) -> None:
    settings = {"fraction": 0.5} if design == "random" else {}
    seconds = []
    for _ in range(3):
        start = time.process_time()
        mask = designs.draw(range(1_281_167), {"design": design, "seed": 1234, **settings})  # type: ignore[arg-type]
        seconds.append(time.process_time() - start)
    assert min(seconds) < 1
    assert abs(mask.mean() - 0.5) < 0.003


@given(st.integers(1, 200), st.floats(0.01, 1), st.integers(0, 2**40))
@example(20, 1.0, 3)
def test_random_has_the_size_asked_for(groups: int, fraction: float, seed: int) -> None:
    listing = [str(i) for i in range(groups)]
    mask = random(listing, fraction, seed)
    assert mask.dtype == bool
    assert mask.sum() == max(1, round(fraction * groups))
    assert np.array_equal(mask, random(listing, fraction, seed))


def test_random_keeps_groups_and_pairs_equally_often() -> None:
    masks = np.array([random(GROUPS, 0.5, seed) for seed in range(4000)]).astype(float)
    k = len(GROUPS)
    spread = (masks.mean(0) - 0.5) / np.sqrt(0.25 / len(masks))
    assert np.abs(spread).max() < stats.norm.isf(0.0005 / k)
    pairs = (masks.T @ masks / len(masks))[np.triu_indices(k, 1)]
    expected = 0.5 * (k / 2 - 1) / (k - 1)
    assert np.abs(pairs - expected).max() / np.sqrt(expected * (1 - expected) / len(masks)) < stats.norm.isf(
        0.0005 / len(pairs)
    )


def test_replicas_share_their_subset_and_not_their_training() -> None:
    settings = [{"design": "replicated", "fraction": 0.5, "replicas": 4, "seed": seed} for seed in range(128)]
    masks = np.array([designs.draw(GROUPS, each) for each in settings])
    assert np.array_equal(masks[::4], [random(GROUPS, 0.5, seed) for seed in range(32)])
    assert all(np.array_equal(masks[::4], masks[n::4]) for n in range(4))
    seeds = {
        randomness.derive_seed("order" + suffix, seed, mask)
        for mask, each in zip(masks, settings, strict=True)
        for suffix in (
            designs.DESIGNS["replicated"].replica(each),
            designs.DESIGNS["random"].replica({"fraction": 0.5, "seed": each["seed"] // 4}),
        )
        for seed in (0, 1)
    }
    assert len(seeds) == 32 * (4 + 1) * 2  # and none of them is that of a random run
    # The streams of other designs are those of the seed and the mask alone.
    assert designs.DESIGNS["random"].replica({"fraction": 0.5, "seed": 0}) == ""
    assert np.array_equal(replicated(GROUPS, 0.5, 1, 3), random(GROUPS, 0.5, 3))


def test_replicas_are_runs_with_outputs_of_their_own(tiny: Compose) -> None:
    items = []
    for overrides in (
        ("subset=replicated", "subset.seed=12"),
        ("subset=replicated", "subset.seed=13"),
        ("subset.seed=3",),
    ):
        config = tiny(*overrides)
        train.train(config)
        items.append(record.read(names.run_dir(config) / names.RECORD))
    assert len({item.header.run for item in items}) == 3
    assert len({item.header.study for item in items}) == 1
    assert len({item.mask.tobytes() for item in items}) == 1
    assert len({item.targets["digits"].margin.tobytes() for item in items}) == 3


@pytest.mark.parametrize(
    "settings",
    [
        {"design": "random", "fraction": 0.0, "seed": 0},
        {"design": "random", "fraction": 1.5, "seed": 0},
        {"design": "random", "fraction": 0.5, "seed": -1},
        {"design": "replicated", "fraction": 0.5, "replicas": 0, "seed": 0},
        {"design": "randm"},
    ],
)
def test_bad_settings_are_one_clear_line(settings: dict[str, Any]) -> None:
    culprit = next(key for key, value in settings.items() if value in (0, 0.0, 1.5, -1, "randm"))
    with pytest.raises(SourcewiseError, match=f"^subset.{culprit}=") as caught:
        designs.draw(GROUPS, settings)
    assert "\n" not in str(caught.value)
