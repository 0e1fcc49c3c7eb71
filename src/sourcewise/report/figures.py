"""The figures of an estimate, as plotly figures: `report.html` and Weights & Biases show the same ones.

Every function returns a `plotly.graph_objects.Figure` in the light theme. `layout.meta` holds what a page needs to
restyle, reorder and search it. Names are data, and plotly reads labels as a small HTML: `drawing.labels` escapes them.
"""

from __future__ import annotations

import html
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import plotly.graph_objects as go
import xarray as xr
from scipy.cluster.hierarchy import leaves_list, linkage

from sourcewise.acting.counterfactuals import Comparison, RemovalCurve, RemovalPoint
from sourcewise.acting.subpopulations import Subpopulation
from sourcewise.acting.tradeoffs import Tradeoff
from sourcewise.report.drawing import COLOURS, LIGHT, MUTED, json_numbers, labels, make_figure
from sourcewise.report.formatting import DisplayUnit, display_unit
from sourcewise.study.effects import KEYS
from sourcewise.study.influences import Checks

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.intp]
ORDER_COLOURS = dict(zip(("worst", "best", "random"), COLOURS, strict=False))
DIAMONDS = {"mode": "markers", "marker": {"color": LIGHT["text"], "symbol": "diamond", "size": 9}}
DOTTED = {"name": "full source", "mode": "lines", "line": {"color": LIGHT["text"], "width": 1, "dash": "dot"}}
SUBSETS = 60
"""Listed subsets that are drawn where there are no curves."""


EXPECTED = ("posterior", "posterior_sd", "qvalue")
"""Variables of influences.nc that lists show: the effect to expect, its standard deviation, and stars."""


def arrays(influences: xr.Dataset, suffix: str, *dims: str, keys: Sequence[str] = KEYS) -> list[Floats]:
    """Return influences, standard errors and q-values of the level with this suffix, or other variables; axes as dims.

    influences: of one target, as docs/architecture.md describes it.
    """
    return [np.asarray(influences[f"{key}{suffix}"].transpose(*dims).values, float) for key in keys]


def cluster(matrix: Floats) -> Integers:
    """Return an order of the rows of a matrix that puts similar ones side by side (average linkage)."""
    matrix = np.nan_to_num(matrix)
    if len(matrix) < 3:
        return np.arange(len(matrix))
    return np.asarray(leaves_list(linkage(matrix, "average", optimal_ordering=len(matrix) <= 250)), np.intp)


def _strongest(evidence: Floats, limit: int) -> Integers:
    """Return the indices, ascending, of the `limit` rows with the largest entry."""
    return np.sort(np.argsort(-evidence.max(axis=1, initial=0), kind="stable")[:limit])


