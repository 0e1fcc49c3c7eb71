"""Several targets at once: which removals help all of them, and which trade one for another."""

from __future__ import annotations

from sourcewise.acting.tradeoffs import find_tradeoffs
from sourcewise.report import figures
from sourcewise.report.page import Figure, Row, Section, Table
from sourcewise.report.sections.target import Target


def section(target: Target) -> Section | str:
    """From the overall influences on all targets; in the table, groups with significant effects on this and others."""
    targets = target.summary.targets
    if len(targets) < 2:
        return (
            "It shows which removals help all targets and which trade one for another. It needs runs with several"
            " targets: python train.py -m 'target=[digits,<another>]' 'subset.seed=range(0,96)'"
        )
    found = find_tradeoffs({name: facts.overall for name, facts in targets.items()}, target.summary.fdr)
    rows = [
        Row(
            item.group,
            [*([target.effect("", of)] for of in item.effects.values()), item.removal],
        )
        for item in found
        if item.removal and target.significant(item.effects[target.name].qvalue)
    ]
    nothing = f"No group significantly helps {target.name} and the others, hurts all, or trades one for another."
    caption = (
        f"Overall influence ({target.unit.name} ± standard error; pale: not significant) of groups whose removal"
        " significantly helps all targets, hurts all, or trades one for another; the most harmful first"
    )
    table = Table("between-table", caption, ["Source group", *targets, "Removal"], rows, searchable="group")
    about = (
        f"Influence on {target.name} and on other targets. Every point is a group; those at the lower left hurt both."
        " Filled: the Pareto front for removal, by the estimates. The table holds what is significant."
    )
    drawn = figures.trades(found, sorted(targets, key=lambda name: name != target.name), target.unit)
    return Section(
        "between",
        "What differs between targets",
        [] if rows else [nothing],
        figures=[Figure("between-figure", drawn, about)] if found else [],
        tables=[table] if rows else [],
    )
