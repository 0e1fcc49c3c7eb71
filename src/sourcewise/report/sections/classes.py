"""Which groups help which classes: the heatmap, and for each target class the groups that help and hurt it most."""

from __future__ import annotations

from sourcewise.report import figures
from sourcewise.report.page import Figure, Row, Section, Table, count
from sourcewise.report.sections.target import Target


def section(target: Target) -> Section:
    """From the influences at class level."""
    figure = figures.heatmap(target.influences, target.summary.fdr)
    meta = figure.layout.meta
    classes, groups = count(len(meta["classes"]), "class"), count(len(meta["groups"]), "group")
    caption = (
        f"Influence of {groups} on {classes} of {target.name}. Blue helps, orange hurts, pale is not significant, grey"
        " is not identifiable."
    )
    if [len(meta["classes"]), len(meta["groups"])] != meta["of"]:
        caption += (
            f" Shown are the {classes} and {groups} with the strongest evidence, of {meta['of'][0]:,} and"
            f" {meta['of'][1]:,}; the tables name every one."
        )
    effects = zip(
        target.influences["class"].values, *figures.arrays(target.influences, "_class", "class", "group"), strict=True
    )
    table = Table(
        "by-class",
        f"For each class of {target.name}, the groups that help and hurt it most ({target.unit.name} ± standard error;"
        " pale: not significant)",
        ["Target class", "Helped most by", "Hurt most by"],
        [Row(str(name), target.ends("group", arrays)) for name, *arrays in effects],
        searchable="class",
    )
    lead = ["The effect of keeping one source group on one target class, as a mean over its examples."]
    drawn = [Figure("heatmap", figure, caption)]
    return Section("classes", "Which groups help which classes", lead, figures=drawn, tables=[table])