def heatmap(influences: xr.Dataset, fdr: float = 0.05, max_classes: int = 100, max_groups: int = 400) -> go.Figure:
    """Draw the influence of every group on every target class: blue helps, orange hurts, pale is not significant.

    Groups are in clustered order; `layout.meta["original"]` is the order of the columns that restores that of the data.
    A table too large to draw is cut to the classes and groups with the strongest evidence; `layout.meta["full_size"]`
    is its size before.
    """
    unit = display_unit(str(influences.attrs.get("output", "prob")))
    value, error, q, posterior = arrays(influences, "_class", "class", "group", keys=(*KEYS, "posterior"))
    value = np.where(np.isfinite(error), value, np.nan)
    with np.errstate(divide="ignore", invalid="ignore"):
        evidence = np.nan_to_num(np.abs(value) / error, nan=0.0, posinf=1e9)
    rows, columns = _strongest(evidence, max_classes), _strongest(evidence.T, max_groups)
    columns = columns[cluster(value[np.ix_(rows, columns)].T)]
    meta = {
        "kind": "heatmap",
        "groups": [str(name) for name in influences["group"].values[columns]],
        "classes": [str(name) for name in influences["class"].values[rows]],
        "original": np.argsort(columns).tolist(),
        "full_size": list(value.shape),
        "width": min(90 + 15 * len(columns), 640),
    }
    shown = (unit.factor * value, unit.factor * error, q, unit.factor * posterior)
    value, error, q, posterior = (array[np.ix_(rows, columns)] for array in shown)
    known = np.isfinite(value)
    limit = float(np.max(np.abs(value), initial=0, where=known)) or 1.0
    gap, decimals, unit_name = int(value.size <= 3000), unit.decimals, html.escape(unit.name)

    def layer(kind: str, cells: npt.NDArray[np.bool_], z: Floats = value, **changes: Any) -> go.Heatmap:
        """Return one trace, of these cells alone."""
        axes = {"x": labels(meta["groups"], 24), "y": labels(meta["classes"], 24), "xgap": gap, "ygap": gap}
        scale = {"zmin": -limit, "zmax": limit, "colorscale": LIGHT["scale"], "showscale": False}
        content = {"z": json_numbers(np.where(cells, z, np.nan)), "meta": kind, "hoverongaps": False}
        return go.Heatmap({**axes, **scale, **content, **changes})

    hover = (
        f"<b>%{{x}}</b> on <b>%{{y}}</b><br>%{{z:+.{decimals}f}} ± %{{customdata[0]:.2~r}} {unit_name}"
        f"<br>q = %{{customdata[1]:.2~g}}, expected %{{customdata[2]:+.{decimals}f}}<extra></extra>"
    )
    place = {"x": 0, "xanchor": "left", "xpad": 0, "y": 1, "yanchor": "bottom", "ypad": 8, "orientation": "h"}
    size = {"thickness": 9, "len": 240, "lenmode": "pixels", "outlinewidth": 0, "nticks": 5, "tickfont": {"size": 11}}
    title = {"text": _direction(unit, influences), "side": "top", "font": {"size": 12}}
    bar = {**place, **size, "title": title}
    details = json_numbers(np.stack([error, q, posterior], axis=-1))
    traces = [
        layer("muted", known, customdata=details, hovertemplate=hover, opacity=MUTED),
        layer("significant", known & (q <= fdr), hoverinfo="skip", showscale=True, colorbar=bar),
    ]
    if not known.all():
        grey = [[0, LIGHT["missing"]], [1, LIGHT["missing"]]]
        hover = "<b>%{x}</b> on <b>%{y}</b><br>not identifiable<extra></extra>"
        traces.append(layer("missing", ~known, np.zeros_like(value), colorscale=grey, hovertemplate=hover))
    height, margin = int(np.clip(28 * len(rows), 120, 900)) + 127, {"l": 8, "r": 12, "t": 58, "b": 8}
    layout = {"meta": meta, "showlegend": False, "dragmode": "zoom", "margin": margin}
    figure = make_figure(traces, height, "source group", "target class", **layout)
    for update in (figure.update_xaxes, figure.update_yaxes):
        update(type="category", showgrid=False, zeroline=False, fixedrange=False, ticks="")
    return figure.update_yaxes(autorange="reversed", ticksuffix=" ")


def overall_bars(influences: xr.Dataset, fdr: float = 0.05, ends: int = 30) -> go.Figure:
    """Draw the overall influence of each group with its 95% interval, sorted; of many, the `ends` best and worst.

    `layout.meta` holds all groups, so that a page can show those that a reader searches for.
    """
    unit = display_unit(str(influences.attrs.get("output", "prob")))
    value, _, q = arrays(influences, "_overall", "group")
    order = np.argsort(-value, kind="stable")
    order = order[np.isfinite(value[order])]
    groups = [str(name) for name in influences["group"].values[order]]
    columns = {
        "labels": labels(groups),
        "influence": json_numbers(unit.factor * value[order]),
        "interval": json_numbers(unit.factor * influences["interval_overall"].values[order]),
        "qvalue": json_numbers(q[order]),
    }
    meta = {"kind": "bars", "groups": groups, **columns, "fdr": fdr, "muted": MUTED, "ends": ends}
    shown = range(len(groups)) if len(groups) <= 2 * ends else [*range(ends), *range(-ends, 0)]
    names, x, interval, qvalue = ([column[i] for i in shown] for column in columns.values())
    whiskers = {"type": "data", "array": interval, "thickness": 1.2, "width": 3, "color": LIGHT["soft"]}
    marker = {
        "color": [LIGHT["helps"] if v >= 0 else LIGHT["hurts"] for v in x],
        "opacity": [1.0 if q is not None and q <= fdr else MUTED for q in qvalue],
    }
    unit_name, decimals, details = html.escape(unit.name), unit.decimals, list(zip(interval, qvalue, strict=True))
    hover = (
        f"<b>%{{y}}</b><br>%{{x:+.{decimals}f}} {unit_name}, 95% interval ± %{{customdata[0]:.2~r}}"
        "<br>q = %{customdata[1]:.2~g}<extra></extra>"
    )
    content = {"orientation": "h", "meta": "bars", "customdata": details, "hovertemplate": hover}
    bars = go.Bar(x=x, y=names, error_x=whiskers, marker=marker, **content)
    figure = make_figure(
        [bars], 18 * len(x) + 70, _direction(unit, influences), meta=meta, showlegend=False, bargap=0.3
    )
    return figure.update_yaxes(type="category", autorange="reversed", showgrid=False, ticksuffix=" ", dtick=1)


