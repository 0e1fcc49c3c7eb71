"""Figures for a paper: what the page shows, drawn by matplotlib in the width of a column of print.

A file has the size that it is printed in, no title, and fonts that journals accept. It can be read without colours:
cells that are significant carry their sign, and curves differ in markers and dashes. matplotlib is imported on use.
"""

from __future__ import annotations

import html
import io
import itertools
import re
import textwrap
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from sourcewise.core.errors import SourcewiseError
from sourcewise.core.messages import print_once
from sourcewise.report.drawing import COLOURS, LIGHT, THEMES
from sourcewise.report.formatting import number

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.ticker import Locator

Kind = Literal["pdf", "svg", "png"]
WIDTHS = {1: 3.3, 2: 6.9}
"""Inches that one and two columns of print are wide."""
WIDE = 16
"""Columns of a heatmap from which it takes two columns of print."""
TALLEST = 8.0
"""Inches that the axes are high at most."""
ROW = 0.14
"""Inches of a row with a name."""
LABEL = 26
"""Characters of a name on an axis."""
TITLE = 45
"""Characters of a line of a title of an axis."""
INK = THEMES["print"]
INKS = {LIGHT[name]: INK[name] for name in LIGHT if name != "scale"}
"""Colours of print by those of the page."""
MARKERS = dict(zip(COLOURS, "os^D", strict=True))
DASHES = {"solid": "-", "dash": "--", "dot": ":", "dashdot": "-.", "longdash": (0, (8, 2))}
STYLE: Any = {
    "font.size": 7,
    "axes.labelsize": 7,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "axes.linewidth": 0.6,
    "axes.edgecolor": INK["soft"],
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2,
    "ytick.major.size": 2,
    "grid.color": INK["grid"],
    "grid.linewidth": 0.5,
    "text.parse_math": False,  # names are data
    "pdf.fonttype": 42,  # TrueType: journals refuse Type 3
    "savefig.dpi": 300,
    "svg.hashsalt": "sourcewise",
}


def to_file(figure: go.Figure, kind: Kind, columns: int | None = None) -> bytes:
    """Return a figure of ours as the content of a file, the same bytes each time.

    columns: of print that it is wide, 1 or 2; None: 2 for a heatmap of many groups, else 1.

    Raises SourcewiseError for a figure with marks that ours do not have.
    """
    import matplotlib as mpl

    dates = {"pdf": {"CreationDate": None}, "svg": {"Date": None}, "png": {}}
    file = io.BytesIO()
    with mpl.rc_context(STYLE), _missing_glyphs():
        _draw(figure.to_plotly_json(), columns).savefig(file, format=kind, metadata=dates[kind])
    return file.getvalue()


