"""The figure of counterfactual runs: scores or outputs of models that lack some of the groups."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from sourcewise.acting.counterfactuals import Comparison, RemovalCurve, RemovalPoint
from sourcewise.report.drawing import COLOURS, LIGHT, MUTED, json_numbers, labels, make_figure
from sourcewise.report.figures import Floats
from sourcewise.report.formatting import DisplayUnit

ORDER_COLOURS = dict(zip(("worst", "best", "random"), COLOURS, strict=False))
DIAMONDS = {"mode": "markers", "marker": {"color": LIGHT["text"], "symbol": "diamond", "size": 9}}
DOTTED = {"name": "full source", "mode": "lines", "line": {"color": LIGHT["text"], "width": 1, "dash": "dot"}}
SUBSETS = 60
"""Listed subsets that are drawn where there are no curves."""


def removal(comparison: Comparison, unit: DisplayUnit | None = None) -> go.Figure:
    """Draw the score against groups removed: curves with 95% bands, listed subsets as points, the full source dotted.

    With a unit, draw the mean output instead, and dashed what the fitted influences predict of it. Without curves, draw
    listed subsets by name.
    """
    scale = _Scale(unit)
    return _by_number(comparison, scale) if comparison.curves else _by_name(comparison, scale)


class _Scale:
    """The values on the axis of one figure: scores in percent, or mean outputs in a unit."""

    def __init__(self, unit: DisplayUnit | None) -> None:
        self.is_score, self.factor = unit is None, 100.0 if unit is None else unit.factor
        self.title = ("score" if unit is None else unit.meaning.removeprefix("the ")) + ", %" * (self.factor == 100)

    def intervals(self, points: Sequence[RemovalPoint]) -> Floats:
        """Return the values of points and the ends of their intervals, float[3, points]; unknown ends are NaN."""
        rows = [point.score if self.is_score else point.output for point in points]
        table = np.array([(row.value, row.low, row.high) for row in rows], float).reshape(-1, 3)
        return self.factor * table.T

    def full_lines(self, comparison: Comparison, ends: Sequence[Any], along: str) -> list[go.Scatter]:
        """Return a dotted line at the full source's value, if it is known, from one of the ends to the other.

        along: the axis that the ends are on.
        """
        points = [comparison.full] if comparison.full else []
        across = "y" if along == "x" else "x"
        return [
            go.Scatter({along: list(ends), across: [value, value], **DOTTED})
            for value in json_numbers(self.intervals(points)[0])
        ]


def _by_name(comparison: Comparison, scale: _Scale) -> go.Figure:
    """Draw listed subsets below each other."""
    points = comparison.listed[:SUBSETS]
    names, (values, _, highs) = labels([point.name for point in points]), scale.intervals(points)
    whiskers = _whiskers(highs - values)
    traces = [go.Scatter(x=json_numbers(values), y=names, name="95% interval", error_x=whiskers, **DIAMONDS)]
    traces += scale.full_lines(comparison, (names[0], names[-1]), along="y")
    figure = make_figure(traces, 22 * len(names) + 110, scale.title)
    return figure.update_yaxes(type="category", autorange="reversed", dtick=1, ticksuffix=" ")


def _by_number(comparison: Comparison, scale: _Scale) -> go.Figure:
    """Draw curves over the number of groups removed, and listed subsets as points."""
    bands, lines, seen = [], [], Counter[str]()
    full = [comparison.full] if comparison.full else []
    for curve in comparison.curves:
        order = curve.name.partition(",")[0]
        colour = LIGHT["text"] if seen[order] else ORDER_COLOURS[order]  # of further rankings, and of the first one
        dash = ("solid", "dot", "dashdot", "longdash")[seen[order] % 4]
        seen[order] += 1
        bands.append(_band(curve, full, scale, colour))
        lines += _curve(curve, full, scale, {"color": colour, "width": 2, "dash": dash})
    points = [*comparison.listed, *(point for curve in comparison.curves for point in curve.points)]
    lines += scale.full_lines(comparison, (0, max(point.removed for point in points)), along="x")
    if comparison.listed:
        values, _, highs = scale.intervals(comparison.listed)
        names = labels([point.name for point in comparison.listed])
        mode = "markers+text" if len(names) <= 6 else "markers"
        text = {"name": "listed subsets", "text": names, "textposition": "middle right", "mode": mode}
        place = {"x": [point.removed for point in comparison.listed], "y": json_numbers(values)}
        lines.append(go.Scatter({**place, "error_y": _whiskers(highs - values), **DIAMONDS, **text}))
    return make_figure([*bands, *lines], 400, "source groups removed", scale.title)


def _curve(curve: RemovalCurve, full: list[RemovalPoint], scale: _Scale, line: dict[str, Any]) -> list[go.Scatter]:
    """Return the trace of one curve, and a dashed one of what influences predict of the output."""
    name, points = labels([curve.name])[0], [*full, *curve.points]
    hover = f"{name}: %{{x}} removed<br>%{{y:.2f}}<extra></extra>"
    style = {"name": name, "legendgroup": name, "mode": "lines+markers", "hovertemplate": hover}
    y = json_numbers(scale.intervals(points)[0])
    traces = [go.Scatter(x=[point.removed for point in points], y=y, line=line, **style)]
    predicted = {point.removed: scale.factor * point.predicted for point in points if point.predicted is not None}
    if predicted and not scale.is_score:
        shared = {"legendgroup": name, "mode": "lines", "showlegend": False, "hoverinfo": "skip"}
        y = json_numbers([*predicted.values()])
        traces.append(go.Scatter(x=[*predicted], y=y, line={**line, "dash": "dash"}, **shared))
    return traces


def _band(curve: RemovalCurve, full: list[RemovalPoint], scale: _Scale, colour: str) -> go.Scatter:
    """Return the band of a curve's intervals; where one is unknown it has no width."""
    points = [*full, *curve.points]
    values, lows, highs = scale.intervals(points)
    low, high = (json_numbers(np.where(np.isnan(ends), values, ends)) for ends in (lows, highs))
    x = [point.removed for point in points]
    style = {"fill": "toself", "fillcolor": colour, "opacity": MUTED / 2, "line": {"width": 0}, "mode": "lines"}
    shared = {"legendgroup": labels([curve.name])[0], "showlegend": False, "hoverinfo": "skip"}
    return go.Scatter(x=x + x[::-1], y=low + high[::-1], **style, **shared)


def _whiskers(halves: Floats) -> dict[str, Any]:
    """Return error bars of these half widths."""
    return {"type": "data", "array": json_numbers(halves), "color": LIGHT["soft"], "thickness": 1}
