"""What retraining without chosen groups does, against what influences predict; and which groups to remove."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from sourcewise.acting.counterfactuals import FEWEST, Comparison, Interval, RemovalPoint
from sourcewise.acting.curation import Curation, VerifiedGain
from sourcewise.core.overrides import quote
from sourcewise.report.figures import removal
from sourcewise.report.formatting import count, display_unit, percent
from sourcewise.report.parts import Figure, Row, Section, Table, as_code
from sourcewise.report.sections.context import TargetContext

SUBSET_COLUMNS = (
    *("Subset", "Removed", "Runs", "Score, %"),
    *("Gain over the full source", "Gain over random removal", "On all examples"),
)
FEW = " (too few runs for an interval)"
BRIEF_SUBSETS = 20
"""Subsets that a terminal lists."""


def counterfactuals_section(target: TargetContext) -> Section | str:
    """Return what the runs on this target did, and the proposal of groups to remove.

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
    lead, commands = [], []
    if curation:
        lead = proposal_sentences(curation, summary.output, summary.title_of)
        if None in curation.verified.values():
            commands.append(("To verify the proposal by retraining", curation.command))
            commands.append(("After that, to see what it gained", summary.command))
    phrases, code = as_code(commands)
    tables = [_table(item, _place(target, item), f"removal-{place}-table") for place, item in enumerate(shown)]
    brief = Section(
        "counterfactuals",
        "What happens without chosen groups",
        [*lead, *phrases],
        code=code,
        tables=[table.brief(BRIEF_SUBSETS, columns=5) for table in tables],
    )
    drawn = [figure for place, item in enumerate(shown) for figure in _figures(target, item, f"removal-{place}")]
    return replace(brief, figures=drawn, tables=tables, brief=brief)


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
    place = _place(target, comparison)
    bands = "bands over seeds; of random removal, over subsets" if comparison.curves else "intervals over seeds"
    caption = f"{place}: score after retraining, with 95% {bands}; fewer than {FEWEST} runs have none."
    score = Figure(f"{id}-score", removal(comparison), caption)
    if all(point.predicted is None for curve in comparison.curves for point in curve.points):
        return [score]
    caption = (
        f"{place}: mean {target.summary.output} after retraining. Dashed, open circles: predicted, as random removal"
        " plus what influences say of these groups rather than average ones. Where it parts from the line, effects do"
        " not just add up."
    )
    return [score, Figure(f"{id}-output", removal(comparison, target.unit), caption)]


def _table(comparison: Comparison, place: str, id: str) -> Table:
    rows = [Row(name, _cells(point)) for name, point in comparison.points]
    few = f"of fewer than {FEWEST} runs: none"
    caption = (
        f"Score on {place} after retraining, and gains in points, with 95% intervals ({few}). They are on the target"
        " examples that rankings and proposals of this estimate do not look at; last, the gain over the full source on"
        " all examples"
    )
    return Table(id, caption, SUBSET_COLUMNS, rows, (1, 2, 3, 4, 5, 6))


def _cells(point: RemovalPoint) -> list[str]:
    gains = (point.full, point.random, point.every) if point.removed else (None, None, None)
    shown = ("–" if gain is None else percent(gain, sign=True) for gain in gains)
    return [str(point.removed), str(point.runs), percent(point.score), *shown]


def _place(target: TargetContext, comparison: Comparison) -> str:
    title = target.summary.title_of(comparison.target)
    return f"{title} in {comparison.study}" if comparison.study else title


def proposal_sentences(curation: Curation, output: str, title_of: Callable[[str], str] = str) -> list[str]:
    """Return the paragraphs on a proposal for a study of this output. title_of: how texts call a target."""
    removed, kept, expected = len(curation.drop), len(curation.keep), curation.expected
    full, number = expected.full, expected.removed
    proposal = f"Proposed: remove {removed} of {count(removed + kept, 'group')}: {', '.join(curation.drop)}."
    if not removed:
        proposal = (
            f"Proposed: remove none of {count(kept, 'group')}. No removal promises a gain beyond its error; the best is"
            f" that of {number}."
        )
    lead = [
        proposal,
        f"Expected gain in mean {output}: {_gain(expected.random, output)} over removing {number} random groups,"
        f" {_gain(full, output)} over the full source. These intervals hold for all numbers of groups at once. Random"
        " subsets alone show only the first. The second adds what random groups cost, on a straight line from the"
        " random subsets to the full source. Near the full source effects are usually smaller: retrain before you rely"
        " on it.",
    ]
    if full.high is not None and full.high < 0:
        lead.append("By these models the removal is a loss: keep the full source.")
    elif removed and (full.low is None or full.low <= 0):
        lead.append("These models cannot tell this gain over the full source from none.")
    for name, verified in curation.verified.items():
        target = title_of(name)
        lead += _verification(target, verified, output) if verified else [f"It is not verified on {target} yet."]
    return lead


def _verification(target: str, verified: VerifiedGain, output: str) -> list[str]:
    line = f"Verified on {target}: score {_gain(verified.full, 'correct')} over the full source"
    line += f", {_gain(verified.random, 'correct')} over random removal" if verified.random else ""
    line += f"; mean {output} {_gain(verified.output, output)} over the full source"
    lines = [
        f"{line}; {verified.runs} runs against {verified.runs_full}. That is on the target examples which the proposal"
        f" did not look at; on all of them the score gains {_gain(verified.every, 'correct')} over the full source."
    ]
    low, high = verified.full.low, verified.full.high
    if high is not None and high < 0:
        lines.append(f"The removal hurts {target}: keep the full source.")
    elif low is None or low <= 0:
        lines.append(f"These runs cannot tell the gain on {target} over the full source from none.")
    return lines


def _gain(gain: Interval, output: str) -> str:
    unit = display_unit(output)
    points = f" {unit.name}" if unit.factor != 1 else ""
    known = gain.low is not None and gain.high is not None
    interval = f" (95% interval {unit.show(gain.low)} to {unit.show(gain.high)})" if known else FEW
    return f"{unit.show(gain.value)}{points}{interval}"
