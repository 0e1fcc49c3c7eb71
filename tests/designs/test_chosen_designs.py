"""Designs of chosen subsets: lists, rankings, and how their runs are named."""

import hashlib
import string
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from conftest import Compose
from hypothesis import given
from hypothesis import strategies as st

from sourcewise import designs
from sourcewise.core import names
from sourcewise.core.errors import SourcewiseError
from sourcewise.designs.chosen_designs import full, listed, ranked, ranked_curve

GROUPS = list(string.digits + string.ascii_uppercase)


def draw(groups: Sequence[str] | range, **subset: Any) -> np.ndarray:
    return designs.draw(groups, subset)  # type: ignore[arg-type]


def kept(mask: np.ndarray) -> str:
    return "".join(name for name, keep in zip(GROUPS, mask, strict=True) if keep)


def test_full_keeps_all() -> None:
    assert draw(GROUPS, design="full").all()
    assert full(GROUPS).dtype == bool


@given(st.lists(st.sampled_from(GROUPS), min_size=1, max_size=30, unique=True))
def test_listed_keeps_or_drops_exactly_what_it_says(chosen: list[str]) -> None:
    keep, drop = listed(GROUPS, keep=chosen), listed(GROUPS, drop=chosen)
    assert set(kept(keep)) == set(chosen)
    assert np.array_equal(keep, ~drop)


def test_listed_reads_a_file(tmp_path: Path) -> None:
    path = tmp_path / "keep.txt"
    path.write_text("# the vowels\nA\nE\n\n I \nO\nU\n", encoding="utf-8")
    assert kept(draw(GROUPS, design="listed", keep=str(path))) == "AEIOU"


@pytest.mark.parametrize("setting", ["keep", "drop"])
def test_a_list_takes_the_place_of_its_file(tmp_path: Path, setting: str) -> None:
    path = tmp_path / "names.txt"
    path.write_text("a\nb\n")
    assert designs.resolve({"design": "listed", setting: str(path)})[setting] == ["a", "b"]


def test_a_list_s_file_may_change_and_then_is_another_run(tiny: Compose, tmp_path: Path) -> None:
    path = tmp_path / "keep.txt"
    runs = []
    for text in ("A\nB\n", "A\nC\n"):
        path.write_text(text)
        config = tiny("subset=listed", f"subset.keep={path}")
        runs.append(names.run_name({**config, "subset": designs.resolve(config["subset"])}))
    assert runs[0] != runs[1]


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


def test_a_ranking_is_read_from_influences(tmp_path: Path) -> None:
    influences = xr.Dataset(
        {"influence_overall": ("group", list(SCORES.values()))}, {"group": GROUPS}, {"target": "pets"}
    )
    influences.to_netcdf(tmp_path / "influences.nc", engine="h5netcdf")
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
        ({"ranking": __file__}, None, r"cannot read scores of groups in it \((?!it has no).*\); give an influences.nc"),
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
    ],
)
def test_bad_settings_are_one_clear_line(settings: dict, message: str) -> None:
    with pytest.raises(SourcewiseError, match=message) as caught:
        draw(GROUPS, **settings)
    assert "\n" not in str(caught.value)


def test_the_curve_of_a_ranked_run_is_its_order_and_ranking() -> None:
    assert ranked_curve({"order": "random", "ranking": "scores.csv"}) == "random"
    assert ranked_curve({"order": "worst", "ranking": "scores.csv"}) == "worst, scores.csv"
    assert ranked_curve({"order": "best", "ranking": "other.csv"}) == "best, other.csv"
    with pytest.raises(ValueError, match="^order=middle$"):
        ranked_curve({"order": "middle", "ranking": "scores.csv"})


@pytest.mark.parametrize(("ranking", "place"), [("", "subset.ranking"), ("scores.csv", "subset.ranking=scores.csv")])
def test_a_ranking_of_other_groups_is_told_with_the_groups_of_this_source(ranking: str, place: str) -> None:
    with pytest.raises(SourcewiseError) as caught:
        ranked(["b", "a"], ["a"], "worst", ranking, ranks="0000000000")
    assert str(caught.value) == (
        f"{place}: it does not rank the source's 2 groups, which are 'b', 'a'; take a ranking of this source"
    )


def test_a_ranked_subset_lacks_the_groups_that_its_settings_name() -> None:
    digest = hashlib.sha256(b"a\0b\0c").hexdigest()[:10]
    assert ranked(["c", "a", "b"], ["c"], "worst", ranks=digest).tolist() == [False, True, True]
    with pytest.raises(SourcewiseError, match=r"^subset\.remove: "):
        ranked(["c", "a", "b"], ["d"], "worst", ranks=digest)
