"""The figures of an estimate, as plotly figures: `report.html` and Weights & Biases show the same ones.

Every function returns a `plotly.graph_objects.Figure` in the light theme, from the influences of one target (an
`xarray.Dataset`, as in docs/architecture.md) or from what the summary says. `layout.meta` holds what a page needs to
restyle, reorder and search it. Names are data, and plotly reads labels as a small HTML: `labels` escapes them, and
nothing else does.
"""

from __future__ import annotations

import html
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import plotly.graph_objects as go
import xarray as xr
from plotly.colors import sample_colorscale
from scipy.cluster.hierarchy import leaves_list, linkage

from sourcewise.acting.counterfactuals import Comparison, Interval, RemovalPoint
from sourcewise.acting.subpopulations import Subpopulation
from sourcewise.acting.tradeoffs import Tradeoff
from sourcewise.study.effects import KEYS
from sourcewise.study.influences import LevelChecks

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.intp]

FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
MUTED = 0.32
"""Opacity of what is not significant."""


@dataclass(frozen=True)
class Unit:
    """How influences are written: multiply by `factor`, call the result `name`."""

    factor: float
    name: str
    meaning: str
    decimals: int = 2


UNITS = {
    "prob": Unit(100.0, "percentage points", "the probability given to the correct class"),
    "correct": Unit(100.0, "percentage points", "the share of correct predictions"),
    "margin": Unit(1.0, "log-odds", "the margin, the log-odds of the correct class", 3),
}


def unit(output: str) -> Unit:
    """The unit in which influences on `output` are shown.

    >>> unit("prob").name
    'percentage points'
    """
    return UNITS.get(output, Unit(1.0, output, output, 3))


def _scale(hurts: Sequence[str], helps: Sequence[str]) -> list[tuple[float, str]]:
    """A diverging colour scale, fastest near 0 as a signed square root, so that small effects show."""
    steps = np.linspace(-1, 1, 25)
    colours = [*sample_colorscale(hurts, -steps[:12]), *sample_colorscale(helps, steps[12:])]
    return [((1 + np.sign(step) * step**2) / 2, colour) for step, colour in zip(steps.tolist(), colours, strict=True)]


THEMES: dict[str, dict[str, Any]] = {
    "light": {
        "text": "#23272e",
        "soft": "#5c636e",
        "grid": "#e4e5e2",
        "surface": "#ffffff",
        "missing": "#d3d4d2",
        "helps": "#1f6cab",
        "hurts": "#c0531c",
        "scale": _scale(
            ("#ffffff", "#f6c6a4", "#d97a41", "#b4490f", "#6e2a05"),
            ("#ffffff", "#b3d3ec", "#5b9fd3", "#1f6cab", "#0b3a66"),
        ),
    },
    "dark": {
        "text": "#e6e4e0",
        "soft": "#9aa1ab",
        "grid": "#2e3238",
        "surface": "#1a1d21",
        "missing": "#3b4047",
        "helps": "#6fb1ea",
        "hurts": "#ee9460",
        "scale": _scale(
            ("#1a1d21", "#5c3420", "#a95a2a", "#ee9460", "#ffd2b5"),
            ("#1a1d21", "#1f4263", "#3377b0", "#6fb1ea", "#cbe5fb"),
        ),
    },
}
LIGHT = THEMES["light"]
COLOURS = tuple(LIGHT[name] for name in ("helps", "hurts", "soft", "text"))


def labels(names: Sequence[object], width: int = 36) -> list[str]:
    """Names as plotly labels: shortened, escaped, never empty and all different.

    >>> labels(["crane", "crane", "<b>"])
    ['crane', 'crane (2)', '&lt;b&gt;']
    """
    seen: dict[str, int] = {}
    result = []
    for name in map(str, names):
        text = name if len(name) <= width else name[: width - 1] + "…"
        text = html.escape(text.strip() or "(empty)", quote=False)
        seen[text] = seen.get(text, 0) + 1
        unique = text if seen[text] == 1 else f"{text} ({seen[text]})"
        seen.setdefault(unique, 1)
        result.append(unique)
    return result


