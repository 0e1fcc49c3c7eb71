"""What all figures share: colours of both themes, labels, numbers for JSON, and the layout."""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

import numpy as np
import numpy.typing as npt
import plotly.graph_objects as go
from plotly.colors import sample_colorscale

FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
MUTED = 0.32
"""Opacity of marks that are not significant."""


def _scale(hurts: Sequence[str], helps: Sequence[str]) -> list[tuple[float, str]]:
    """Return a diverging colour scale. It changes as a signed square root, so that small effects show."""
    steps = np.linspace(-1, 1, 25)
    colours = [*sample_colorscale(hurts, -steps[:12]), *sample_colorscale(helps, steps[12:])]
    return [((1 + np.sign(step) * step**2) / 2, colour) for step, colour in zip(steps.tolist(), colours, strict=True)]


THEMES: dict[str, dict[str, Any]] = {
    name: {**theme, "scale": _scale(*theme["scale"])}
    for name, theme in json.loads((files("sourcewise.report") / "templates/themes.json").read_bytes()).items()
}
"""Colours by theme and use; those of the scale are named from no effect to the largest, for harm and for help."""
LIGHT = THEMES["light"]
COLOURS = tuple(LIGHT[name] for name in ("helps", "hurts", "soft", "text"))
"""Colours of curves and points, the first for the first of them."""


def labels(names: Sequence[object], width: int = 36) -> list[str]:
    """Return names as plotly labels: shortened, escaped, never empty and all different.

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


def json_numbers(values: npt.ArrayLike) -> Any:
    """Return nested lists for JSON, in 5 significant digits; None stands for numbers that are not finite."""
    short = np.vectorize(lambda value: float(f"{value:.5g}") if np.isfinite(value) else None, otypes=[object])
    return short(np.asarray(values, float)).tolist()


def make_figure(traces: Sequence[Any], height: int, x: str, y: str = "", **changes: Any) -> go.Figure:
    """Return a figure of these traces, without zoom, and with a legend above.

    height: in pixels. x, y: titles of the axes. changes: to the layout.
    """
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
    return go.Figure(traces, layout).update_layout(changes)
