"""Streams of random numbers: what they are can never change."""

from scipy import stats

from sourcewise.core import randomness
from sourcewise.designs.random_designs import random


def test_streams_never_change() -> None:
    mask = random(["x"] * 1000, 0.5, 12345)
    assert randomness.derive_seed("initialisation", 3, mask) == 8172329116814454567
    assert randomness.uniform("k", 3).tolist() == [0.246809207018448, 0.4832145229434234, 0.6677113017468435]
    assert randomness.permutation("k", 8).tolist() == [0, 7, 1, 3, 2, 4, 6, 5]


def test_streams_of_seeds_and_subsets_differ() -> None:
    first, second = (random([*"abcdefghijklm"], 0.5, seed) for seed in (0, 1))
    seeds = {
        randomness.derive_seed(purpose, seed, mask)
        for purpose in ("order", "initialisation")
        for seed in (0, 1)
        for mask in (first, second)
    }
    assert len(seeds) == 8
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_uniform_is_uniform() -> None:
    assert stats.kstest(randomness.uniform("test", 20000), "uniform").pvalue > 0.001