def arrays(influences: xr.Dataset, suffix: str, *dims: str) -> list[Floats]:
    """Influences, standard errors and q-values of the level with this suffix, with their axes in this order."""
    return [np.asarray(influences[f"{key}{suffix}"].transpose(*dims).values, float) for key in KEYS]


def _numbers(values: npt.ArrayLike) -> Any:
    """Nested lists for JSON, in 5 significant digits; None if not finite."""
    short = np.vectorize(lambda value: float(f"{value:.5g}") if np.isfinite(value) else None, otypes=[object])
    return short(np.asarray(values, float)).tolist()


def cluster(columns: npt.ArrayLike) -> Integers:
    """An order of the rows of a matrix that puts alike ones side by side (average linkage)."""
    matrix = np.nan_to_num(np.asarray(columns, float))
    if len(matrix) < 3:
        return np.arange(len(matrix))
    return np.asarray(leaves_list(linkage(matrix, "average", optimal_ordering=len(matrix) <= 250)), np.intp)


def _strongest(evidence: Floats, limit: int) -> Integers:
    """Indices, ascending, of the `limit` rows that hold the strongest evidence."""
    return np.sort(np.argsort(-evidence.max(axis=1, initial=0), kind="stable")[:limit])


def _draw(traces: Sequence[Any], height: int, x: str, y: str = "", **others: Any) -> go.Figure:
    """Traces over two axes with these titles and a legend above, without zoom; `others` change the layout."""
    axis = {"gridcolor": LIGHT["grid"], "zerolinecolor": LIGHT["soft"], "fixedrange": True, "automargin": True}
    title = {"standoff": 8, "font": {"size": 12}}
    layout = {
        "template": go.layout.Template(),
        "height": height,
        "meta": {"kind": "lines"},
        "font": {"family": FONT, "size": 13, "color": LIGHT["text"]},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "margin": {"l": 8, "r": 12, "t": 12, "b": 8},
        "showlegend": True,
        "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
        "dragmode": False,
        "hoverlabel": {"font": {"family": FONT, "size": 13}, "align": "left"},
        "xaxis": {**axis, "title": {**title, "text": x}},
        "yaxis": {**axis, "title": {**title, "text": y}},
    }
    return go.Figure(traces, layout).update_layout(others)


