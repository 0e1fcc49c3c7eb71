"""The figures of an estimate, as plotly figures: `report.html` and Weights & Biases show the same ones.

Every function takes the influences of one target (an `xarray.Dataset`, as in docs/architecture.md) and
returns a `plotly.graph_objects.Figure` in the light theme. `layout.meta` holds what a page needs to restyle,
reorder and search it. Names are data, and plotly reads labels as a small HTML: `labels` escapes them, and
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
import plotly.graph_objects as go
import xarray as xr
from scipy.cluster.hierarchy import leaves_list, linkage

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.intp]

FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
MUTED = 0.32
"""Opacity of what is not significant."""
Z95 = 1.959963984540054
"""Half-width of a 95% interval in standard errors."""


@dataclass(frozen=True)
class Unit:
    """How influences are written: multiply by `factor`, call the result `name`."""

    factor: float
    name: str
    meaning: str
    decimals: int = 2


_PROB = Unit(100.0, "percentage points", "the probability given to the correct class")
_CORRECT = Unit(100.0, "percentage points", "the share of correct predictions")
_MARGIN = Unit(1.0, "log-odds", "the margin, the log-odds of the correct class", 3)


def unit(output: str) -> Unit:
    """The unit in which influences on `output` are shown.

    >>> unit("prob").name
    'percentage points'
    """
    return {"prob": _PROB, "correct": _CORRECT, "margin": _MARGIN}.get(output, Unit(1.0, output, output, 3))


def _blend(stops: Sequence[str], at: float) -> str:
    """The colour at `at` in [0, 1] along evenly spaced hexadecimal `stops`."""
    index = min(int(at * (len(stops) - 1)), len(stops) - 2)
    share = at * (len(stops) - 1) - index
    low, high = ([int(stop[i : i + 2], 16) for i in (1, 3, 5)] for stop in stops[index : index + 2])
    return "#" + "".join(f"{round(a + (b - a) * share):02x}" for a, b in zip(low, high, strict=True))


def _scale(hurts: Sequence[str], helps: Sequence[str]) -> list[list[float | str]]:
    """A diverging colour scale, fastest near 0 as a signed square root, so that small effects show."""
    steps = np.linspace(-1, 1, 25)
    return [[float((1 + np.sign(u) * u * u) / 2), _blend(helps if u > 0 else hurts, abs(float(u)))] for u in steps]


THEMES: dict[str, dict[str, Any]] = {
    "light": {
        "text": "#23272e",
        "soft": "#5c636e",
        "grid": "#e4e5e2",
        "surface": "#ffffff",
        "missing": "#d3d4d2",
        "mark": "#111418",
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
        "mark": "#ffffff",
        "helps": "#6fb1ea",
        "hurts": "#ee9460",
        "scale": _scale(
            ("#1a1d21", "#5c3420", "#a95a2a", "#ee9460", "#ffd2b5"),
            ("#1a1d21", "#1f4263", "#3377b0", "#6fb1ea", "#cbe5fb"),
        ),
    },
}


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


def _numbers(values: npt.ArrayLike, decimals: int | None = None) -> list[Any]:
    """Nested lists for JSON: None if not finite; rounded to `decimals`, else to 3 significant digits."""
    array = np.asarray(values, float)
    if array.ndim > 1:
        return [_numbers(row, decimals) for row in array]
    return [
        None if not np.isfinite(v) else round(v, decimals) if decimals is not None else float(f"{v:.3g}")
        for v in array.tolist()
    ]


def cluster(columns: npt.ArrayLike) -> Integers:
    """An order of the rows of a matrix that puts alike ones side by side (average linkage)."""
    matrix = np.nan_to_num(np.asarray(columns, float))
    if len(matrix) < 3:
        return np.arange(len(matrix))
    return np.asarray(leaves_list(linkage(matrix, "average", optimal_ordering=len(matrix) <= 250)), np.intp)


def _strongest(evidence: Floats, limit: int) -> Integers:
    """Indices, ascending, of the `limit` rows that hold the strongest evidence."""
    if len(evidence) <= limit:
        return np.arange(len(evidence))
    return np.sort(np.argsort(-evidence.max(axis=1, initial=0), kind="stable")[:limit])


def _layout(height: int, meta: dict[str, Any], **others: Any) -> go.Layout:
    theme = THEMES["light"]
    layout = {
        "template": go.layout.Template(),
        "height": height,
        "meta": meta,
        "font": {"family": FONT, "size": 13, "color": theme["text"]},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "margin": {"l": 8, "r": 12, "t": 12, "b": 8},
        "showlegend": False,
        "hoverlabel": {"font": {"family": FONT, "size": 13}, "align": "left"},
    }
    return go.Layout(**{**layout, **others})


def heatmap(influences: xr.Dataset, fdr: float = 0.05, max_classes: int = 100, max_groups: int = 400) -> go.Figure:
    """The influence of every group on every target class: blue helps, orange hurts, pale is not significant.

    Groups are in clustered order; `layout.meta["original"]` holds the order of the columns that restores the
    data's. A table too large to draw is cut to the classes and groups with the strongest evidence;
    `layout.meta["of"]` is its real size.
    """
    shown = unit(str(influences.attrs.get("output", "prob")))
    value, error, q = (
        np.asarray(influences[f"{name}_class"].transpose("class", "group").values, float)
        for name in ("influence", "stderr", "qvalue")
    )
    value = np.where(np.isfinite(error) & np.isfinite(q), value, np.nan)
    of = value.shape
    with np.errstate(divide="ignore", invalid="ignore"):
        evidence = np.nan_to_num(np.abs(value) / error, nan=0.0, posinf=1e9)
    rows, columns = _strongest(evidence, max_classes), _strongest(evidence.T, max_groups)
    columns = columns[cluster(value[np.ix_(rows, columns)].T)]
    value, error, q = (array[np.ix_(rows, columns)] for array in (value, error, q))
    value, error = value * shown.factor, error * shown.factor
    significant = np.isfinite(value) & (q <= fdr)
    classes = [str(name) for name in influences["class"].values[rows]]
    groups = [str(name) for name in influences["group"].values[columns]]
    x, y = labels(groups, 24), labels(classes, 24)
    limit = float(np.nanmax(np.abs(value), initial=0, where=np.isfinite(value))) or 1.0

    theme = THEMES["light"]
    gap = 1 if value.size <= 3000 else 0
    common = {"x": x, "y": y, "xgap": gap, "ygap": gap, "zmin": -limit, "zmax": limit, "hoverongaps": False}
    common["colorscale"] = theme["scale"]
    decimals, name = shown.decimals, html.escape(shown.name)
    hover = (
        f"<b>%{{x}}</b> on <b>%{{y}}</b><br>%{{z:+.{decimals}f}} ± %{{customdata[0]:.{decimals}f}} {name}"
        "<br>q = %{customdata[1]:.2~g}<extra></extra>"
    )
    details = [
        [list(pair) for pair in zip(e, p, strict=True)]
        for e, p in zip(_numbers(error, shown.decimals + 1), _numbers(q), strict=True)
    ]
    z = _numbers(value, shown.decimals + 1)
    strong = _numbers(np.where(significant, value, np.nan), shown.decimals + 1)
    bar = {
        "orientation": "h",
        "thickness": 9,
        "len": 240,
        "lenmode": "pixels",
        "x": 0,
        "xanchor": "left",
        "y": 1,
        "yanchor": "bottom",
        "ypad": 8,
        "xpad": 0,
        "outlinewidth": 0,
        "nticks": 5,
        "tickfont": {"size": 11},
        "title": {"text": f"hurts ← {name} → helps", "side": "top", "font": {"size": 12}},
    }
    traces = [
        go.Heatmap(
            **common, z=z, customdata=details, hovertemplate=hover, opacity=MUTED, showscale=False, meta="muted"
        ),
        go.Heatmap(**common, z=strong, hoverinfo="skip", colorbar=bar, meta="significant"),
    ]
    if not np.isfinite(value).all():
        traces.append(
            go.Heatmap(
                **{**common, "colorscale": [[0, theme["missing"]], [1, theme["missing"]]]},
                z=_numbers(np.where(np.isfinite(value), np.nan, 0.0), 0),
                hovertemplate="<b>%{x}</b> on <b>%{y}</b><br>not identifiable<extra></extra>",
                showscale=False,
                meta="missing",
            )
        )
    meta = {
        "kind": "heatmap",
        "groups": groups,
        "classes": classes,
        "original": np.argsort(columns).tolist(),
        "of": list(of),
        "significant": int(significant.sum()),
    }
    axis = {"type": "category", "showgrid": False, "zeroline": False, "automargin": True, "ticks": ""}
    height = int(np.clip(28 * len(rows), 120, 900)) + 127
    return go.Figure(
        traces,
        _layout(
            height,
            meta,
            xaxis={**axis, "title": {"text": "source group", "standoff": 10, "font": {"size": 12}}},
            yaxis={
                **axis,
                "autorange": "reversed",
                "ticksuffix": " ",
                "title": {"text": "target class", "standoff": 8, "font": {"size": 12}},
            },
            margin={"l": 8, "r": 12, "t": 58, "b": 8},
        ),
    )


def overall_bars(influences: xr.Dataset, fdr: float = 0.05, ends: int = 30) -> go.Figure:
    """The overall influence of each group with its 95% interval, sorted; of many, the `ends` best and worst.

    `layout.meta` holds all groups, so that a page can show the ones a reader asks for.
    """
    shown = unit(str(influences.attrs.get("output", "prob")))
    value, error, q = (
        np.asarray(influences[f"{name}_overall"].values, float) for name in ("influence", "stderr", "qvalue")
    )
    order = np.argsort(-value, kind="stable")
    order = order[np.isfinite(value[order])]
    groups = [str(name) for name in influences["group"].values[order]]
    value, error, q = value[order] * shown.factor, error[order] * shown.factor, q[order]
    meta: dict[str, Any] = {
        "kind": "bars",
        "groups": groups,
        "labels": labels(groups),
        "influence": _numbers(value, shown.decimals + 1),
        "interval": _numbers(Z95 * error, shown.decimals + 1),
        "qvalue": _numbers(q),
        "fdr": fdr,
        "muted": MUTED,
        "ends": ends,
    }
    count = len(groups)
    pick = [*range(ends), *range(count - ends, count)] if count > 2 * ends else list(range(count))
    theme = THEMES["light"]
    bars = go.Bar(
        y=[meta["labels"][i] for i in pick],
        x=[meta["influence"][i] for i in pick],
        customdata=[[meta["interval"][i], meta["qvalue"][i]] for i in pick],
        error_x={
            "type": "data",
            "array": [meta["interval"][i] for i in pick],
            "thickness": 1.2,
            "width": 3,
            "color": theme["soft"],
        },
        marker={
            "color": [theme["helps"] if value[i] >= 0 else theme["hurts"] for i in pick],
            "opacity": [1.0 if q[i] <= fdr else MUTED for i in pick],
        },
        orientation="h",
        meta="bars",
        hovertemplate=f"<b>%{{y}}</b><br>%{{x:+.{shown.decimals}f}} {shown.name}, 95% interval "
        f"± %{{customdata[0]:.{shown.decimals}f}}<br>q = %{{customdata[1]:.2~g}}<extra></extra>",
    )
    return go.Figure(
        bars,
        _layout(
            18 * len(pick) + 70,
            meta,
            bargap=0.3,
            dragmode=False,
            xaxis={
                "title": {"text": f"hurts ← {shown.name} → helps", "standoff": 8, "font": {"size": 12}},
                "gridcolor": theme["grid"],
                "zeroline": True,
                "zerolinecolor": theme["soft"],
                "fixedrange": True,
                "automargin": True,
            },
            yaxis={
                "type": "category",
                "autorange": "reversed",
                "fixedrange": True,
                "automargin": True,
                "showgrid": False,
                "ticksuffix": " ",
                "dtick": 1,
            },
        ),
    )


def convergence(checks: Mapping[str, Mapping[str, Any]]) -> go.Figure:
    """LDS and split-half reliability against the number of models, by level; dotted: the noise ceiling of the LDS.

    checks: by level, `curve` as rows of (models, lds, split_half), and `noise_ceiling` or None.
    """
    theme = THEMES["light"]
    colours = {"class": theme["helps"], "example": theme["hurts"]}
    lines = []
    for level, colour in colours.items():
        curve = checks[level]["curve"]
        models = [row[0] for row in curve]
        for at, name, dash in ((2, "split-half reliability", "solid"), (1, "LDS", "dash")):
            lines.append(
                go.Scatter(
                    x=models,
                    y=_numbers([row[at] for row in curve], 3),
                    name=f"{name}, {level} level",
                    mode="lines+markers",
                    line={"color": colour, "dash": dash, "width": 2},
                    hovertemplate=f"%{{x}} models<br>{name}, {level} level: %{{y:.2f}}<extra></extra>",
                )
            )
        if checks[level]["noise_ceiling"] is not None and models:
            ceiling = [checks[level]["noise_ceiling"]] * 2
            name = f"noise ceiling, {level} level"
            lines.append(
                go.Scatter(
                    x=[models[0], models[-1]], y=ceiling, name=name, mode="lines", line={"color": colour, "dash": "dot"}
                )
            )
    layout = _plane(330, "models", "")
    layout.yaxis.range = [0, 1.02]
    return go.Figure(lines, layout)


def removal(found: Mapping[str, Any], shown: Unit | None = None) -> go.Figure:
    """Score, or with its unit the mean output, against groups removed: curves with 95% bands, the full source dotted.

    found: as `counterfactuals.compare` has it. Dashed, for the output: what the fitted influences predict. Without
    curves, listed subsets by name.
    """
    if not found["curves"]:
        return _listed(found, shown)
    theme, (value, factor, title) = THEMES["light"], _measured(shown)
    colours = {"worst": theme["helps"], "best": theme["hurts"], "random": theme["soft"]}
    full = [found["full"]] if found["full"] else []
    bands, lines, seen = [], [], Counter[str]()
    for curve in found["curves"]:
        order, name = curve["name"].partition(",")[0], labels([curve["name"]])[0]
        colour = theme["mark"] if seen[order] else colours[order]  # of further rankings, and of the first one
        line = {"color": colour, "width": 2, "dash": ("solid", "dot", "dashdot", "longdash")[seen[order] % 4]}
        seen[order] += 1
        points = [*full, *curve["points"]]
        x = [point["removed"] for point in points]
        middle, low, high = ([point[value][end] for point in points] for end in ("value", "low", "high"))
        ends = [[factor * (v if v is not None else m) for v, m in zip(e, middle, strict=True)] for e in (low, high)]
        shared = {"legendgroup": name, "mode": "lines", "showlegend": False, "hoverinfo": "skip"}
        band = {"fill": "toself", "fillcolor": colour, "opacity": MUTED / 2, "line": {"width": 0}}
        bands.append(go.Scatter(x=x + x[::-1], y=_numbers(ends[0] + ends[1][::-1], 2), **band, **shared))
        hover = f"{name}: %{{x}} removed<br>%{{y:.2f}}<extra></extra>"
        own = {"name": name, "legendgroup": name, "mode": "lines+markers", "hovertemplate": hover}
        lines.append(go.Scatter(x=x, y=_numbers([factor * v for v in middle], 2), line=line, **own))
        predicted = {p["removed"]: factor * p["predicted"] for p in points if value == "output" and "predicted" in p}
        if predicted:
            y = _numbers([*predicted.values()], 2)
            lines.append(go.Scatter(x=[*predicted], y=y, line={**line, "dash": "dash"}, **shared))
    removed = [point["removed"] for curve in found["curves"] for point in curve["points"]]
    last = max(removed + [point["removed"] for point in found["listed"]], default=1)
    for point in full:
        level = factor * point[value]["value"]
        line = {"color": theme["text"], "width": 1, "dash": "dot"}
        lines.append(go.Scatter(x=[0, last], y=[level, level], name="full source", mode="lines", line=line))
    for point in found["listed"]:
        middle, high = point[value]["value"], point[value]["high"]
        error = {"type": "data", "array": [high and factor * (high - middle)], "color": theme["soft"]}
        mark = {"color": theme["text"], "symbol": "diamond", "size": 9}
        about = {"name": labels([point["name"]])[0], "mode": "markers", "marker": mark, "error_y": error}
        lines.append(go.Scatter(x=[point["removed"]], y=[factor * middle], **about))
    return go.Figure([*bands, *lines], _plane(400, "source groups removed", title))


def _listed(found: Mapping[str, Any], shown: Unit | None, limit: int = 60) -> go.Figure:
    """A point with its 95% interval for each of the first listed subsets; the full source dotted."""
    theme, (value, factor, title) = THEMES["light"], _measured(shown)
    points = found["listed"][:limit]
    names = labels([point["name"] for point in points])
    middle, low, high = ([point[value][end] for point in points] for end in ("value", "low", "high"))
    above, below = ([v and factor * abs(v - m) for v, m in zip(e, middle, strict=True)] for e in (high, low))
    error = {"type": "data", "array": above, "arrayminus": below, "color": theme["soft"], "thickness": 1}
    mark = {"color": theme["text"], "symbol": "diamond", "size": 8}
    about = {"name": "95% interval", "mode": "markers", "marker": mark, "error_x": error}
    drawn = [go.Scatter(x=_numbers([factor * v for v in middle], 2), y=names, **about)]
    if found["full"]:
        level, line = factor * found["full"][value]["value"], {"color": theme["text"], "width": 1, "dash": "dot"}
        ends = {"x": [level, level], "y": [names[0], names[-1]]}
        drawn.append(go.Scatter(**ends, name="full source", mode="lines", line=line))
    figure = go.Figure(drawn, _plane(22 * len(points) + 110, title, ""))
    return figure.update_yaxes(type="category", autorange="reversed", dtick=1, ticksuffix=" ")


def _measured(shown: Unit | None) -> tuple[str, float, str]:
    """The key of a point's score, or with its unit of its output; the factor to show it by; the title of its axis."""
    key, factor, title = ("output", shown.factor, shown.meaning) if shown else ("score", 100.0, "score")
    return key, factor, title.removeprefix("the ") + ", %" * (factor == 100)


