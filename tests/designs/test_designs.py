import string
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import xarray as xr
from conftest import Compose
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from sourcewise import designs
from sourcewise.commands import train
from sourcewise.core import names, randomness
from sourcewise.core.errors import SourcewiseError
from sourcewise.designs import chosen_designs, random_designs
from sourcewise.designs.files import write_names
from sourcewise.records import record

GROUPS = list(string.digits + string.ascii_uppercase)


def draw(groups: Sequence[str] | range, **subset: Any) -> np.ndarray:
    return designs.draw(groups, subset)  # type: ignore[arg-type]


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
    assert kept(random_designs.random(GROUPS, fraction, seed)) == GOLDEN[fraction, seed]


HADAMARD = {
    0: "123589AEFGHILNPRSTUVWX",
    1: "3456CEFGHILMOQRSTUWXYZ",
    64: "0467BCDJKMOQYZ",
    128: "12345678ACEJKLQTUWXY",
}


@pytest.mark.parametrize("seed", list(HADAMARD))
def test_hadamard_subsets_never_change(seed: int) -> None:
    assert kept(random_designs.hadamard(GROUPS, seed)) == HADAMARD[seed]


@pytest.mark.parametrize("groups", [12, 36, 63, 64, 200])
def test_hadamard_is_balanced(groups: int) -> None:
    order = 1 << groups.bit_length()
    signs = np.array([random_designs.hadamard(range(groups), seed) for seed in range(4 * order)]) * 2 - 1
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
    assert random_designs.hadamard(range(groups), seed).any()


@pytest.mark.parametrize("design", ["random", "hadamard"])
def test_a_subset_of_a_million_groups_takes_no_time(design: str) -> None:
    settings = {"fraction": 0.5} if design == "random" else {}
    seconds = []
    for _ in range(3):
        start = time.process_time()
        mask = draw(range(1_281_167), design=design, seed=1234, **settings)
        seconds.append(time.process_time() - start)
    assert min(seconds) < 1
    assert abs(mask.mean() - 0.5) < 0.003


