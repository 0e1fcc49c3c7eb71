"""Which examples a group helps and hurts most, and classes whose examples lean on different groups."""

from __future__ import annotations

from sourcewise.acting.examples import ExampleEffect
from sourcewise.acting.subpopulations import ClassSplit, Subpopulation
from sourcewise.report import figures
from sourcewise.report.page import Effect, Figure, Row, Section, Table, number, small
from sourcewise.report.sections.target import Target

IDS = 12
"""Examples of a subpopulation that are named."""


def section(target: Target) -> Section | str:
    """From the subpopulations."""
    found = target.facts.subpopulations
    if found is None:
        return "It splits target classes by the groups that support their examples. " + target.unexamined
    lead = [
        "Examples of one class may lean on different source groups. A split is shown only if two halves of the models"
        " find nearly the same one, and each part has a group of its own that helps it significantly more, or hurts it"
        " less, than the rest of its class, by models that the split was not found with."
    ]
    parts = [_part(target, split, part) for split in found.splits for part in split.parts]
    tables, drawn = [], []
    if parts:
        for place, split in enumerate(found.splits[:2]):
            figure = figures.subpopulations(target.influences, split.parts, target.unit)
            groups = [part.group for part in split.parts]
            caption = (
                f"Class {split.class_name}: its examples, by the influence of {groups[0]} and of {groups[1]} on each."
            )
            drawn.append(Figure(f"split-{place}", figure, caption))
        caption = (
            f"Classes of {target.name} split into subpopulations. Influence: of the group on the part, minus that on"
            f" the rest of the class ({target.unit.name} ± standard error, from half of the models). Agreement:"
            " adjusted Rand index of both halves' splits. Examples by id, those that lean on the group most first"
        )
        columns = ["Class", "Set apart by", "Such as", "Examples", "Influence", "q-value", "Agreement"]
        tables.append(Table("splits", caption, columns, parts, (3, 4, 5, 6), "class"))
    else:
        lead.append(f"No class of {target.name} is split so by these {target.summary.models:,} models.")
    rows = []
    for group in found.groups:
        sides = ([_effect(target, item) for item in side] for side in (group.helps, group.hurts))
        rows.append(Row(group.group, list(sides)))
    caption = (
        f"For the groups with the strongest evidence, the examples of {target.name} that they help and hurt most"
        f" (by id): influence in {target.unit.name} ± standard error; pale: not significant"
    )
    columns = ["Source group", "Helps most", "Hurts most"]
    tables.append(Table("examples", caption, columns, rows, searchable="group"))
    return Section("subpopulations", "Subpopulations", lead, figures=drawn, tables=tables)


def _part(target: Target, split: ClassSplit, part: Subpopulation) -> Row:
    ids = part.examples
    such: str | list[Effect] = ", ".join(map(str, ids[:IDS])) + (", …" if len(ids) > IDS else "")
    if all(pictures := [target.album(target.name, id) for id in ids[:IDS]]):
        such = [Effect(str(id), picture=picture) for id, picture in zip(ids, pictures, strict=False)]
    numbers = f"{len(ids):,}", target.within(part), small(part.qvalue), number(split.agreement)
    return Row(split.class_name, [part.group, such, *numbers])


def _effect(target: Target, item: ExampleEffect) -> Effect:
    name, picture = f"{item.example}\n(class {item.class_name})", target.album(target.name, item.example)
    return target.effect(name, item, picture)
