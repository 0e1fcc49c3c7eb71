"""Which groups help overall, and which hurt: bars with intervals, and the table of all groups."""

from __future__ import annotations

import numpy as np

from sourcewise.report import figures
from sourcewise.report.formatting import count, q_value
from sourcewise.report.parts import Cell, Figure, Row, Section, Table
from sourcewise.report.sections.context import TargetContext

BRIEF_GROUPS = 5
"""Groups that a terminal lists."""


def section(target: TargetContext) -> Section:
    """Return the section, from the overall influences and those at class level."""
    figure = figures.overall_bars(target.influences, target.summary.fdr)
    total, ends = len(figure.layout.meta["groups"]), figure.layout.meta["ends"]
    caption = (
        f"Overall influence of {count(total, 'group')} on {target.name}. Bars are estimates, lines their 95% intervals;"
        " pale is not significant."
    )
    if total > 2 * ends:
        caption += f" Shown are the {ends} that help most and the {ends} that hurt most; search for any other."
    value, _, q = figures.arrays(target.influences, "_overall", "group")
    half = target.influences["interval_overall"].values
    by_class = figures.arrays(target.influences, "_class", "group", "class")
    names, rows, show = target.influences["group"].values, [], target.unit.show
    order = np.argsort(-value, kind="stable").tolist()
    for i in order:
        interval = f"{show(value[i] - half[i])} to {show(value[i] + half[i])}" if np.isfinite(half[i]) else "–"
        helps, hurts = target.strongest("class", [array[i] for array in by_class], target.summary.fdr)
        cells: list[Cell] = [show(value[i]), interval, q_value(q[i]), helps, hurts]
        rows.append(Row(str(names[i]), cells, target.is_significant(q[i])))
    table = Table(
        "by-group",
        f"For each source group, its influence on {target.name}, in {target.unit.name}, and the classes that it helps"
        " and hurts most, where that is significant",
        ["Source group", "Overall", "95% interval", "q-value", "Helps most", "Hurts most"],
        rows,
        numeric=(1, 2, 3),
        searchable="group",
    )
    harmful = [row for i, row in zip(order, rows, strict=True) if value[i] < 0][::-1][:BRIEF_GROUPS]
    hurting = f"The groups that hurt {target.name} most overall, in {target.unit.name}"
    examples = count(target.influences.sizes["example"], "example")
    return Section(
        "overall",
        "Which groups help overall, and which hurt",
        [f"The effect of keeping one source group, as a mean over all {examples} of {target.name}."],
        figures=[Figure("bars", figure, caption)],
        tables=[table],
        brief=Section(
            "overall",
            "Which groups hurt overall",
            [] if harmful else [f"No group hurts {target.name} overall."],
            tables=[table.brief(hurting, harmful, columns=4)] if harmful else [],
        ),
    )
