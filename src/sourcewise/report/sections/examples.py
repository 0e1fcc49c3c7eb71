"""Single target examples: subpopulations of classes, and examples that one source group moves most."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from sourcewise.acting.brittle import BrittleExample, BrittleSide
from sourcewise.acting.subpopulations import ClassSplit, Subpopulation, Subpopulations
from sourcewise.core.overrides import quote
from sourcewise.report import figures
from sourcewise.report.formatting import count, join, number, q_value
from sourcewise.report.parts import Cell, Effect, Figure, Row, Section, Table, as_code
from sourcewise.report.sections.context import TargetContext
from sourcewise.study.effects import ExampleEffect

IDS = 12
"""Examples of a subpopulation that are shown."""
FIGURES = 2
"""Splits that are drawn."""
LISTED_EXAMPLES = 20
"""Brittle examples that a table lists."""
HARMED = "that one group pulls away from their class most"
SUPPORTED = "that hang on one group most"
FULL = ("subset=full", "seed=range(0,10)")


def subpopulations_section(target: TargetContext) -> Section | str:
    """Return which examples a group helps and hurts most, and classes whose examples lean on different groups."""
    results = target.facts.subpopulations
    if results is None:
        return "It splits target classes by the groups that support their examples. " + target.unexamined
    lead = [
        "Examples of one class may lean on different source groups. A split is shown only if two halves of the models"
        " give nearly the same one, and each part has a group that helps it significantly more, or hurts it less, than"
        " the rest of its class, by models that did not take part in the search for the split."
    ]
    if not results.splits:
        lead.append(f"These {target.summary.models:,} models split no class of {target.title}.")
    return Section(
        "subpopulations",
        f"Which examples groups help most, and which they {target.worst}",
        lead,
        figures=[_figure(target, place, split) for place, split in enumerate(results.splits[:FIGURES])],
        tables=[_examples(target, results), *([_splits(target, results)] if results.splits else [])],
    )


def _figure(target: TargetContext, place: int, split: ClassSplit) -> Figure:
    first, second = (part.group for part in split.parts[:2])
    caption = f"Class {split.class_name}: its examples, by the influence of {first} and of {second} on each."
    name = partial(target.example_name, target.name)
    drawn = figures.subpopulations(target.influences, split.parts, target.unit, name)
    return Figure(f"split-{place}", drawn, caption)


def _splits(target: TargetContext, results: Subpopulations) -> Table:
    caption = (
        f"Classes of {target.title} split into subpopulations. Influence: of the group on the part, minus that on the"
        f" rest of the class, in {target.unit.name} ± standard error, from half of the models. Agreement: adjusted Rand"
        f" index of both halves' splits. Examples by {target.named_by(target.name)}, those that lean on the group most"
        " first"
    )
    columns = ["Class", "Set apart by", "Such as", "Examples", "Influence", "q-value", "Agreement"]
    rows = [_part(target, split, part) for split in results.splits for part in split.parts]
    return Table("splits", caption, columns, rows, (3, 4, 5, 6), "class")


def _part(target: TargetContext, split: ClassSplit, part: Subpopulation) -> Row:
    shown = part.examples[:IDS]
    names = [target.example_name(target.name, example) for example in shown]
    examples: Cell = ", ".join(names) + (", …" if len(part.examples) > IDS else "")
    if all(pictures := [target.album(target.name, example) for example in shown]):
        examples = [Effect(name, picture=picture) for name, picture in zip(names, pictures, strict=True)]
    influence = target.with_error(part.influence, part.stderr)
    numbers = [f"{len(part.examples):,}", influence, q_value(part.qvalue), number(split.agreement)]
    return Row(split.class_name, [part.group, examples, *numbers])


def _examples(target: TargetContext, results: Subpopulations) -> Table:
    caption = (
        f"For the groups with the strongest evidence, the examples of {target.title} that they help most and"
        f" {target.worst}, by {target.named_by(target.name)}: influence in {target.unit.name} ± standard error"
    )

    def effect(item: ExampleEffect) -> Effect:
        name = f"{target.example_name(target.name, item.example)}\n(class {item.class_name})"
        return target.effect(name, item, target.album(target.name, item.example))

    sides = ((item.group, item.helps, item.hurts) for item in results.groups)
    rows = [Row(group, [list(map(effect, helps)), list(map(effect, hurts))]) for group, helps, hurts in sides]
    return Table("examples", caption, ["Source group", *target.sides], rows, searchable="group")


def brittle_section(target: TargetContext) -> Section | str:
    """Return examples that one group pulls away from their class, or that hang on one, and what its removal does."""
    results = target.facts.brittle
    if results is None:
        return "It lists target examples that hang on one source group. " + target.unexamined
    sides = {"harmed": (results.harmed, HARMED), "supported": (results.supported, SUPPORTED)}
    scale = "on the logit scale " if target.summary.output == "prob" else ""
    lead = [
        "Each example is listed with the one group that moves it most. Effects for this choice are estimated"
        f" {scale}and drawn to the mean of their class as far as they are noise. The influences shown are as estimated,"
        f" and significant. The columns Predicted and Real hold the change of mean {target.summary.output}, in"
        f" {target.unit.name}, on removing that group. Real changes compare models trained on all groups but that one"
        " with models trained on all.",
        f"Predictions are for the full source: they start from {count(results.base, 'model')} of it, other than those"
        " that real changes are measured against."
        if results.base
        else "Predictions are for subsets such as influences were estimated from. In a full source a group is missed"
        " less: with four or more models of it, predictions start from these.",
    ]
    compared = [(side, description) for side, description in sides.values() if side.compared > 2]
    lead += [_comparison(target, side, description) for side, description in compared]
    listed = {
        id: [item for item in side.examples if target.is_significant(item.qvalue)][:LISTED_EXAMPLES]
        for id, (side, _) in sides.items()
    }
    examples = [item for side in listed.values() for item in side]
    groups = list(dict.fromkeys(item.group for item in examples))[:3]
    if not examples:
        lead.append("No such influence is significant here, so no example is listed; summary.json has the candidates.")
    commands = []
    if groups and not compared:
        lead.append("Real changes need models of the full source and models without a group.")
        drop = f"subset.drop={','.join(quote([group]) for group in groups)}"
        without = target.train_command("subset=listed", drop, "seed=range(0,5)")
        commands.append((f"Models without one of {join(groups)}", without))
    if not results.base or (groups and not compared):
        commands.append(("Models of the full source", target.train_command(*FULL)))
    phrases, code = as_code(commands)
    tables = [
        _table(target, id, sides[id][1], items, len(sides[id][0].examples)) for id, items in listed.items() if items
    ]
    return Section("brittle", "Brittle examples", [*lead, *phrases], tables=tables, code=code, folded=True)


def _comparison(target: TargetContext, side: BrittleSide, description: str) -> str:
    show = target.unit.show
    return (
        f"Over the {count(side.compared, 'example')} {description}, the predicted change is {show(side.predicted)} on"
        f" average and the real one {show(side.real)}; their rank correlation (Spearman) is {number(side.spearman)}."
        f" Real changes have a standard deviation of {show(side.spread, sign=False)}, of which training noise is"
        f" {show(side.noise, sign=False)}."
    )


def _table(
    target: TargetContext, id: str, description: str, examples: Sequence[BrittleExample], compared: int
) -> Table:
    """Return the table of one side's significant examples, the first of `compared`; with real changes, if there are."""
    caption = (
        f"Examples of {target.title} {description}, by {target.named_by(target.name)}: those of {compared} whose"
        " influence is significant"
    )
    caption += f"; the first {LISTED_EXAMPLES}, summary.json has all" if len(examples) == LISTED_EXAMPLES else ""
    real = any(item.real for item in examples)
    columns = ["Example", "Class", "Group", "Influence", "q-value", "Mean", "Predicted"]
    columns += ["Real", "Right: all, without"] if real else []
    rows = [_row(target, item, real) for item in examples]
    return Table(id, caption, columns, rows, tuple(range(4, len(columns))))


def _row(target: TargetContext, item: BrittleExample, with_real: bool) -> Row:
    show, real, changes = target.unit.show, item.real, ["–", "–"]
    if real is not None:
        right = f"{real.before:.0%}, {real.after:.0%} of {count(real.runs, 'run')}"
        changes = [target.with_error(real.change, real.error), right]
    numbers = [q_value(item.qvalue), show(item.mean, sign=False), show(item.predicted), *changes[: 2 * with_real]]
    cells = [item.class_name, item.group, target.with_error(item.influence, item.stderr), *numbers]
    picture = target.album(target.name, item.example)
    return Row(target.example_name(target.name, item.example), cells, True, picture)