@contextmanager
def _missing_glyphs() -> Iterator[None]:
    """Say once that the font lacks characters of names, in place of a warning for each."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    lacking = [item for item in caught if str(item.message).startswith("Glyph ")]
    for item in caught:
        if item not in lacking:
            warnings.warn_explicit(item.message, item.category, item.filename, item.lineno)
    if lacking:
        print_once("figures: the font lacks characters of some names; set font.family in a file matplotlibrc here")


def _draw(content: Mapping[str, Any], columns: int | None) -> Figure:
    """Return the figure, as high as its rows or curves need."""
    from matplotlib.figure import Figure

    traces, layout = content["data"], content["layout"]
    for kind in {trace["type"] for trace in traces} - {"heatmap", "bar", "scatter"}:
        raise SourcewiseError(f"{kind}: figures for print are heatmaps, bars, curves and points")
    cells = [trace for trace in traces if trace["type"] == "heatmap"]
    wide = bool(cells) and len(cells[0]["x"]) > WIDE
    width = WIDTHS[columns or 1 + wide]
    figure = Figure((width, width), layout="constrained")
    axes = figure.add_subplot()
    names = {side: _categories(traces, side) if _is_category(layout, side) else [] for side in "xy"}
    if cells:
        _heatmap(figure, axes, cells)
    texts = []
    for trace in traces:
        if trace["type"] in ("bar", "scatter"):
            x, y = (_places(trace[side], names[side]) for side in "xy")
            texts += (_bars if trace["type"] == "bar" else _scatter)(axes, trace, x, y)
    _axes(axes, layout, names)
    if layout.get("showlegend", True):
        _legend(figure, axes, width)
    for _ in range(2):  # the first look tells how much room names and titles take
        figure.draw_without_rendering()
        inner = axes.get_window_extent()
        tall = ROW * max(len(names["y"]), 5) if names["y"] else 0.7 * inner.width / figure.dpi
        figure.set_size_inches(width, figure.get_figheight() + min(tall, TALLEST) - inner.height / figure.dpi)
    _tick_names(axes, names)
    figure.draw_without_rendering()
    _signs(axes, cells)
    _place_texts(axes, texts)
    return figure


def _is_category(layout: Mapping[str, Any], side: str) -> bool:
    return bool(layout[f"{side}axis"].get("type") == "category")


def _categories(traces: Sequence[Mapping[str, Any]], side: str) -> list[str]:
    """Return the labels along an axis, in order."""
    return list(dict.fromkeys(label for trace in traces for label in trace[side]))


def _places(values: Sequence[Any], names: list[str]) -> NDArray[np.float64]:
    """Return coordinates, those of names by their place; None becomes NaN."""
    return np.array([names.index(value) if names else value for value in values], float)


def _ink(colour: str) -> str:
    return str(INKS.get(colour, colour))


def _rgb(colour: str) -> tuple[float, float, float]:
    from matplotlib.colors import to_rgb

    parts = re.fullmatch(r"rgb\((.+)\)", colour)
    red, green, blue = (float(part) / 255 for part in parts[1].split(",")) if parts else to_rgb(_ink(colour))
    return red, green, blue


def _heatmap(figure: Figure, axes: Axes, layers: Sequence[Mapping[str, Any]]) -> None:
    """Draw cells, layer over layer, and the scale of the one that has one."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import LinearSegmentedColormap, Normalize

    shape = len(layers[0]["y"]), len(layers[0]["x"])
    shown = np.ones((*shape, 3))
    for layer in layers:
        scale = [(place, _rgb(colour)) for place, colour in layer["colorscale"]]
        colours = ScalarMappable(Normalize(layer["zmin"], layer["zmax"]), LinearSegmentedColormap.from_list("", scale))
        z = np.array(layer["z"], float)
        paint, opacity = colours.to_rgba(z)[..., :3], layer.get("opacity", 1.0)
        shown = np.where(np.isfinite(z)[..., None], opacity * paint + (1 - opacity) * shown, shown)
        if layer.get("showscale"):
            narrow = figure.get_figwidth() == WIDTHS[1]  # names of rows leave room for a title to the left of the scale
            size: dict[str, Any] = {"shrink": 1.0 if narrow else 0.33, "aspect": 30, "pad": 0.01, "anchor": (0, 0)}
            bar = figure.colorbar(colours, ax=axes, location="top", **size)
            signs = ("\n" if narrow else "   ") + "(+ −: significant)" if layer.get("meta") == "significant" else ""
            title = html.unescape(layer["colorbar"]["title"]["text"]) + signs
            bar.set_label(title, loc="right" if narrow else "left")
            bar.outline.set_visible(False)
            bar.ax.tick_params(labelsize=6)
            bar.locator = _few_ticks()
    line: dict[str, Any] = (
        {"edgecolors": "white", "linewidth": 0.4} if layers[0].get("xgap") else {"edgecolors": "face", "linewidth": 0.1}
    )
    edges = [np.arange(count + 1) - 0.5 for count in shape]
    axes.pcolormesh(edges[1], edges[0], shown, rasterized=shown.size > 60_000, **line)
    if layers[0].get("texttemplate"):
        for (row, column), value in np.ndenumerate(np.array(layers[0]["z"], float)):
            if np.isfinite(value):
                colour = _readable(shown[row, column])
                axes.text(column, row, number(value), size=6, color=colour, ha="center", va="center")


def _few_ticks(**settings: Any) -> Locator:
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(5, **settings)


def _readable(paint: NDArray[np.float64]) -> str:
    """Return black or white, whichever is read on this colour."""
    return "white" if paint @ (0.299, 0.587, 0.114) < 0.5 else "black"


