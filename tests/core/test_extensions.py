import math
from pathlib import Path

import pytest

from sourcewise.core.errors import SourcewiseError
from sourcewise.core.extensions import find

KNOWN = {"one": 1, "three": 3}


def test_names_of_ours_and_paths_of_theirs_are_found() -> None:
    assert find(KNOWN, "three", "number") == 3
    assert find(KNOWN, "math.pi", "number") == math.pi
    assert find({"math.pi": 3}, "math.pi", "number") == 3


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("thre", r"; did you mean three\?"),
        ("math.nothing", r" \(.*no attribute 'nothing'\)"),
        ("no_such.thing", r" \(No module named 'no_such'\)"),
        ("needy.thing", r" \(No module named 'missing'\)"),
        ("a..b", " .*"),
        (".", " .*"),
        (3, ""),
        (None, ""),
        ([1], ""),
    ],
)
def test_what_is_neither_is_one_line(name: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "needy.py").write_text("import missing\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(SourcewiseError, match=rf"^number=.*: there is no such number{reason};") as caught:
        find(KNOWN, name, "number")
    assert "choose one, three, or give the path" in str(caught.value)
    assert "\n" not in str(caught.value)
