"""What retraining without chosen groups does, against what influences predict; and which groups to remove."""

from __future__ import annotations

from sourcewise.acting.counterfactuals import Comparison, Interval, RemovalPoint
from sourcewise.core.overrides import quote
from sourcewise.report import proposal
from sourcewise.report.formatting import number
from sourcewise.report.parts import Figure, Row, Section, Table, as_code
from sourcewise.report.removal import removal
from sourcewise.report.sections.context import TargetContext

SUBSET_COLUMNS = ("Subset", "Removed", "Runs", "Score, %", "Gain over the full source", "Gain over random removal")
BRIEF_SUBSETS = 20
"""Subsets that a terminal lists."""


def section(target: TargetContext) -> Section | str:
    """Return the section, from the runs on this target and the proposal of groups to remove.

    Runs on targets without influences, as another study may have, are shown with the first target.
    """
    summary, curation = target.summary, target.summary.curation
    first = target.name == next(iter(summary.targets))
    shown = [
        comparison
        for comparison in summary.counterfactuals
        if comparison.target == target.name or (first and comparison.target not in summary.targets)
    ]
    if curation is not None and target.name not in curation.weights:
        curation = None
    if not (shown or curation):
        return (
            "It shows what really happens without the worst, best and random groups. It needs models of such subsets: "
            + _ranked_command(target)
        )
    phrases, code = as_code(proposal.commands(curation) if curation else [])
    lead = [*(proposal.sentences(curation, summary.output) if curation else []), *phrases]
    drawn, tables = [], []
    for place, comparison in enumerate(shown):
        drawn += _figures(target, comparison, f"removal-{place}")
        tables.append(_table(comparison, f"removal-{place}-table"))
    title = "What happens without chosen groups"
    brief = [table.brief(_brief_caption(table), table.rows[:BRIEF_SUBSETS], columns=5) for table in tables]
    return Section(
        "counterfactuals",
        title,
        lead,
        figures=drawn,
        tables=tables,
        code=code,
        brief=Section("counterfactuals", title, lead, tables=brief, code=code),
    )


def _ranked_command(target: TargetContext) -> str:
    """Return the command that trains models without some of the groups, from none to at most half of them."""
    removed = dict.fromkeys(round(target.summary.groups * part / 6) for part in range(4))
    return target.train_command(
        "subset=ranked",
        f"subset.ranking={quote(str(target.out / target.name / 'influences.nc'))}",
        "subset.order=worst,best,random",
        f"subset.remove={','.join(map(str, removed))}",
        "seed=range(0,5)",
    )


def _figures(target: TargetContext, comparison: Comparison, id: str) -> list[Figure]:
    place = _place(comparison)
    bands = "bands over seeds; of random removal, over subsets" if comparison.curves else "intervals over seeds"
    score = Figure(
        f"{id}-score",
        removal(comparison),
        f"{place}: score after retraining, with 95% {bands}.",
    )
    if all(point.predicted is None for curve in comparison.curves for point in curve.points):
        return [score]
    caption = (
        f"{place}: mean {target.summary.output} after retraining. Dashed: predicted, as random removal plus what"
        " influences say of these groups rather than average ones. Where it parts from the line, effects do not just"
        " add up."
    )
    return [score, Figure(f"{id}-output", removal(comparison, target.unit), caption)]


def _table(comparison: Comparison, id: str) -> Table:
    rows = [Row(name, _cells(point)) for name, point in comparison.points]
    caption = f"Score on {_place(comparison)} after retraining, and gains in points, with 95% intervals"
    return Table(id, caption, SUBSET_COLUMNS, rows, (1, 2, 3, 4, 5))


def _brief_caption(table: Table) -> str:
    some = f". The first {BRIEF_SUBSETS} of {len(table.rows):,}" if len(table.rows) > BRIEF_SUBSETS else ""
    return table.caption + some


def _cells(point: RemovalPoint) -> list[str]:
    gains = (point.full, point.random) if point.removed else (None, None)
    shown = ("–" if gain is None else _interval(gain, sign=True) for gain in gains)
    return [str(point.removed), str(point.runs), _interval(point.score), *shown]


def _place(comparison: Comparison) -> str:
    """Return the target, and the study if that is another than the influences'."""
    return f"{comparison.target} in {comparison.study}" if comparison.study else comparison.target


def _interval(interval: Interval, *, sign: bool = False) -> str:
    """Return a share as percent, with its interval where that is known."""
    value, *ends = (
        number(100 * end, 2, sign) for end in (interval.value, interval.low, interval.high) if end is not None
    )
    return f"{value} ({' to '.join(ends)})" if ends else value