def studies(names: Sequence[str], matrix: Floats) -> go.Figure:
    """Draw the correlations of any two studies, float[studies, studies], similar ones side by side."""
    order = cluster(matrix)
    axis, values = labels([names[i] for i in order], 40), matrix[np.ix_(order, order)]
    scale = {"zmin": -1, "zmax": 1, "colorscale": LIGHT["scale"], "showscale": False}
    hover = "<b>%{y}</b> and <b>%{x}</b>: %{z:.2f}<extra></extra>"
    content = {"z": json_numbers(values), "texttemplate": "%{z:.2f}", "hovertemplate": hover, "hoverongaps": False}
    cells = go.Heatmap({"x": axis, "y": axis, "xgap": 1, "ygap": 1, **scale, **content})
    figure = make_figure([cells], 44 * len(names) + 160, "", showlegend=False)
    return figure.update_xaxes(type="category", showgrid=False).update_yaxes(
        type="category", autorange="reversed", showgrid=False, ticksuffix=" "
    )


def _direction(unit: DisplayUnit, influences: xr.Dataset) -> str:
    """Return the title of an axis of influences, as HTML."""
    low, high = ("below average", "above average") if "reference" in influences.attrs else ("hurts", "helps")
    return f"{low} ← {html.escape(unit.name)} → {high}"


def convergence(checks: Mapping[str, Checks]) -> go.Figure:
    """Draw LDS and split-half reliability against the number of models, by level; dotted: the LDS's noise ceiling."""
    lines = []
    for level, colour in zip(("class", "example"), COLOURS, strict=False):
        curve = np.array(checks[level].curve or (), float).reshape(-1, 3)
        ceiling = np.full(len(curve), checks[level].noise_ceiling, float)
        for name, y, dash in (
            (f"split-half reliability, {level} level", curve[:, 2], "solid"),
            (f"LDS, {level} level", curve[:, 1], "dash"),
            (f"noise ceiling, {level} level", ceiling, "dot"),
        ):
            if np.isfinite(y).any():
                mode = "lines" if dash == "dot" else "lines+markers"
                hover = f"%{{x}} models<br>{name}: %{{y:.2f}}<extra></extra>"
                style = {"name": name, "mode": mode, "line": {"color": colour, "dash": dash}, "hovertemplate": hover}
                lines.append(go.Scatter(x=json_numbers(curve[:, 0]), y=json_numbers(y), **style))
    return make_figure(lines, 330, "models").update_yaxes(range=[0, 1.02])


def trades(tradeoffs: Sequence[Tradeoff], targets: Sequence[str], unit: DisplayUnit) -> go.Figure:
    """Draw the overall influence of every group on the first target and on each other one; filled: the Pareto front."""
    first, *others = (
        (label, json_numbers([unit.factor * item.effects[target].influence for item in tradeoffs]))
        for label, target in zip(labels(targets), targets, strict=True)
    )
    names = labels([item.group for item in tradeoffs])
    text = [name if item.removal else "" for name, item in zip(names, tradeoffs, strict=True)]
    symbols = ["circle" if item.on_front else "circle-open" for item in tradeoffs]
    shared = {"mode": "markers+text", "text": text, "textposition": "top center", "hovertext": names}
    points = []
    for place, (label, y) in enumerate(others):
        marker = {"color": COLOURS[place % len(COLOURS)], "symbol": symbols, "size": 9}
        hover = f"<b>%{{hovertext}}</b><br>{first[0]} %{{x:+}}, {label} %{{y:+}}<extra></extra>"
        points.append(go.Scatter(x=first[1], y=y, name=label, marker=marker, hovertemplate=hover, **shared))
    axes = first[0], others[0][0] if len(others) == 1 else "other targets"
    titles = (f"influence on {name}, {unit.name}" for name in axes)
    return make_figure(points, 400, *titles, showlegend=len(points) > 1)


def subpopulations(
    influences: xr.Dataset, parts: Sequence[Subpopulation], unit: DisplayUnit, name: Callable[[int], str] = str
) -> go.Figure:
    """Draw the influence of the first two parts' groups on each example of a class, in the colours of its parts.

    name: of an example by its id.
    """
    groups, axes = labels([part.group for part in parts]), [part.group for part in parts[:2]]
    hover = "example %{text}<br>%{x:+}, %{y:+}<extra></extra>"
    points = []
    for part, colour, group in zip(parts, COLOURS, groups, strict=False):
        examples = list(part.examples)
        x, y = json_numbers(unit.factor * influences["influence"].sel(example=examples, group=axes).values.T)
        style = {"name": f"set apart by {group}", "marker": {"color": colour, "size": 8}, "hovertemplate": hover}
        points.append(go.Scatter(x=x, y=y, text=labels(list(map(name, examples)), 60), mode="markers", **style))
    return make_figure(points, 380, *(f"influence of {group}, {unit.name}" for group in groups[:2]))


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

    def full_lines(self, comparison: Comparison, ends: Sequence[Any], along: str, across: str) -> list[go.Scatter]:
        """Return a dotted line at the full source's value, if it is known, between two ends on the axis `along`."""
        values = json_numbers(self.intervals([comparison.full])[0]) if comparison.full else []
        return [go.Scatter({along: list(ends), across: [value, value], **DOTTED}) for value in values]


