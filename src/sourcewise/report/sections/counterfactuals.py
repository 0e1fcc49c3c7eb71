"""What retraining without chosen groups does, against what influences predict; and which groups to remove."""

from __future__ import annotations

import math

from sourcewise.acting.counterfactuals import Interval
from sourcewise.acting.curation import Curation
from sourcewise.report import figures
from sourcewise.report.page import Figure, Row, Section, Table, number
from sourcewise.report.sections.target import Target


def section(target: Target) -> Section | str:
    """From the trials on this target; on those that have no influences here too, for the first target."""
    summary = target.summary
    first = target.name == next(iter(summary.targets))
    shown = [
        found
        for found in summary.counterfactuals
        if found.target == target.name or (first and found.target not in summary.targets)
    ]
    proposal = summary.curation
    lead = curation_text(proposal, summary.output) if proposal and target.name in proposal.weights else []
    if not (shown or lead):
        return (
            "It shows what really happens without the worst, best and random groups. It needs models of such subsets:"
            f" python train.py -m subset=ranked subset.ranking=<out>/{target.name}/influences.nc"
            " subset.order=worst,best,random 'subset.remove=range(0,31,5)' 'seed=range(0,5)'"
        )
    drawn, tables = [], []
    for place, found in enumerate(shown):
        about, id = " in ".join(filter(None, (found.target, found.study))), f"removal-{place}"
        bands = "bands over seeds; of random removal, over subsets" if found.curves else "intervals over seeds"
        captions = {"score": f"score after retraining, with 95% {bands}."}
        if any(point.predicted is not None for curve in found.curves for point in curve.points):
            captions["output"] = (
                f"mean {summary.output} after retraining. Dashed: predicted, as random removal plus what influences"
                " say of these groups rather than average ones. Where it parts from the line, effects do not just add"
                " up."
            )
        for key, caption in captions.items():
            figure = figures.removal(found, target.unit if key == "output" else None)
            drawn.append(Figure(f"{id}-{key}", figure, f"{about}: {caption}"))
        rows = []
        for name, point in found.points:
            gains = [_interval(gain if point.removed else None, sign=True) for gain in (point.full, point.random)]
            rows.append(Row(name, [str(point.removed), str(point.runs), _interval(point.score), *gains]))
        columns = ["Subset", "Removed", "Runs", "Score, %", "Gain over the full source", "Gain over random removal"]
        caption = f"Score on {about} after retraining, and gains in points, with 95% intervals"
        tables.append(Table(f"{id}-table", caption, columns, rows, (1, 2, 3, 4, 5)))
    return Section("counterfactuals", "What happens without chosen groups", lead, (), drawn, tables)


def _interval(interval: Interval | None, *, sign: bool = False) -> str:
    if interval is None:
        return "–"
    text, *ends = (number(100 * v, 2, sign) for v in (interval.value, interval.low, interval.high) if v is not None)
    return f"{text} ({' to '.join(ends)})" if ends else text


def curation_text(found: Curation, output: str) -> list[str]:
    """Return a proposal in sentences."""
    factor, unit = (100.0, " points") if output in ("prob", "correct") else (1.0, "")

    def show(gain: Interval, factor: float = factor, unit: str = unit) -> str:
        low, high = factor * _end(gain.low), factor * _end(gain.high)
        return f"{factor * gain.value:+.2f}{unit} (95% interval {low:+.2f} to {high:+.2f})"

    expected, number = found.expected, len(found.drop)
    text = [
        f"Proposed: remove {number} of {number + len(found.keep)} groups: {', '.join(found.drop)}.",
        f"Expected gain in mean {output}: {show(expected.random)} over removing {number} random groups,"
        f" {show(expected.full)} over the full source. Random subsets alone only show the first; the second adds"
        " what random groups cost, on a straight line from the random subsets to the full source. Near the full source"
        " effects are usually smaller: retrain before you rely on it.",
    ]
    if _end(expected.full.low) <= 0:
        text.append("These models cannot tell this gain over the full source from none.")
    for target, gained in found.verified.items():
        if gained is None:
            text.append(f"Not verified on {target} yet: {found.command}")
            continue
        line = f"Verified on {target}: score {show(gained.full, 100.0, ' points')} over the full source"
        line += f", {show(gained.random, 100.0, ' points')} over random removal" if gained.random else ""
        line += f"; mean {output} {show(gained.output)} over the full source"
        text.append(f"{line}; {gained.runs} runs against {gained.runs_full}.")
        if _end(gained.full.high) < 0:
            text.append(f"The removal hurts {target}: keep the full source.")
        elif _end(gained.full.low) <= 0:
            text.append(f"There is no gain on {target} over the full source that these runs can tell from none.")
    return text


def _end(value: float | None) -> float:
    """Return the end of an interval, NaN where it is unknown."""
    return math.nan if value is None else value
