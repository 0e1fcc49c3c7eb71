"""Groups that help one target and hurt another."""

from __future__ import annotations

from sourcewise.page import Effect, Row, Section, Table, small
from sourcewise.sections.target import Target


def section(target: Target) -> Section | str:
    """From what `analyses.between` found, of groups with a significant effect on this target."""
    names = list(target.summary["targets"])
    if len(names) < 2:
        return (
            "It shows groups that help one target and hurt another. It needs runs with several targets:"
            " python train.py -m 'target=[digits,<another>]' 'subset.seed=range(0,96)'"
        )
    rows = []
    for item in target.summary.get("between", ()):
        if target.significant(item["influence"][target.name][2]):
            cells = [
                [Effect(group, target.show(value), target.show(error, sign=False), small(q), target.significant(q))]
                for group, (value, error, q) in item["influence"].items()
            ]
            rows.append(Row(item["group"], cells))
    title, id = "What differs between targets", f"{target.id}-between"
    if not rows:
        return Section(id, title, [f"No group significantly helps {target.name} and hurts another target, or reverse."])
    caption = (
        f"Overall influence ({target.unit.name} ± standard error; pale: not significant) of groups that significantly"
        f" help {target.name} and hurt another target, or hurt it and help another; the widest gap first"
    )
    return Section(
        id, title, tables=[Table(f"{id}-table", caption, ["Source group", *names], rows, searchable="group")]
    )