def heatmap(influences: xr.Dataset, fdr: float = 0.05, max_classes: int = 100, max_groups: int = 400) -> go.Figure:
    """The influence of every group on every target class: blue helps, orange hurts, pale is not significant.

    Groups are in clustered order; `layout.meta["original"]` holds the order of the columns that restores the
    data's. A table too large to draw is cut to the classes and groups with the strongest evidence;
    `layout.meta["of"]` is its real size.
    """
    shown = unit(str(influences.attrs.get("output", "prob")))
    value, error, q = arrays(influences, "_class", "class", "group")
    value = np.where(np.isfinite(error) & np.isfinite(q), value, np.nan)
    with np.errstate(divide="ignore", invalid="ignore"):
        evidence = np.nan_to_num(np.abs(value) / error, nan=0.0, posinf=1e9)
    rows, columns = _strongest(evidence, max_classes), _strongest(evidence.T, max_groups)
    columns = columns[cluster(value[np.ix_(rows, columns)].T)]
    meta = {
        "kind": "heatmap",
        "groups": [str(name) for name in influences["group"].values[columns]],
        "classes": [str(name) for name in influences["class"].values[rows]],
        "original": np.argsort(columns).tolist(),
        "of": list(value.shape),
        "width": min(90 + 15 * len(columns), 640),
    }
    value, error, q = (array[np.ix_(rows, columns)] for array in (shown.factor * value, shown.factor * error, q))
    known = np.isfinite(value)
    limit = float(np.max(np.abs(value), initial=0, where=known)) or 1.0
    gap, decimals, name = int(value.size <= 3000), shown.decimals, html.escape(shown.name)

    def layer(kind: str, where: npt.NDArray[np.bool_], z: Floats = value, **others: Any) -> go.Heatmap:
        axes = {"x": labels(meta["groups"], 24), "y": labels(meta["classes"], 24), "xgap": gap, "ygap": gap}
        scale = {"zmin": -limit, "zmax": limit, "colorscale": LIGHT["scale"], "showscale": False}
        about = {"z": _numbers(np.where(where, z, np.nan)), "meta": kind, "hoverongaps": False}
        return go.Heatmap({**axes, **scale, **about, **others})

    hover = (
        f"<b>%{{x}}</b> on <b>%{{y}}</b><br>%{{z:+.{decimals}f}} ± %{{customdata[0]:.{decimals}f}} {name}"
        "<br>q = %{customdata[1]:.2~g}<extra></extra>"
    )
    unknown = "<b>%{x}</b> on <b>%{y}</b><br>not identifiable<extra></extra>"
    place = {"x": 0, "xanchor": "left", "xpad": 0, "y": 1, "yanchor": "bottom", "ypad": 8, "orientation": "h"}
    size = {"thickness": 9, "len": 240, "lenmode": "pixels", "outlinewidth": 0, "nticks": 5, "tickfont": {"size": 11}}
    title = {"text": f"hurts ← {name} → helps", "side": "top", "font": {"size": 12}}
    bar = {**place, **size, "title": title}
    details = _numbers(np.stack([error, q], axis=-1))
    traces = [
        layer("muted", known, customdata=details, hovertemplate=hover, opacity=MUTED),
        layer("significant", known & (q <= fdr), hoverinfo="skip", showscale=True, colorbar=bar),
    ]
    if not known.all():
        grey = [[0, LIGHT["missing"]], [1, LIGHT["missing"]]]
        traces.append(layer("missing", ~known, np.zeros_like(value), colorscale=grey, hovertemplate=unknown))
    height, margin = int(np.clip(28 * len(rows), 120, 900)) + 127, {"l": 8, "r": 12, "t": 58, "b": 8}
    others = {"meta": meta, "showlegend": False, "dragmode": "zoom", "margin": margin}
    figure = _draw(traces, height, "source group", "target class", **others)
    for axes in (figure.update_xaxes, figure.update_yaxes):
        axes(type="category", showgrid=False, zeroline=False, fixedrange=False, ticks="")
    return figure.update_yaxes(autorange="reversed", ticksuffix=" ")


def overall_bars(influences: xr.Dataset, fdr: float = 0.05, ends: int = 30) -> go.Figure:
    """The overall influence of each group with its 95% interval, sorted; of many, the `ends` best and worst.

    `layout.meta` holds all groups, so that a page can show the ones a reader asks for.
    """
    shown = unit(str(influences.attrs.get("output", "prob")))
    value, _, q = arrays(influences, "_overall", "group")
    order = np.argsort(-value, kind="stable")
    order = order[np.isfinite(value[order])]
    groups = [str(name) for name in influences["group"].values[order]]
    columns = {
        "labels": labels(groups),
        "influence": _numbers(shown.factor * value[order]),
        "interval": _numbers(shown.factor * influences["interval_overall"].values[order]),
        "qvalue": _numbers(q[order]),
    }
    meta = {"kind": "bars", "groups": groups, **columns, "fdr": fdr, "muted": MUTED, "ends": ends}
    pick = range(len(groups)) if len(groups) <= 2 * ends else [*range(ends), *range(-ends, 0)]
    names, x, interval, qvalue = ([column[i] for i in pick] for column in columns.values())
    whiskers = {"type": "data", "array": interval, "thickness": 1.2, "width": 3, "color": LIGHT["soft"]}
    marker = {
        "color": [LIGHT["helps"] if v >= 0 else LIGHT["hurts"] for v in x],
        "opacity": [1.0 if p is not None and p <= fdr else MUTED for p in qvalue],
    }
    name, decimals, details = html.escape(shown.name), shown.decimals, list(zip(interval, qvalue, strict=True))
    hover = (
        f"<b>%{{y}}</b><br>%{{x:+.{decimals}f}} {name}, 95% interval ± %{{customdata[0]:.{decimals}f}}"
        "<br>q = %{customdata[1]:.2~g}<extra></extra>"
    )
    about = {"orientation": "h", "meta": "bars", "customdata": details, "hovertemplate": hover}
    bars = go.Bar(x=x, y=names, error_x=whiskers, marker=marker, **about)
    title = f"hurts ← {name} → helps"
    figure = _draw([bars], 18 * len(x) + 70, title, meta=meta, showlegend=False, bargap=0.3)
    return figure.update_yaxes(type="category", autorange="reversed", showgrid=False, ticksuffix=" ", dtick=1)