def _by_name(comparison: Comparison, scale: _Scale) -> go.Figure:
    points = comparison.listed[:SUBSETS]
    names, (values, _, highs) = labels([point.name for point in points]), scale.intervals(points)
    whiskers = _whiskers(highs - values)
    traces = [go.Scatter(x=json_numbers(values), y=names, name="95% interval", error_x=whiskers, **DIAMONDS)]
    traces += scale.full_lines(comparison, (names[0], names[-1]), "y", "x")
    figure = make_figure(traces, 22 * len(names) + 110, scale.title)
    return figure.update_yaxes(type="category", autorange="reversed", dtick=1, ticksuffix=" ")


def _by_number(comparison: Comparison, scale: _Scale) -> go.Figure:
    """Draw curves over the number of groups removed, and listed subsets as points."""
    bands, lines, seen = [], [], Counter[str]()
    full = [comparison.full] if comparison.full else []
    for curve in comparison.curves:
        order = curve.name.partition(",")[0]
        # Only the first ranking of an order has the order's colour.
        colour = LIGHT["text"] if seen[order] else ORDER_COLOURS.get(order, LIGHT["text"])
        dash = ("solid", "dot", "dashdot", "longdash")[seen[order] % 4]
        seen[order] += 1
        band, traces = _curve(curve, full, scale, {"color": colour, "width": 2, "dash": dash})
        bands.append(band)
        lines += traces
    points = [*comparison.listed, *(point for curve in comparison.curves for point in curve.points)]
    lines += scale.full_lines(comparison, (0, max(point.removed for point in points)), "x", "y")
    if comparison.listed:
        values, _, highs = scale.intervals(comparison.listed)
        names = labels([point.name for point in comparison.listed])
        mode = "markers+text" if len(names) <= 6 else "markers"
        text = {"name": "listed subsets", "text": names, "textposition": "middle right", "mode": mode}
        place = {"x": [point.removed for point in comparison.listed], "y": json_numbers(values)}
        lines.append(go.Scatter({**place, "error_y": _whiskers(highs - values), **DIAMONDS, **text}))
    return make_figure([*bands, *lines], 400, "source groups removed", scale.title)


def _curve(
    curve: RemovalCurve, full: list[RemovalPoint], scale: _Scale, line: dict[str, Any]
) -> tuple[go.Scatter, list[go.Scatter]]:
    """Return the band of a curve's intervals, without width where one is unknown, and the curve.

    With the curve of an output comes, dashed and with open circles, what influences predict of it.
    """
    name, points = labels([curve.name])[0], [*full, *curve.points]
    x = [point.removed for point in points]
    values, *ends = scale.intervals(points)
    low, high = (json_numbers(np.where(np.isnan(end), values, end)) for end in ends)
    silent = {"legendgroup": name, "mode": "lines", "showlegend": False, "hoverinfo": "skip"}
    area = {"fill": "toself", "fillcolor": line["color"], "opacity": MUTED / 2, "line": {"width": 0}}
    band = go.Scatter(x=x + x[::-1], y=low + high[::-1], **area, **silent)
    hover = f"{name}: %{{x}} removed<br>%{{y:.2f}}<extra></extra>"
    style = {"name": name, "legendgroup": name, "mode": "lines+markers", "hovertemplate": hover}
    traces = [go.Scatter(x=x, y=json_numbers(values), line=line, **style)]
    predicted = {point.removed: scale.factor * point.predicted for point in points if point.predicted is not None}
    if predicted and not scale.is_score:
        y = json_numbers([*predicted.values()])
        shown = {**silent, "mode": "lines+markers", "marker": {"symbol": "circle-open"}}  # a single point has no line
        traces.append(go.Scatter(x=[*predicted], y=y, line={**line, "dash": "dash"}, **shown))
    return band, traces


def _whiskers(halves: Floats) -> dict[str, Any]:
    return {"type": "data", "array": json_numbers(halves), "color": LIGHT["soft"], "thickness": 1}
