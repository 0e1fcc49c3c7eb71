"""Which source groups help and hurt: by target class, overall, and on several targets at once."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from sourcewise.acting.tradeoffs import find_tradeoffs
from sourcewise.report import figures
from sourcewise.report.formatting import count, q_value
from sourcewise.report.parts import Cell, Figure, Row, Section, Table
from sourcewise.report.sections.context import TargetContext

BRIEF_CLASSES = 20
"""Classes that a terminal lists."""
BRIEF_GROUPS = 5
"""Groups that a terminal lists."""


def classes_section(target: TargetContext) -> Section:
    """Return the heatmap, and for each target class the groups that help and hurt it most."""
    figure = figures.heatmap(target.influences, target.summary.fdr)
    meta = figure.layout.meta
    classes, groups = count(len(meta["classes"]), "class"), count(len(meta["groups"]), "group")
    caption = (
        f"Influence of {groups} on {classes} of {target.title}. Blue helps, orange"
        f" {'helps less than the average group' if target.relative else 'hurts'}, pale is not significant, grey is not"
        " identifiable."
    )
    if [len(meta["classes"]), len(meta["groups"])] != meta["full_size"]:
        caption += (
            f" Shown are the {classes} and {groups} with the strongest evidence, of {meta['full_size'][0]:,} and"
            f" {meta['full_size'][1]:,}; the tables name every one."
        )
    arrays = figures.arrays(target.influences, "_class", "class", "group", keys=figures.EXPECTED)
    names = map(str, target.influences["class"].values)
    table = Table(
        "by-class",
        f"For each class of {target.title}, the groups that help most and those that {target.worst}, in"
        f" {target.unit.name}: the effect to expect ± its standard deviation",
        ["Target class", "Helped most by", "Helped least by" if target.relative else "Hurt most by"],
        [Row(name, target.strongest("group", row)) for name, *row in zip(names, *arrays, strict=True)],
        searchable="class",
    )
    title = "Which groups help which classes"
    return Section(
        "classes",
        title,
        ["The effect of keeping one source group on one target class, as a mean over its examples."],
        figures=[Figure("heatmap", figure, caption)],
        tables=[table],
        brief=Section("classes", title, tables=[table.brief(BRIEF_CLASSES, "classes")]),
    )


def overall_section(target: TargetContext) -> Section:
    """Return the bars of overall influences with their intervals, and the table of all groups."""
    figure = figures.overall_bars(target.influences, target.summary.fdr)
    total, ends = len(figure.layout.meta["groups"]), figure.layout.meta["ends"]
    caption = (
        f"Overall influence of {count(total, 'group')} on {target.title}. Bars are estimates, lines their 95%"
        " intervals; pale is not significant."
    )
    if total > 2 * ends:
        caption += f" Shown are the {ends} that help most and the {ends} that {target.worst}; search for any other."
    value, _, q = figures.arrays(target.influences, "_overall", "group")
    half = target.influences["interval_overall"].values
    by_class = figures.arrays(target.influences, "_class", "group", "class", keys=figures.EXPECTED)
    names, rows, show = target.influences["group"].values, [], target.unit.show
    order = np.argsort(-value, kind="stable").tolist()
    sizes = target.influences["group_size"].values if "group_size" in target.influences.coords else np.ones(len(value))
    by_size = bool(np.ptp(sizes) > 0 and sizes.min() > 0)
    columns = ["Images", "Per 100 images"] if by_size else []
    each_says = ". Per 100 images: overall, divided by the number of the group's images" if by_size else ""
    for i in order:
        limits = (show(value[i] + side * half[i], error=half[i]) for side in (-1, 1))
        interval = " to ".join(limits) if np.isfinite(half[i]) else "–"
        effects = target.strongest("class", [array[i] for array in by_class], target.summary.fdr)
        each = [f"{sizes[i]:,}", show(100 * value[i] / sizes[i], error=100 * half[i] / sizes[i])] if by_size else []
        cells: list[Cell] = [show(value[i], error=half[i]), interval, q_value(q[i]), *each, *effects]
        rows.append(Row(str(names[i]), cells, target.is_significant(q[i])))
    table = Table(
        "by-group",
        f"For each source group, its influence on {target.title}, in {target.unit.name}, and the classes on"
        " which it is largest and smallest, where that is significant (effect to expect ± its standard deviation)"
        + each_says,
        ["Source group", "Overall", "95% interval", "q-value", *columns, *target.sides],
        rows,
        numeric=tuple(range(1, 4 + len(columns))),
        searchable="group",
    )
    harmful = [row for i, row in zip(order, rows, strict=True) if value[i] < 0][::-1][:BRIEF_GROUPS]
    hurting = f"The groups that {target.worst} for {target.title} as a whole, in {target.unit.name}"
    hurt = "help less than the average" if target.relative else "hurt"
    short = replace(table, caption=hurting, rows=harmful).brief(BRIEF_GROUPS, columns=4)
    nothing = f"No group hurts {target.title} overall."
    examples = count(target.influences.sizes["example"], "example")
    return Section(
        "overall",
        f"Which groups help overall, and which {hurt}",
        [f"The effect of keeping one source group, as a mean over all {examples} of {target.title}."],
        figures=[Figure("bars", figure, caption)],
        tables=[table],
        brief=Section(
            "overall",
            f"Which groups {hurt} overall",
            [] if harmful else [nothing],
            tables=[short] if harmful else [],
        ),
    )


def between_section(target: TargetContext) -> Section | str:
    """Return which removals help all targets, and which trade one target for another.

    The table holds the groups with significant effects on this target and on others.
    """
    targets = target.summary.targets
    if len(targets) < 2:
        return (
            "It shows which removals help all targets and which trade one for another. It needs runs with several"
            " targets: train.py takes their names in the setting target, as a list."
        )
    tradeoffs = find_tradeoffs({name: facts.overall for name, facts in targets.items()}, target.summary.fdr)
    rows = [
        Row(item.group, [*([target.effect("", effect)] for effect in item.effects.values()), item.removal])
        for item in tradeoffs
        if item.removal and target.is_significant(item.effects[target.name].qvalue)
    ]
    nothing = f"No group significantly helps {target.title} and the others, hurts all, or trades one for another."
    caption = (
        f"Overall influence, in {target.unit.name} ± standard error, of groups whose removal significantly helps all"
        " targets, hurts all, or trades one for another; the most harmful first"
    )
    table = Table("between-table", caption, ["Source group", *targets, "Removal"], rows, searchable="group")
    caption = (
        f"Influence on {target.title} and on other targets. Every point is a group; those at the lower left hurt both."
        " Filled: the Pareto front for removal, by the estimates. The table holds what is significant."
    )
    drawn = figures.trades(tradeoffs, sorted(targets, key=lambda name: name != target.name), target.unit)
    return Section(
        "between",
        "What differs between targets",
        [] if rows else [nothing],
        figures=[Figure("between-figure", drawn, caption)] if tradeoffs else [],
        tables=[table] if rows else [],
    )
