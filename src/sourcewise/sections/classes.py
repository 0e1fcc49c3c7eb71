"""Which groups help which classes: the heatmap, and for each target class the groups that help and hurt it most."""

from __future__ import annotations

from sourcewise import figures
from sourcewise.page import Figure, Row, Section, Table, count
from sourcewise.sections.target import Target


def section(target: Target) -> Section:
    """From the influences at class level."""
    facts, id = target.facts, target.id
    figure = figures.heatmap(target.influences, target.summary["fdr"])
    meta = figure.layout.meta
    classes, groups = len(meta["classes"]), len(meta["groups"])
    caption = "Blue helps, orange hurts, pale is not significant, grey is not identifiable."
    if [classes, groups] != list(meta["of"]):
        caption += (
            f" Shown are the {count(classes, 'class', 'classes')} and {count(groups, 'group')} with the "
            f"strongest evidence, of {meta['of'][0]:,} and {meta['of'][1]:,}; the tables name every one."
        )
    alternative = (
        f"Heatmap of the influence of {count(groups, 'source group')} on {count(classes, 'class', 'classes')} of "
        f"{target.name}: {facts['significant_class']:,} of {facts['cells_class']:,} cells are significant. "
        "The tables hold the largest of these numbers for every class and every group."
    )
    names = target.influences["class"].values
    effects = zip(names, *target.arrays("_class", "class", "group"), strict=True)
    table = Table(
        f"{id}-by-class",
        f"For each class of {target.name}, the groups that help and hurt it most ({target.unit.name} ± "
        "standard error; pale: not significant)",
        ["Target class", "Helped most by", "Hurt most by"],
        [Row(str(name), target.ends("group", *arrays)) for name, *arrays in effects],
        searchable="class",
    )
    return Section(
        f"{id}-classes",
        "Which groups help which classes",
        ["The effect of keeping one source group on one target class, as a mean over its examples."],
        figures=[Figure(f"{id}-heatmap", figure, caption, alternative)],
        tables=[table],
    )