def trades(groups: Sequence[Mapping[str, Any]], targets: Sequence[str], shown: Unit) -> go.Figure:
    """Overall influence of every group on the first target and on each other one; on the Pareto front: filled.

    groups: as `analyses.between` has them.
    """
    theme = THEMES["light"]
    colours = (theme["helps"], theme["hurts"], theme["soft"], theme["mark"])
    values = [[shown.factor * group["effects"][target]["influence"] for group in groups] for target in targets]
    columns, targets = _numbers(values, shown.decimals + 1), labels(targets)
    names = labels([group["group"] for group in groups])
    symbols = ["circle" if group["front"] else "circle-open" for group in groups]
    points = [
        go.Scatter(
            x=columns[0],
            y=columns[i],
            text=[name if group["removal"] else "" for name, group in zip(names, groups, strict=True)],
            textposition="top center",
            hovertext=names,
            name=targets[i],
            mode="markers+text",
            marker={"color": colours[(i - 1) % len(colours)], "symbol": symbols, "size": 9},
            hovertemplate=f"<b>%{{hovertext}}</b><br>{targets[0]} %{{x:+}}, {targets[i]} %{{y:+}}<extra></extra>",
        )
        for i in range(1, len(targets))
    ]
    others = targets[1] if len(targets) == 2 else "other targets"
    layout = _plane(400, *(f"influence on {name}, {shown.name}" for name in (targets[0], others)))
    layout.showlegend = len(points) > 1
    return go.Figure(points, layout)


