"""Which groups help which classes: the heatmap, and for each target class the groups that help and hurt it most."""

from __future__ import annotations

from sourcewise import figures
from sourcewise.page import Figure, Row, Section, Table, count
from sourcewise.sections.target import Target


def section(target: Target) -> Section:
    """From the influences at class level."""
    figure = figures.heatmap(target.influences, target.summary["fdr"])
    meta = figure.layout.meta
    classes, groups = len(meta["classes"]), len(meta["groups"])
    caption = "Blue helps, orange hurts, pale is not significant, grey is not identifiable."
    if [classes, groups] != meta["of"]:
        caption += (
            f" Shown are the {count(classes, 'class')} and {count(groups, 'group')} with the strongest evidence, of"
            f" {meta['of'][0]:,} and {meta['of'][1]:,}; the tables name every one."
        )
    alternative = (
        f"Heatmap of the influence of {count(groups, 'source group')} on {count(classes, 'class')} of {target.name}:"
        f" {target.facts['significant_class']:,} of {target.facts['cells_class']:,} cells are significant."
        " The tables hold the largest of these numbers for every class and every group."
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
    drawn = [Figure("heatmap", figure, caption, alternative)]
    return Section("classes", "Which groups help which classes", lead, figures=drawn, tables=[table])
