"""Examples that one source group pulls away from their class, or that hang on one: what its removal does."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from typing import Any

from sourcewise.page import Row, Section, Table, count, number, small
from sourcewise.sections.target import Target

ROWS = 20
FULL = "python train.py -m subset=full 'seed=range(0,10)'"
SIDES = {
    "harmed": "that one group pulls away from their class most",
    "supported": "that hang on one group most",
}


def section(target: Target) -> Section | str:
    """From what `analyses.examine` found."""
    found = target.facts.get("brittle")
    if found is None:
        return "It lists target examples that hang on one source group. " + target.unexamined
    lead = [
        "For each example the one group that matters most to it, by influences that are drawn to the mean of their"
        " class as far as they are noise; those shown are as estimated, and the pale ones may be noise. Removal: the"
        f" change of mean {target.summary['output']}, in {target.unit.name}, that influences predict, and that of"
        " models really trained on all groups but that one, against models trained on all."
    ]
    if found["base"]:
        lead.append(
            f"Predictions are for the full source: {count(found['base'], 'model')} of it, other than those that real"
            " changes are measured against, are each moved by the influence, on the scale of the logit."
        )
    else:
        lead.append(
            "Predictions are for subsets such as influences were estimated from. In a full source a group is missed"
            f" less: with outputs=prob and four or more runs of {FULL}, predictions start from these."
        )
    if compared := [(side, found[side]) for side in SIDES if found[side]["compared"] > 2]:
        lead += [
            f"Over the {count(part['compared'], 'example')} {SIDES[side]}, the predicted change is"
            f" {target.show(part['predicted'])} on average and the real one {target.show(part['real'])}; their rank"
            f" correlation (Spearman) is {number(part['spearman'])}. Real changes have a standard deviation of"
            f" {target.show(part['spread'], sign=False)}, of which training noise is"
            f" {target.show(part['noise'], sign=False)}."
            for side, part in compared
        ]
    else:
        groups = list(dict.fromkeys(item["group"] for item in found["harmed"]["examples"]))[:3]
        drop = shlex.quote(f"subset.drop={','.join(json.dumps([group]) for group in groups)}")
        lead.append(
            "Nobody has trained without these groups yet. These commands do, for the first of them:"
            f" python train.py -m subset=listed {drop} 'seed=range(0,5)' and"
            f" {FULL}, with the settings of this study."
        )
    columns = ["Example", "Class", "Group", "Influence", "q-value", "Mean", "Predicted", "Real", "Right: all, without"]
    tables = []
    for side, words in SIDES.items():
        rows = [_row(target, item) for item in found[side]["examples"][:ROWS]]
        total = len(found[side]["examples"])
        caption = f"Examples of {target.name} {words}, by id"
        caption += f"; summary.json has {total}" if total > len(rows) else ""
        tables.append(Table(side, caption, columns, rows, (4, 5, 6, 7, 8)))
    return Section("brittle", "Brittle examples", lead, tables=tables)


def _row(target: Target, item: Mapping[str, Any]) -> Row:
    real = item["real"]
    happened = f"{target.show(real['change'])} ± {target.show(real['error'], sign=False)}" if real else "–"
    right = f"{real['before']:.0%}, {real['after']:.0%} of {count(real['runs'], 'run')}" if real else "–"
    changes = [target.show(item["mean"], sign=False), target.show(item["predicted"]), happened, right]
    cells = [item["class"], item["group"], target.within(item), small(item["qvalue"]), *changes]
    return Row(
        str(item["example"]), cells, not target.significant(item["qvalue"]), target.album(target.name, item["example"])
    )
