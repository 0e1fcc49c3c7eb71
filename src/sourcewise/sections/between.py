"""Groups that help one target and hurt another."""

from __future__ import annotations

from sourcewise.page import Row, Section, Table
from sourcewise.sections.target import Target

KEYS = ("influence", "stderr", "qvalue")


def section(target: Target) -> Section | str:
    """From the overall influences on all targets: those significant on this one, and the other way on another."""
    targets = target.summary["targets"].items()
    tables = {name: {effect["group"]: effect for effect in facts.get("overall", ())} for name, facts in targets}
    if len(tables) < 2:
        return (
            "It shows groups that help one target and hurt another. It needs runs with several targets:"
            " python train.py -m 'target=[digits,<another>]' 'subset.seed=range(0,96)'"
        )
    rows = []
    for group, own in tables[target.name].items():
        found = [table[group] for table in tables.values() if group in table]
        known = [effect["influence"] for effect in found if target.significant(effect["qvalue"])]
        if target.significant(own["qvalue"]) and min(known) < 0 < max(known):
            numbers = (map(table.get(group, {}).get, KEYS) for table in tables.values())
            cells = [[target.effect("", *values)] for values in numbers]
            rows.append((max(known) - min(known), Row(group, cells)))
    title, id = "What differs between targets", f"{target.id}-between"
    if not rows:
        return Section(id, title, [f"No group significantly helps {target.name} and hurts another target, or reverse."])
    caption = (
        f"Overall influence ({target.unit.name} ± standard error; pale: not significant) of groups that significantly"
        f" help {target.name} and hurt another target, or hurt it and help another; the widest gap first"
    )
    ordered = [row for _, row in sorted(rows, key=lambda item: -item[0])]
    columns = ["Source group", *tables]
    return Section(id, title, tables=[Table(f"{id}-table", caption, columns, ordered, searchable="group")])