def _signs(axes: Axes, layers: Sequence[Mapping[str, Any]]) -> None:
    """Write plus and minus into significant cells, if these are large enough."""
    for layer in layers:
        z = np.array(layer["z"], float)
        size = min(axes.get_window_extent().width / z.shape[1], axes.get_window_extent().height / z.shape[0])
        points = 72 * size / axes.figure.dpi
        if layer.get("meta") != "significant" or points < 4:
            continue
        strong = np.abs(z) > 0.3 * layer["zmax"]
        for marker, cells in (("+", z > 0), ("_", z < 0)):
            for colour, some in (("white", strong), ("black", ~strong)):
                rows, columns = np.nonzero(cells & some)
                side = min(0.45 * points, 4) ** 2
                axes.scatter(columns, rows, s=side, marker=marker, color=colour, linewidth=0.6)


def _bars(
    axes: Axes, trace: Mapping[str, Any], x: NDArray[np.float64], y: NDArray[np.float64]
) -> list[tuple[float, float, str]]:
    """Draw bars; there is no text beside them."""
    look = zip(trace["marker"]["color"], trace["marker"]["opacity"], strict=True)
    axes.barh(y, x, height=0.7, color=[(*_rgb(colour), opacity) for colour, opacity in look])
    _whiskers(axes, trace, x, y)
    return []


def _whiskers(axes: Axes, trace: Mapping[str, Any], x: NDArray[np.float64], y: NDArray[np.float64]) -> None:
    for side in "xy":
        if whiskers := trace.get(f"error_{side}"):
            half, style = np.array(whiskers["array"], float), {"ecolor": INK["text"], "elinewidth": 0.6, "capsize": 1.2}
            axes.errorbar(x, y, fmt="none", **{f"{side}err": np.nan_to_num(half)}, capthick=0.6, **style)


def _scatter(
    axes: Axes, trace: Mapping[str, Any], x: NDArray[np.float64], y: NDArray[np.float64]
) -> list[tuple[float, float, str]]:
    """Draw a curve, a band or points; return the texts beside them with their places."""
    mode, line, marker = trace["mode"], trace.get("line", {}), trace.get("marker", {})
    colour = line.get("color") or marker.get("color") or LIGHT["text"]
    label = html.unescape(trace["name"]) if trace.get("name") and trace.get("showlegend", True) else None
    if trace.get("fill"):
        axes.fill(x, y, color=_ink(trace["fillcolor"]), alpha=trace["opacity"], linewidth=0)
        return []
    _whiskers(axes, trace, x, y)
    symbols, opacity = marker.get("symbol", "circle"), marker.get("opacity", 1.0)
    hollow = np.array(["open" in symbol for symbol in np.atleast_1d(symbols)])
    shape = "D" if symbols == "diamond" else MARKERS.get(colour, "o")
    if "lines" in mode:
        width, step = 0.55 * line.get("width", 2), "steps-post" if line.get("shape") == "hv" else "default"
        style: dict[str, Any] = {"linestyle": DASHES[line.get("dash", "solid")], "linewidth": width, "drawstyle": step}
        marks: dict[str, Any] = (
            {"marker": shape, "markersize": 3.2, "markeredgewidth": 0.8} if "markers" in mode else {}
        )
        marks |= {"markerfacecolor": "white"} if hollow.any() else {}
        axes.plot(x, y, color=_ink(colour), label=label, **style, **marks)
    else:
        sizes = (0.45 * np.broadcast_to(marker.get("size", 8), x.shape)) ** 2
        paint: Any = np.array([(*_rgb(colour), alpha) for alpha in np.broadcast_to(opacity, x.shape)]).reshape(-1, 4)
        faces = np.where(hollow[:, None], 1.0, paint) if len(hollow) in (1, len(x)) else paint
        axes.scatter(x, y, sizes, facecolors=faces, edgecolors=paint, marker=shape, linewidth=0.8, label=label)
    texts = trace["text"] if "text" in mode else []
    return [(a, b, html.unescape(text)) for a, b, text in zip(x, y, texts, strict=False) if text]


