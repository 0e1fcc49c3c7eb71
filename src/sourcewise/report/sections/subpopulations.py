"""Which examples a group helps and hurts most, and classes whose examples lean on different groups."""

from __future__ import annotations

from sourcewise.acting.subpopulations import ClassSplit, Subpopulation, Subpopulations
from sourcewise.report import figures
from sourcewise.report.formatting import number, q_value
from sourcewise.report.parts import Cell, Effect, Figure, Row, Section, Table
from sourcewise.report.sections.context import TargetContext
from sourcewise.study.effects import ExampleEffect

IDS = 12
"""Examples of a subpopulation that are shown."""
FIGURES = 2
"""Splits that are drawn."""


def section(target: TargetContext) -> Section | str:
    """Return the section, from the subpopulations that were found."""
    results = target.facts.subpopulations
    if results is None:
        return "It splits target classes by the groups that support their examples. " + target.unexamined
    lead = [
        "Examples of one class may lean on different source groups. A split is shown only if two halves of the models"
        " give nearly the same one, and each part has a group that helps it significantly more, or hurts it less, than"
        " the rest of its class, by models that did not take part in the search for the split."
    ]
    if not results.splits:
        lead.append(f"These {target.summary.models:,} models split no class of {target.name}.")
    return Section(
        "subpopulations",
        "Subpopulations",
        lead,
        figures=[_figure(target, place, split) for place, split in enumerate(results.splits[:FIGURES])],
        tables=[*([_splits(target, results)] if results.splits else []), _examples(target, results)],
    )


def _figure(target: TargetContext, place: int, split: ClassSplit) -> Figure:
    first, second = (part.group for part in split.parts[:2])
    caption = f"Class {split.class_name}: its examples, by the influence of {first} and of {second} on each."
    return Figure(f"split-{place}", figures.subpopulations(target.influences, split.parts, target.unit), caption)


def _splits(target: TargetContext, results: Subpopulations) -> Table:
    caption = (
        f"Classes of {target.name} split into subpopulations. Influence: of the group on the part, minus that on the"
        f" rest of the class, in {target.unit.name} ± standard error, from half of the models. Agreement: adjusted Rand"
        " index of both halves' splits. Examples by id, those that lean on the group most first"
    )
    columns = ["Class", "Set apart by", "Such as", "Examples", "Influence", "q-value", "Agreement"]
    rows = [_part(target, split, part) for split in results.splits for part in split.parts]
    return Table("splits", caption, columns, rows, (3, 4, 5, 6), "class")


def _part(target: TargetContext, split: ClassSplit, part: Subpopulation) -> Row:
    shown = part.examples[:IDS]
    examples: Cell = ", ".join(map(str, shown)) + (", …" if len(part.examples) > IDS else "")
    if all(pictures := [target.album(target.name, example) for example in shown]):
        examples = [Effect(str(example), picture=picture) for example, picture in zip(shown, pictures, strict=True)]
    influence = target.with_error(part.influence, part.stderr)
    numbers = [f"{len(part.examples):,}", influence, q_value(part.qvalue), number(split.agreement)]
    return Row(split.class_name, [part.group, examples, *numbers])


def _examples(target: TargetContext, results: Subpopulations) -> Table:
    caption = (
        f"For the groups with the strongest evidence, the examples of {target.name} that they help and hurt most"
        f" (by id): influence in {target.unit.name} ± standard error"
    )
    rows = [
        Row(group.group, [[_effect(target, item) for item in side] for side in (group.helps, group.hurts)])
        for group in results.groups
    ]
    return Table("examples", caption, ["Source group", "Helps most", "Hurts most"], rows, searchable="group")


def _effect(target: TargetContext, item: ExampleEffect) -> Effect:
    picture = target.album(target.name, item.example)
    return target.effect(f"{item.example}\n(class {item.class_name})", item, picture)
