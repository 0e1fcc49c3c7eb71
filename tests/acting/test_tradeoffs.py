"""Differences between targets, with planted truth."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import xarray as xr
from fake_reports import context, make_summary, make_target

from sourcewise.acting.tradeoffs import Tradeoff, find_tradeoffs, pareto
from sourcewise.report import figures
from sourcewise.report.formatting import display_unit
from sourcewise.report.parts import Section
from sourcewise.report.sections import SECTIONS
from sourcewise.study.effects import GroupEffect


def two(sign: int = 1) -> dict[str, list[GroupEffect]]:
    """g0 helps both, g1 and g3 help one and hurt the other, g2 seems to but not significantly, one knows no g4."""
    tables = {
        "one": ([0.1, 0.05, 0.1, -0.1], [0.01] * 4),
        "two": ([0.1, -0.02, -0.1, 0.2, 1], [0.01, 0.04, 0.3, 0.01, 0]),
    }
    return {
        name: [
            GroupEffect(group=f"g{i}", influence=sign * value, stderr=0.01, qvalue=q)
            for i, (value, q) in enumerate(zip(*both, strict=True))
        ]
        for name, both in tables.items()
    }


def test_what_removal_does_is_said_of_significant_effects_alone() -> None:
    found = {item.group: item.removal for item in find_tradeoffs(two(), 0.05)}
    assert found == {"g0": "hurts all", "g1": "trades", "g2": "", "g3": "trades"}
    first = find_tradeoffs(two(-1), 0.05)[0]
    assert (first.group, first.removal, first.on_front) == ("g0", "helps all", True)
    assert find_tradeoffs({"one": two()["one"]}, 0.05) == ()
    facts = {name: replace(make_target()[1], overall=tuple(effects)) for name, effects in two().items()}
    for name in two():
        page = SECTIONS["between"](context(name, xr.Dataset(), make_summary(facts)))
        assert isinstance(page, Section)
        rows = page.tables[0].rows
        assert [row.header for row in rows] == ["g1", "g3", "g0"]
        assert [cell[0].value for cell in rows[0].cells if not isinstance(cell, str)] == ["+5.00", "−2.00"]
        assert rows[0].cells[-1] == "trades"


def test_the_pareto_front_is_what_nobody_beats() -> None:
    values = np.random.default_rng(0).integers(-3, 4, (2, 30)).astype(float)

    def beaten(k: int) -> bool:
        return any((values[:, i] <= values[:, k]).all() and (values[:, i] < values[:, k]).any() for i in range(30))

    assert pareto(values).tolist() == [not beaten(k) for k in range(30)]
    assert pareto(values[:1]).tolist() == (values[0] == values[0].min()).tolist()
    numbers = {"group": "g", "stderr": 0.0, "qvalue": 1.0}
    effects = [
        {key: GroupEffect(influence=x, **numbers) for key, x in zip("ab", pair, strict=True)} for pair in values.T
    ]
    rows = [Tradeoff(f"{i}", e, "", i < 3) for i, e in enumerate(effects)]
    (points,) = figures.trades(rows, ["b", "a"], display_unit("prob")).data
    assert [symbol == "circle" for symbol in points.marker.symbol] == [i < 3 for i in range(30)]
    assert list(points.x) == pytest.approx((100 * values[1]).tolist())