def subpopulations(influences: xr.Dataset, parts: Sequence[Mapping[str, Any]], shown: Unit) -> go.Figure:
    """Influence of the first two parts' groups on each example of a class, in the colours of its subpopulations.

    parts: of one class, as `analyses.examine` has them.
    """
    theme = THEMES["light"]
    colours = (theme["helps"], theme["hurts"], theme["soft"], theme["mark"])
    axes = [str(part["group"]) for part in parts[:2]]
    hover = "example %{text}<br>%{x:+}, %{y:+}<extra></extra>"
    points = []
    for part, colour, name in zip(parts, colours, labels([part["group"] for part in parts]), strict=False):
        table = shown.factor * influences["influence"].sel(example=part["examples"], group=axes).values
        x, y = _numbers(table.T, shown.decimals)
        about = {"name": f"set apart by {name}", "marker": {"color": colour, "size": 8}, "hovertemplate": hover}
        points.append(go.Scatter(x=x, y=y, text=list(map(str, part["examples"])), mode="markers", **about))
    return go.Figure(points, _plane(380, *(f"influence of {name}, {shown.name}" for name in labels(axes))))


def _plane(height: int, x: str, y: str) -> go.Layout:
    """Lines or points over two axes with titles, and a legend above."""
    grid = THEMES["light"]["grid"]
    axis = {"gridcolor": grid, "zerolinecolor": grid, "fixedrange": True, "automargin": True}
    title = {"standoff": 8, "font": {"size": 12}}
    return _layout(
        height,
        {"kind": "lines"},
        showlegend=True,
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
        dragmode=False,
        xaxis={**axis, "title": {**title, "text": x}},
        yaxis={**axis, "title": {**title, "text": y}},
    )
