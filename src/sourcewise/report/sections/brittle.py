"""Examples that one source group pulls away from their class, or that hang on one: what its removal does."""

from __future__ import annotations

from sourcewise.acting.brittle import BrittleExample, BrittleExamples, BrittleSide
from sourcewise.core.overrides import quote
from sourcewise.report.formatting import count, join, number, q_value
from sourcewise.report.parts import Row, Section, Table, as_code
from sourcewise.report.sections.context import TargetContext

LISTED_EXAMPLES = 20
"""Examples that a table lists."""
EXAMPLE_COLUMNS = (
    "Example",
    "Class",
    "Group",
    "Influence",
    "q-value",
    "Mean",
    "Predicted",
    "Real",
    "Right: all, without",
)
HARMED = "that one group pulls away from their class most"
SUPPORTED = "that hang on one group most"
FULL = ("subset=full", "seed=range(0,10)")


def section(target: TargetContext) -> Section | str:
    """Return the section, from the brittle examples that were found."""
    results = target.facts.brittle
    if results is None:
        return "It lists target examples that hang on one source group. " + target.unexamined
    sides = {"harmed": (results.harmed, HARMED), "supported": (results.supported, SUPPORTED)}
    scale = "on the logit scale " if target.summary.output == "prob" else ""
    lead = [
        "Each example is listed with the one group that moves it most. Effects for this choice are estimated"
        f" {scale}and drawn to the mean of their class as far as they are noise. The influences shown are as estimated;"
        f" pale ones may be noise. The columns Predicted and Real hold the change of mean {target.summary.output}, in"
        f" {target.unit.name}, on removing that group. Real changes compare models trained on all groups but that one"
        " with models trained on all.",
        _base(results),
    ]
    compared = [(side, description) for side, description in sides.values() if side.compared > 2]
    lead += [_comparison(target, side, description) for side, description in compared]
    examples = [item for side, _ in sides.values() for item in side.examples[:LISTED_EXAMPLES]]
    groups = list(dict.fromkeys(item.group for item in examples))[:3]
    commands = []
    if groups and not compared:
        lead.append("Real changes need models of the full source and models without a group.")
        drop = f"subset.drop={','.join(quote([group]) for group in groups)}"
        listed = target.train_command("subset=listed", drop, "seed=range(0,5)")
        commands.append((f"Models without one of {join(groups)}", listed))
    if not results.base or (groups and not compared):
        commands.append(("Models of the full source", target.train_command(*FULL)))
    phrases, code = as_code(commands)
    tables = [_table(target, id, side, description) for id, (side, description) in sides.items()]
    return Section("brittle", "Brittle examples", [*lead, *phrases], tables=tables, code=code)


def _base(results: BrittleExamples) -> str:
    """Return a sentence on which models predictions start from."""
    if results.base:
        return (
            f"Predictions are for the full source: they start from {count(results.base, 'model')} of it, other than"
            " those that real changes are measured against."
        )
    return (
        "Predictions are for subsets such as influences were estimated from. In a full source a group is missed less:"
        " with four or more models of it, predictions start from these."
    )


def _comparison(target: TargetContext, side: BrittleSide, description: str) -> str:
    """Return a sentence that compares predicted and real changes."""
    show = target.unit.show
    return (
        f"Over the {count(side.compared, 'example')} {description}, the predicted change is {show(side.predicted)} on"
        f" average and the real one {show(side.real)}; their rank correlation (Spearman) is {number(side.spearman)}."
        f" Real changes have a standard deviation of {show(side.spread, sign=False)}, of which training noise is"
        f" {show(side.noise, sign=False)}."
    )


def _table(target: TargetContext, id: str, side: BrittleSide, description: str) -> Table:
    rows = [_row(target, item) for item in side.examples[:LISTED_EXAMPLES]]
    significant = sum(target.is_significant(item.qvalue) for item in side.examples)
    caption = (
        f"Examples of {target.name} {description}, by id; of {len(side.examples)}, {significant} with a significant"
        " influence"
    )
    caption += "; summary.json has the others" if len(side.examples) > len(rows) else ""
    return Table(id, caption, EXAMPLE_COLUMNS, rows, (4, 5, 6, 7, 8))


def _row(target: TargetContext, item: BrittleExample) -> Row:
    show, real, change, right = target.unit.show, item.real, "–", "–"
    if real is not None:
        change = f"{show(real.change)} ± {show(real.error, sign=False)}"
        right = f"{real.before:.0%}, {real.after:.0%} of {count(real.runs, 'run')}"
    numbers = [q_value(item.qvalue), show(item.mean, sign=False), show(item.predicted), change, right]
    cells = [item.class_name, item.group, target.with_error(item.influence, item.stderr), *numbers]
    picture = target.album(target.name, item.example)
    return Row(str(item.example), cells, target.is_significant(item.qvalue), picture)
