"""Files of names and rankings: read back as they were written, and written as an independent writer would."""

import math
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sourcewise.core.errors import SourcewiseError
from sourcewise.designs import draw
from sourcewise.designs.files import read_names, read_ranking, write_names, write_ranking

NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)


@given(st.lists(NAMES))
@example(["", " a", "a ", "# a", '"a"', "a\nb", "\x85", "\u2028"])
def test_a_file_of_any_names_is_read_as_it_was_written(names: list[str]) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder, "keep.txt")
        write_names(path, "some names", names)
        assert path.read_text(encoding="utf-8").startswith("# some names\n")
        assert read_names(str(path), "subset.keep") == names


@given(st.lists(NAMES, min_size=2, unique=True), st.data())
def test_a_file_of_any_names_chooses_their_groups(names: list[str], data: st.DataObject) -> None:
    chosen = data.draw(st.lists(st.sampled_from(names), min_size=1, unique=True))
    with TemporaryDirectory() as folder:
        path = Path(folder, "keep.txt")
        write_names(path, "some of them", chosen)
        mask = draw(names, {"design": "listed", "keep": str(path)})
    assert set(np.array(names, object)[mask]) == set(chosen)


def test_names_may_be_written_by_hand(tmp_path: Path) -> None:
    path = tmp_path / "keep.txt"
    path.write_text("# the vowels\nA\n\n E\n#\nO \n", encoding="utf-8")
    assert read_names(str(path), "subset.keep") == ["A", "E", "O"]


def test_only_names_that_would_not_be_read_back_are_quoted(tmp_path: Path) -> None:
    path = tmp_path / "keep.txt"
    write_names(path, "some names", ["A b", "# c", ""])
    assert path.read_text(encoding="utf-8").splitlines()[1:] == ["A b", '"# c"', '""']


def test_a_list_that_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "bytes.txt").write_bytes(b"\xff")
    (tmp_path / "open.txt").write_text('"a')
    for name in ("bytes.txt", "open.txt"):
        with pytest.raises(SourcewiseError, match=rf"^subset.drop=.*{name}: cannot read this list of names \("):
            read_names(str(tmp_path / name), "subset.drop")
    with pytest.raises(SourcewiseError, match=r"^subset.drop=1_1: .* names .* in brackets: 'subset.drop=\[1_1\]'$"):
        read_names("1_1", "subset.drop")


# The csv module of Python 3.11 does not quote a carriage return.
@given(st.dictionaries(NAMES.filter(lambda name: "\r" not in name), st.floats(allow_infinity=False), min_size=1))
@example({"a": 1e-300, "b": math.nan, "c": -0.0, 'd"': 123456789.125, "e,\n": 0.1, "": 2.0})
def test_a_ranking_is_written_as_pandas_would_and_read_back(scores: dict[str, float]) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder, "ranking.csv")
        write_ranking(path, scores)
        table = pd.DataFrame(scores.items(), columns=["group", "score"]).sort_values("score", kind="stable")
        assert path.read_bytes().decode() == table.to_csv(index=False, float_format="%.9g", lineterminator="\n")
        ranking = read_ranking(path, None)
    assert ranking.name == "ranking"
    assert ranking.scores.keys() == scores.keys()
    for group, score in scores.items():
        assert ranking.scores[group] == pytest.approx(score, rel=1e-8, nan_ok=True)


def test_a_ranking_that_changes_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "ranking.csv"
    for scores in ({"a": 1.0}, {"a": 2.0}):
        write_ranking(path, scores)
        assert read_ranking(path, None).scores == scores
