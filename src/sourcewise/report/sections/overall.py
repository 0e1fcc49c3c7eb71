"""Which groups help overall, and which hurt: bars with intervals, and the table of all groups."""

from __future__ import annotations

import numpy as np

from sourcewise.report import figures
from sourcewise.report.page import Effect, Figure, Row, Section, Table, count, small
from sourcewise.report.sections.target import Target


def section(target: Target) -> Section:
    """From the overall influences, and those at class level."""
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
    rows = []
    for i in np.argsort(-value, kind="stable"):
        low, high = (target.show(value[i] + side * half[i]) for side in (-1, 1))
        interval = f"{low} to {high}" if np.isfinite(value[i] + half[i]) else "–"
        helps, hurts = target.ends("class", [array[i] for array in by_class], target.summary.fdr)
        cells: list[str | list[Effect]] = [target.show(value[i]), interval, small(q[i]), helps, hurts]
        rows.append(Row(str(target.influences["group"].values[i]), cells, muted=not target.significant(q[i])))
    table = Table(
        "by-group",
        f"For each source group, its influence on {target.name} ({target.unit.name}), and the classes that it helps"
        " and hurts most, where that is significant",
        ["Source group", "Overall", "95% interval", "q-value", "Helps most", "Hurts most"],
        rows,
        numeric=(1, 2, 3),
        searchable="group",
    )
    examples = count(target.influences.sizes["example"], "example")
    lead = [f"The effect of keeping one source group, as a mean over all {examples} of {target.name}."]
    drawn = [Figure("bars", figure, caption)]
    return Section("overall", "Which groups help overall, and which hurt", lead, figures=drawn, tables=[table])