def test_replicas_share_their_subset_and_not_their_training() -> None:
    settings = [{"design": "replicated", "fraction": 0.5, "replicas": 4, "seed": seed} for seed in range(128)]
    masks = np.array([draw(GROUPS, **each) for each in settings])
    assert np.array_equal(masks[::4], [random_designs.random(GROUPS, 0.5, seed) for seed in range(32)])
    assert all(np.array_equal(masks[::4], masks[n::4]) for n in range(4))
    seeds = {
        randomness.seed("order" + suffix, seed, mask)
        for mask, each in zip(masks, settings, strict=True)
        for suffix in (
            designs.replica(each),
            designs.replica({"design": "random", "fraction": 0.5, "seed": each["seed"] // 4}),
        )
        for seed in (0, 1)
    }
    assert len(seeds) == 32 * (4 + 1) * 2  # and none of them is that of a random run
    assert (
        designs.replica({"design": "random", "fraction": 0.5, "seed": 0}) == ""
    )  # whose streams are those of its seed and mask alone


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


def test_streams_never_change() -> None:
    mask = random_designs.random(["x"] * 1000, 0.5, 12345)
    assert randomness.seed("initialisation", 3, mask) == 8172329116814454567
    assert randomness.uniform("k", 3).tolist() == [0.246809207018448, 0.4832145229434234, 0.6677113017468435]
    assert randomness.permutation("k", 8).tolist() == [0, 7, 1, 3, 2, 4, 6, 5]


@given(st.integers(1, 200), st.floats(0.01, 1), st.integers(0, 2**40))
def test_random_has_the_size_asked_for(groups: int, fraction: float, seed: int) -> None:
    names = [str(i) for i in range(groups)]
    mask = random_designs.random(names, fraction, seed)
    assert mask.dtype == bool
    assert mask.sum() == max(1, round(fraction * groups))
    assert np.array_equal(mask, random_designs.random(names, fraction, seed))


def test_random_keeps_groups_and_pairs_equally_often() -> None:
    masks = np.array([random_designs.random(GROUPS, 0.5, seed) for seed in range(4000)]).astype(float)
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
    keep, drop = chosen_designs.listed(GROUPS, keep=names), chosen_designs.listed(GROUPS, drop=names)
    assert set(kept(keep)) == set(names)
    assert np.array_equal(keep, ~drop)


def test_listed_reads_a_file(tmp_path: Path) -> None:
    path = tmp_path / "keep.txt"
    path.write_text("# the vowels\nA\nE\n\n I \nO\nU\n", encoding="utf-8")
    assert kept(draw(GROUPS, design="listed", keep=str(path))) == "AEIOU"


NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)


@given(st.lists(NAMES, min_size=2, unique=True), st.data())
def test_a_file_of_any_names_is_read_as_quote(names: list[str], data: st.DataObject) -> None:
    chosen = data.draw(st.lists(st.sampled_from(names), min_size=1, unique=True))
    with TemporaryDirectory() as folder:
        path = Path(folder, "keep.txt")
        write_names(path, "three of them", chosen)
        mask = draw(names, design="listed", keep=str(path))
    assert set(np.array(names, object)[mask]) == set(chosen)


def write_ranking(path: Path, scores: dict[str, float | str]) -> str:
    lines = [f"{group},{score}" for group, score in scores.items()]
    path.write_text("\n".join(["group,score", *lines]) + "\n", encoding="utf-8")
    return str(path)


SCORES = {group: float((7 * place) % 36) for place, group in enumerate(GROUPS)}


def test_ranked_removes_from_either_end(tmp_path: Path) -> None:
    path = write_ranking(tmp_path / "a.csv", SCORES)
    ordered = sorted(GROUPS, key=lambda group: SCORES[group])
    for order, line in (("worst", ordered), ("best", ordered[::-1])):
        for remove, count in ((5, 5), (0.25, 9), (35, 35), (0, 0)):
            mask = draw(GROUPS, design="ranked", ranking=path, order=order, remove=remove)
            assert set(kept(mask)) == set(line[count:]), (order, remove)


def test_random_removals_differ_by_seed_and_are_nested(tmp_path: Path) -> None:
    path = write_ranking(tmp_path / "a.csv", SCORES)

    def removed(remove: int, seed: int) -> set[str]:
        mask = draw(GROUPS, design="ranked", ranking=path, order="random", remove=remove, seed=seed)
        return set(GROUPS) - set(kept(mask))

    draws = [removed(10, seed) for seed in range(400)]
    assert len(set(map(frozenset, draws))) == 400
    assert removed(5, 3) < removed(10, 3)
    counts = np.array([sum(group in draw for draw in draws) for group in GROUPS])
    assert np.abs(counts - 400 * 10 / 36).max() < 4.5 * np.sqrt(400 * 10 / 36 * 26 / 36)


def test_unknown_scores_are_neither_worst_nor_best_and_ties_go_by_name(tmp_path: Path) -> None:
    path = write_ranking(tmp_path / "a.csv", {"c": 1, "b": 1, "d": "nan", "a": 2, "e": ""})
    for order, line in (("worst", "bca"), ("best", "abc")):
        for count in (1, 2, 3):
            mask = draw(list("abcde"), design="ranked", ranking=path, order=order, remove=count)
            assert {name for name, keep in zip("abcde", mask, strict=True) if not keep} == set(line[:count])
    with pytest.raises(SourcewiseError, match="only 3 of its 5 groups have a score"):
        draw(list("abcde"), design="ranked", ranking=path, order="worst", remove=4)


def test_a_ranked_run_is_named_by_what_is_removed(tiny: Compose, tmp_path: Path) -> None:
    def name(path: str, *overrides: str) -> str:
        config = tiny("subset=ranked", f"subset.ranking={path}", "subset.remove=5", *overrides)
        config["subset"] = designs.resolve(config["subset"])
        assert designs.resolve(config["subset"]) == config["subset"]
        return names.run_name(config)

    path = write_ranking(tmp_path / "a.csv", SCORES)
    worst, drawn = (
        designs.resolve({"design": "ranked", "ranking": path, "order": o, "remove": 5, "target": None, "seed": 7})
        for o in ("worst", "random")
    )
    assert (worst["ranking"][:2], worst.get("seed"), drawn.get("ranking"), drawn["seed"]) == ("a@", None, None, 7)
    before, drawn = name(path), name(path, "subset.order=random")
    (tmp_path / "other").mkdir()
    moved = write_ranking(tmp_path / "other" / "a.csv", {group: 2 * score for group, score in SCORES.items()})
    assert name(moved) == before  # the same order elsewhere
    write_ranking(tmp_path / "a.csv", {group: -score for group, score in SCORES.items()})
    assert name(path) != before  # another order under the same path
    assert name(path, "subset.order=random") == drawn  # which no ranking decides
    assert name(path, "subset.order=random", "seed=1").rpartition("-")[2] != drawn.rpartition("-")[2]
    nothing = name(path, "subset.remove=0")
    assert nothing == names.run_name(tiny("subset=full")) == name(path, "subset.remove=0", "subset.order=random")


def test_a_list_s_file_may_change_and_then_is_another_run(tiny: Compose, tmp_path: Path) -> None:
    path = tmp_path / "keep.txt"
    runs = []
    for text in ("A\nB\n", "A\nC\n"):
        path.write_text(text)
        config = tiny("subset=listed", f"subset.keep={path}")
        runs.append(names.run_name({**config, "subset": designs.resolve(config["subset"])}))
    assert runs[0] != runs[1]


def test_a_ranking_is_read_from_influences(tmp_path: Path) -> None:
    found = xr.Dataset({"influence_overall": ("group", list(SCORES.values()))}, {"group": GROUPS}, {"target": "pets"})
    found.to_netcdf(tmp_path / "influences.nc", engine="h5netcdf")
    settings = {"ranking": str(tmp_path / "influences.nc"), "order": "worst", "remove": 7}
    expected = draw(GROUPS, design="ranked", **{**settings, "ranking": write_ranking(tmp_path / "a.csv", SCORES)})
    assert np.array_equal(draw(GROUPS, design="ranked", **settings), expected)
    with pytest.raises(SourcewiseError, match="influences on pets"):
        draw(GROUPS, design="ranked", target="birds", **settings)


@pytest.mark.parametrize(
    ("changes", "text", "message"),
    [
        ({"remove": 36}, None, "one at least must be left"),
        ({"remove": -1}, None, "give a number"),
        ({"remove": 1.5}, None, "give a number"),
        ({"remove": True}, None, "subset.remove=True"),
        ({"order": "wurst"}, None, "'worst', 'random' or 'best'"),
        ({"ranking": "missing.csv"}, None, "missing.csv"),
        ({}, "group,score\nA,1\nB,2\n", "does not rank the source's 36 groups"),
        ({}, "group,score\nA,1\nA,2\n", "names a group twice"),
        ({}, "group,score\n", "it is empty"),
        ({}, "name,score\nA,1\n", "it has no 'group'"),
        ({}, "group,score\nA,much\n", "much"),
        ({"ranking": __file__}, None, r"cannot read this ranking \((?!it has no).*\); give an influences.nc"),
    ],
)
def test_bad_rankings_are_one_clear_line(tmp_path: Path, changes: dict, text: str | None, message: str) -> None:
    path = write_ranking(tmp_path / "a.csv", SCORES)
    if text is not None:
        Path(path).write_text(text)
    with pytest.raises(SourcewiseError, match=message) as caught:
        draw(GROUPS, **({"design": "ranked", "ranking": path, "order": "worst", "remove": 1} | changes))
    assert "\n" not in str(caught.value)


def test_a_ranking_that_is_no_path_is_told_before_a_run_is_named() -> None:
    with pytest.raises(SourcewiseError, match=r"^subset.ranking=3: input should be a valid string"):
        designs.resolve({"design": "ranked", "ranking": 3, "order": "worst", "remove": 1, "target": None})


def test_full_keeps_all() -> None:
    assert draw(GROUPS, design="full").all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"design": "listed"}, r"^subset=listed: set exactly one of subset.keep and subset.drop$"),
        ({"design": "listed", "keep": ["A"], "drop": ["B"]}, "exactly one"),
        ({"design": "listed", "keep": ["a"]}, "'a'"),
        (
            {"design": "listed", "drop": ["zzz"]},
            r"subset.drop: .* 'zzz'; the groups are '\w', ('\w+', ){3}'\w' and 31 more",
        ),
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
        draw(GROUPS, **settings)
    assert "\n" not in str(caught.value)


def test_streams_of_seeds_and_subsets_differ() -> None:
    one, two = (random_designs.random(GROUPS, 0.5, seed) for seed in (0, 1))
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


def test_all_groups_as_flags_and_one_replica_as_none() -> None:
    groups = [*"abcdef"]
    assert chosen_designs.full(groups).dtype == bool
    assert np.array_equal(random_designs.replicated(groups, 0.5, 1, 3), random_designs.random(groups, 0.5, 3))


@pytest.mark.parametrize("setting", ["keep", "drop"])
def test_a_list_takes_the_place_of_its_file(tmp_path: Path, setting: str) -> None:
    path = tmp_path / "names.txt"
    path.write_text("a\nb\n")
    assert designs.resolve({"design": "listed", setting: str(path)})[setting] == ["a", "b"]
