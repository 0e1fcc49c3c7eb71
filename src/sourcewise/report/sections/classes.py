"""Which groups help which classes: the heatmap, and for each target class the groups that help and hurt it most."""

from __future__ import annotations

from sourcewise.report import figures
from sourcewise.report.formatting import count
from sourcewise.report.parts import Figure, Row, Section, Table
from sourcewise.report.sections.context import TargetContext

BRIEF_CLASSES = 20
"""Classes that a terminal lists."""


def section(target: TargetContext) -> Section:
    """Return the section, from the influences at class level."""
    figure = figures.heatmap(target.influences, target.summary.fdr)
    meta = figure.layout.meta
    classes, groups = count(len(meta["classes"]), "class"), count(len(meta["groups"]), "group")
    caption = (
        f"Influence of {groups} on {classes} of {target.name}. Blue helps, orange hurts, pale is not significant, grey"
        " is not identifiable."
    )
    if [len(meta["classes"]), len(meta["groups"])] != meta["full_size"]:
        caption += (
            f" Shown are the {classes} and {groups} with the strongest evidence, of {meta['full_size'][0]:,} and"
            f" {meta['full_size'][1]:,}; the tables name every one."
        )
    arrays = figures.arrays(target.influences, "_class", "class", "group")
    names = map(str, target.influences["class"].values)
    rows = [Row(name, target.strongest("group", row)) for name, *row in zip(names, *arrays, strict=True)]
    table = Table(
        "by-class",
        f"For each class of {target.name}, the groups that help and hurt it most, in {target.unit.name} ± standard"
        " error",
        ["Target class", "Helped most by", "Hurt most by"],
        rows,
        searchable="class",
    )
    some = f". The first {BRIEF_CLASSES} of {len(rows):,} classes" if len(rows) > BRIEF_CLASSES else ""
    title = "Which groups help which classes"
    return Section(
        "classes",
        title,
        ["The effect of keeping one source group on one target class, as a mean over its examples."],
        figures=[Figure("heatmap", figure, caption)],
        tables=[table],
        brief=Section("classes", title, tables=[table.brief(table.caption + some, rows[:BRIEF_CLASSES])]),
    )
