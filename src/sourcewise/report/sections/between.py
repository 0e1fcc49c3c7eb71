"""Several targets at once: which removals help all of them, and which trade one for another."""

from __future__ import annotations

from sourcewise.acting.tradeoffs import find_tradeoffs
from sourcewise.report import figures
from sourcewise.report.parts import Figure, Row, Section, Table
from sourcewise.report.sections.context import TargetContext


def section(target: TargetContext) -> Section | str:
    """Return the section, from the overall influences on all targets.

    The table holds the groups with significant effects on this target and on others.
    """
    targets = target.summary.targets
    if len(targets) < 2:
        return (
            "It shows which removals help all targets and which trade one for another. It needs runs with several"
            " targets: train.py takes their names in the setting target, as a list."
        )
    tradeoffs = find_tradeoffs({name: facts.overall for name, facts in targets.items()}, target.summary.fdr)
    rows = [
        Row(item.group, [*([target.effect("", effect)] for effect in item.effects.values()), item.removal])
        for item in tradeoffs
        if item.removal and target.is_significant(item.effects[target.name].qvalue)
    ]
    nothing = f"No group significantly helps {target.name} and the others, hurts all, or trades one for another."
    caption = (
        f"Overall influence, in {target.unit.name} ± standard error, of groups whose removal significantly helps all"
        " targets, hurts all, or trades one for another; the most harmful first"
    )
    table = Table("between-table", caption, ["Source group", *targets, "Removal"], rows, searchable="group")
    caption = (
        f"Influence on {target.name} and on other targets. Every point is a group; those at the lower left hurt both."
        " Filled: the Pareto front for removal, by the estimates. The table holds what is significant."
    )
    drawn = figures.trades(tradeoffs, sorted(targets, key=lambda name: name != target.name), target.unit)
    return Section(
        "between",
        "What differs between targets",
        [] if rows else [nothing],
        figures=[Figure("between-figure", drawn, caption)] if tradeoffs else [],
        tables=[table] if rows else [],
    )
