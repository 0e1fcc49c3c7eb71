"""Results as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from sourcewise.core.results import json_name, to_json


@dataclass(frozen=True, kw_only=True)
class Inner:
    class_name: str = json_name("class")
    score: float | None
    extra: float | None = None
    flag: bool = False
    state: Mapping[str, int] = json_name(None)


def test_dataclasses_become_what_json_takes() -> None:
    inner = Inner(class_name="cat", score=float("nan"), state={"a": 1})
    result = to_json(
        {"rows": (inner, Inner(class_name="dog", state={}, score=None, extra=0.0, flag=True)), 3: np.array([1.5])}
    )
    assert result == {
        "rows": [{"class": "cat", "score": None}, {"class": "dog", "score": None, "extra": 0.0, "flag": True}],
        "3": [1.5],
    }
    assert json.loads(json.dumps(result, allow_nan=False)) == result


def test_numbers_that_are_not_finite_are_null_at_any_depth() -> None:
    assert to_json([float("inf"), [np.float64("nan")], {"a": -float("inf")}]) == [None, [None], {"a": None}]
    assert to_json([True, 0, 1.5, "x", None]) == [True, 0, 1.5, "x", None]