def _axes(axes: Axes, layout: Mapping[str, Any], names: Mapping[str, list[str]]) -> None:
    for side in "xy":
        settings, axis = layout[f"{side}axis"], getattr(axes, f"{side}axis")
        title = html.unescape(settings["title"].get("text") or "")
        axis.set_label_text(textwrap.fill(title, TITLE, break_long_words=False))
        limits = settings.get("range") or ((-0.5, len(names[side]) - 0.5) if names[side] else None)
        if limits:
            getattr(axes, f"set_{side}lim")(*limits)
        if not names[side]:
            axis.grid(visible=True)
            low, high = getattr(axes.dataLim, f"interval{side}")
            if np.isclose([low, high], np.round([low, high])).all() and high - low > 5:
                axis.set_major_locator(_few_ticks(integer=True))
            if low < 0 < high:
                {"x": axes.axvline, "y": axes.axhline}[side](0, color=INK["soft"], linewidth=0.6, zorder=0.9)
        if settings.get("autorange") == "reversed":
            axis.set_inverted(True)
    _tick_names(axes, names)


def _tick_names(axes: Axes, names: Mapping[str, list[str]]) -> None:
    """Write names at their places: all, or every second, third, ... where there is no room for more."""
    for side, extent in (("x", "width"), ("y", "height")):
        shown = [_shorten(html.unescape(name)) for name in names[side]]
        if not shown:
            continue
        room = 72 * getattr(axes.get_window_extent(), extent) / axes.figure.dpi / len(shown)
        step = int(np.ceil(7.5 / room))
        turned = 90 if side == "x" and max(map(len, shown)) * 4.2 > room * step else 0
        getattr(axes, f"set_{side}ticks")(range(0, len(shown), step), shown[::step], rotation=turned)
        getattr(axes, f"{side}axis").set_tick_params(length=0)
        axes.spines[["left" if side == "y" else "bottom"]].set_visible(False)


def _shorten(name: str) -> str:
    """Return a name without its middle where it is long: ends often differ."""
    return name if len(name) <= LABEL else f"{name[: LABEL - 10]}…{name[-9:]}"


def _legend(figure: Figure, axes: Axes, width: float) -> None:
    """Name the curves above the axes, never over them."""
    handles, texts = axes.get_legend_handles_labels()
    if handles:
        columns = next(count for count in range(len(texts), 0, -1) if count == 1 or _legend_width(texts, count) < width)
        figure.legend(handles, texts, loc="outside upper left", ncols=columns, columnspacing=1.2, handlelength=2.6)


def _legend_width(texts: Sequence[str], columns: int) -> float:
    """Return about how many inches a legend is wide, which is filled column by column."""
    tall, more = divmod(len(texts), columns)
    ends = np.cumsum([0, *([tall + 1] * more), *([tall] * (columns - more))])
    longest = [max(map(len, texts[start:end])) for start, end in itertools.pairwise(ends)]
    return sum(4.1 * letters + 34 for letters in longest) / 72


def _place_texts(axes: Axes, texts: Sequence[tuple[float, float, str]]) -> None:
    """Write each text beside its point, where it covers no other text or point; leave it out if there is no room."""
    inside = axes.get_window_extent()
    offsets = [axes.transData.transform(np.asarray(marks.get_offsets())) for marks in axes.collections]
    points = [point for each in offsets for point in each.tolist()]
    taken: list[Any] = []
    places = (
        ((5, 0), "left", "center"),
        ((-5, 0), "right", "center"),
        ((0, 4), "center", "bottom"),
        ((0, -4), "center", "top"),
    )
    for x, y, name in texts:
        for offset, across, along in places:
            look: dict[str, Any] = {
                "xytext": offset,
                "textcoords": "offset points",
                "ha": across,
                "va": along,
                "size": 6,
            }
            text = axes.annotate(_shorten(name), (x, y), **look)
            box = text.get_window_extent()
            around = box.padded(2 * axes.figure.dpi / 72)
            free = not any(map(box.overlaps, taken)) and not any(around.contains(*point) for point in points)
            if free and inside.x0 <= box.x0 and box.x1 <= inside.x1 and inside.y0 <= box.y0 and box.y1 <= inside.y1:
                taken.append(box)
                break
            text.remove()
