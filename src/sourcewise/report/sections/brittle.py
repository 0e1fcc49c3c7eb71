"""Examples that one source group pulls away from their class, or that hang on one: what its removal does."""

from __future__ import annotations

import shlex

from sourcewise.acting.brittle import BrittleExample
from sourcewise.core.overrides import quote
from sourcewise.report.page import Row, Section, Table, count, number, small
from sourcewise.report.sections.target import Target

ROWS = 20
FULL = "python train.py -m subset=full 'seed=range(0,10)'"
SIDES = {
    "harmed": "that one group pulls away from their class most",
    "supported": "that hang on one group most",
}


def section(target: Target) -> Section | str:
    """From the brittle examples."""
    found = target.facts.brittle
    if found is None:
        return "It lists target examples that hang on one source group. " + target.unexamined
    scale = "on the logit " if target.summary.output == "prob" else ""
    lead = [
        f"For each example the one group that moves it most, by effects that are estimated {scale}and drawn to the"
        " mean of their class as far as they are noise. Influences shown are as estimated; the pale ones may be noise."
        f" Removal: the change of mean {target.summary.output}, in {target.unit.name}, that is predicted, and"
        " that of models really trained on all groups but that one, against models trained on all."
    ]
    if found.base:
        lead.append(
            f"Predictions are for the full source: they start from {count(found.base, 'model')} of it, other than"
            " those that real changes are measured against."
        )
    else:
        lead.append(
            "Predictions are for subsets such as influences were estimated from. In a full source a group is missed"
            f" less: with four or more runs of {FULL}, predictions start from these."
        )
    sides = {"harmed": found.harmed, "supported": found.supported}
    groups = list(dict.fromkeys(item.group for side in sides.values() for item in side.examples[:ROWS]))[:3]
    if compared := [(side, part) for side, part in sides.items() if part.compared > 2]:
        lead += [
            f"Over the {count(part.compared, 'example')} {SIDES[side]}, the predicted change is"
            f" {target.show(part.predicted)} on average and the real one {target.show(part.real)}; their rank"
            f" correlation (Spearman) is {number(part.spearman)}. Real changes have a standard deviation of"
            f" {target.show(part.spread, sign=False)}, of which training noise is"
            f" {target.show(part.noise, sign=False)}."
            for side, part in compared
        ]
    elif groups:
        drop = shlex.quote(f"subset.drop={','.join(quote([group]) for group in groups)}")
        lead.append(
            "What really happens needs models of the full source and models without a group. These commands make some,"
            f" for the first of the groups: python train.py -m subset=listed {drop} 'seed=range(0,5)' and"
            f" {FULL}, with the settings of this study."
        )
    columns = ["Example", "Class", "Group", "Influence", "q-value", "Mean", "Predicted", "Real", "Right: all, without"]
    tables = []
    for side, words in SIDES.items():
        examples = sides[side].examples
        rows = [_row(target, item) for item in examples[:ROWS]]
        sure = sum(target.significant(item.qvalue) for item in examples)
        caption = f"Examples of {target.name} {words}, by id; of {len(examples)}, {sure} with a significant influence"
        caption += "; summary.json has the others" if len(examples) > len(rows) else ""
        tables.append(Table(side, caption, columns, rows, (4, 5, 6, 7, 8)))
    return Section("brittle", "Brittle examples", lead, tables=tables)


def _row(target: Target, item: BrittleExample) -> Row:
    real = item.real
    happened = f"{target.show(real.change)} ± {target.show(real.error, sign=False)}" if real else "–"
    right = f"{real.before:.0%}, {real.after:.0%} of {count(real.runs, 'run')}" if real else "–"
    changes = [target.show(item.mean, sign=False), target.show(item.predicted), happened, right]
    cells = [item.class_name, item.group, target.within(item), small(item.qvalue), *changes]
    return Row(str(item.example), cells, not target.significant(item.qvalue), target.album(target.name, item.example))