def convergence(checks: Mapping[str, LevelChecks]) -> go.Figure:
    """LDS and split-half reliability against the number of models, by level; dotted: the noise ceiling of the LDS.

    checks: by level.
    """
    lines = []
    for level, colour in zip(("class", "example"), COLOURS, strict=False):
        curve = np.array(checks[level].curve or (), float).reshape(-1, 3)
        ceiling = np.full(len(curve), checks[level].noise_ceiling, float)
        for name, y, dash in (
            ("split-half reliability", curve[:, 2], "solid"),
            ("LDS", curve[:, 1], "dash"),
            ("noise ceiling", ceiling, "dot"),
        ):
            if np.isfinite(y).any():
                name = f"{name}, {level} level"
                mode = "lines" if dash == "dot" else "lines+markers"
                hover = f"%{{x}} models<br>{name}: %{{y:.2f}}<extra></extra>"
                about = {"name": name, "mode": mode, "line": {"color": colour, "dash": dash}, "hovertemplate": hover}
                lines.append(go.Scatter(x=_numbers(curve[:, 0]), y=_numbers(y), **about))
    return _draw(lines, 330, "models").update_yaxes(range=[0, 1.02])


def removal(found: Comparison, shown: Unit | None = None) -> go.Figure:
    """Score, or with its unit the mean output, against groups removed: curves with 95% bands, the full source dotted.

    Dashed, for the output: what the fitted influences predict. Without
    curves, listed subsets by name, 60 at most.
    """
    key, factor, title = ("output", shown.factor, shown.meaning) if shown else ("score", 100.0, "score")
    title = title.removeprefix("the ") + ", %" * (factor == 100)

    def level(points: Sequence[RemovalPoint]) -> pd.DataFrame:
        """Return middles and ends of their intervals; NaN ends where one run cannot tell."""
        intervals: list[Interval] = [getattr(point, key) for point in points]
        return factor * pd.DataFrame(map(vars, intervals), columns=["value", "low", "high"], dtype=float)

    full, alone = [found.full] if found.full else [], not found.curves
    listed = found.listed[: 60 if alone else None]
    names, (middles, _, highs) = labels([point.name for point in listed]), level(listed).to_numpy().T
    intervals = {"type": "data", "array": _numbers(highs - middles), "color": LIGHT["soft"], "thickness": 1}
    diamonds = {"mode": "markers", "marker": {"color": LIGHT["text"], "symbol": "diamond", "size": 9}}
    dotted = {"name": "full source", "mode": "lines", "line": {"color": LIGHT["text"], "width": 1, "dash": "dot"}}
    wholes = _numbers(level(full)["value"])
    if alone:
        drawn = [go.Scatter(x=_numbers(middles), y=names, name="95% interval", error_x=intervals, **diamonds)]
        drawn += [go.Scatter(x=[whole, whole], y=[names[0], names[-1]], **dotted) for whole in wholes]
        figure = _draw(drawn, 22 * len(names) + 110, title)
        return figure.update_yaxes(type="category", autorange="reversed", dtick=1, ticksuffix=" ")
    bands, lines, seen = [], [], Counter[str]()
    colours = dict(zip(("worst", "best", "random"), COLOURS, strict=False))
    for curve in found.curves:
        order, name = curve.name.partition(",")[0], labels([curve.name])[0]
        colour = LIGHT["text"] if seen[order] else colours[order]  # of further rankings, and of the first one
        line = {"color": colour, "width": 2, "dash": ("solid", "dot", "dashdot", "longdash")[seen[order] % 4]}
        seen[order] += 1
        points = [*full, *curve.points]
        x, at = [point.removed for point in points], level(points)
        low, high = (_numbers(at[end].fillna(at["value"])) for end in ("low", "high"))
        shared = {"legendgroup": name, "mode": "lines", "showlegend": False, "hoverinfo": "skip"}
        band = {"fill": "toself", "fillcolor": colour, "opacity": MUTED / 2, "line": {"width": 0}}
        bands.append(go.Scatter(x=x + x[::-1], y=low + high[::-1], **band, **shared))
        hover = f"{name}: %{{x}} removed<br>%{{y:.2f}}<extra></extra>"
        own = {"name": name, "legendgroup": name, "mode": "lines+markers", "hovertemplate": hover}
        lines.append(go.Scatter(x=x, y=_numbers(at["value"]), line=line, **own))
        predicted = {p.removed: factor * p.predicted for p in points if key == "output" and p.predicted is not None}
        if predicted:
            y = _numbers([*predicted.values()])
            lines.append(go.Scatter(x=[*predicted], y=y, line={**line, "dash": "dash"}, **shared))
    places = [point.removed for point in listed]
    last = max(places + [point.removed for curve in found.curves for point in curve.points])
    lines += [go.Scatter(x=[0, last], y=[whole, whole], **dotted) for whole in wholes]
    if listed:
        named = {"name": "listed subsets", "text": names, "textposition": "middle right", "error_y": intervals}
        mode = "markers+text" if len(names) <= 6 else "markers"
        lines.append(go.Scatter(x=places, y=_numbers(middles), **{**diamonds, **named, "mode": mode}))
    return _draw([*bands, *lines], 400, "source groups removed", title)


def trades(groups: Sequence[Tradeoff], targets: Sequence[str], shown: Unit) -> go.Figure:
    """Overall influence of every group on the first target and on each other one; on the Pareto front: filled."""
    first, *others = (
        (label, _numbers([shown.factor * group.effects[target].influence for group in groups]))
        for label, target in zip(labels(targets), targets, strict=True)
    )
    names = labels([group.group for group in groups])
    text = [name if group.removal else "" for name, group in zip(names, groups, strict=True)]
    symbols = ["circle" if group.on_front else "circle-open" for group in groups]
    shared = {"mode": "markers+text", "text": text, "textposition": "top center", "hovertext": names}
    points = []
    for i, (label, y) in enumerate(others):
        marker = {"color": COLOURS[i % len(COLOURS)], "symbol": symbols, "size": 9}
        hover = f"<b>%{{hovertext}}</b><br>{first[0]} %{{x:+}}, {label} %{{y:+}}<extra></extra>"
        points.append(go.Scatter(x=first[1], y=y, name=label, marker=marker, hovertemplate=hover, **shared))
    axes = first[0], others[0][0] if len(others) == 1 else "other targets"
    titles = (f"influence on {name}, {shown.name}" for name in axes)
    return _draw(points, 400, *titles, showlegend=len(points) > 1)


def subpopulations(influences: xr.Dataset, parts: Sequence[Subpopulation], shown: Unit) -> go.Figure:
    """Influence of the first two parts' groups on each example of a class, in the colours of its subpopulations.

    parts: of one class.
    """
    names, axes = labels([part.group for part in parts]), [str(part.group) for part in parts[:2]]
    hover = "example %{text}<br>%{x:+}, %{y:+}<extra></extra>"
    points = []
    for part, colour, name in zip(parts, COLOURS, names, strict=False):
        table = shown.factor * influences["influence"].sel(example=list(part.examples), group=axes).values
        x, y = _numbers(table.T)
        about = {"name": f"set apart by {name}", "marker": {"color": colour, "size": 8}, "hovertemplate": hover}
        points.append(go.Scatter(x=x, y=y, text=list(map(str, part.examples)), mode="markers", **about))
    return _draw(points, 380, *(f"influence of {name}, {shown.name}" for name in names[:2]))
