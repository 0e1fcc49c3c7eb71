"""What a search did: the verdict, the races, the path of the best subset, and the verification."""

from __future__ import annotations

from collections.abc import Iterator

import plotly.graph_objects as go

from sourcewise.acting.search.account import RaceAccount, SearchAccount, sentences
from sourcewise.core.messages import first_names
from sourcewise.report.drawing import COLOURS, LIGHT, MUTED, labels, make_figure
from sourcewise.report.formatting import count, number, percent
from sourcewise.report.parts import Figure, Row, Section, Table
from sourcewise.report.sections.context import TargetContext

NAMED = 6
"""Groups that a cell names."""


def search_with(target: TargetContext) -> SearchAccount | None:
    """Return the search that is shown with this target, the first of those that it served; None where there is none."""
    search = target.summary.search
    names = [name for name in search.weights if name in target.summary.targets] if search else []
    return search if target.name == next(iter(names or target.summary.targets)) else None


def search_section(target: TargetContext) -> Section | str:
    """Return what the search for a better source found, with the first of its targets."""
    if target.summary.search is None:
        return (
            "It shows the search for a better source. It needs one: experiment=search of train.py, and then"
            " search=<folder>/search/search.json of estimate.py, where that is not in the folder of the results."
        )
    search = search_with(target)
    if search is None:
        return "It is shown with the first target of the search."
    title, lead = "The search for a better source", sentences(search)
    caption = (
        "Scores of the candidates on the examples that choices look at, by the runs spent. Line: the best subset after"
        " each race. Dotted: the full source. Diamond: the winner in the verification, as a gain over the full source"
        " on the other examples, with its interval."
    )
    table = _path(search)
    brief = Section("search", title, lead, tables=[table.brief(10, "races")])
    drawn = [Figure("search", race_figure(search), caption)]
    return Section("search", title, lead, figures=drawn, tables=[table, *_races(search)], brief=brief)


def race_figure(search: SearchAccount) -> go.Figure:
    """Draw the gain in score over the full source of all candidates, by the runs that were spent at the time."""
    full = _full_score(search)
    dots, x = [], min(search.explored + 2, search.races[0].spent)
    for race in search.races:
        steps = len(race.rungs)
        for step, rung in enumerate(race.rungs):
            place = x + (race.spent - x) * (step + 1) / steps
            dots += [(place, 100 * (item.score - full), item) for item in rung]
        x = race.spent
    names = labels([item.name for _, _, item in dots], 60)
    text = [f"{name}<br>{count(item.models, 'model')}" for name, (_, _, item) in zip(names, dots, strict=True)]
    marker = {
        "color": LIGHT["soft"],
        "size": [min(5 + 1.5 * item.models**0.5, 14) for _, _, item in dots],
        "opacity": [0.9 if item.stays else MUTED for _, _, item in dots],
    }
    places, gains = [place for place, _, _ in dots], [round(gain, 4) for _, gain, _ in dots]
    style = {"mode": "markers", "name": "candidates", "marker": marker, "hovertext": text}
    traces = [go.Scatter(x=places, y=gains, hovertemplate="%{hovertext}<br>%{y:+.2f}<extra></extra>", **style)]
    path = [(race.spent, 100 * race.gain.value, race.best) for race in search.races]
    traces.append(
        go.Scatter(
            x=[step for step, _, _ in path],
            y=[round(gain, 4) for _, gain, _ in path],
            hovertext=labels([name for _, _, name in path], 60),
            hovertemplate="%{hovertext}<br>%{y:+.2f}<extra></extra>",
            mode="lines+markers",
            name="best so far",
            line={"color": COLOURS[0], "width": 2, "shape": "hv"},
        )
    )
    last = search.spent
    traces.append(
        go.Scatter(
            x=[0, 1.1 * last],
            y=[0, 0],
            mode="lines",
            name="full source",
            line={"color": LIGHT["text"], "width": 1, "dash": "dot"},
        )
    )
    if search.verified is not None:
        gain = search.verified.full
        half = 0.0 if gain.high is None else 100 * (gain.high - gain.value)
        traces.append(
            go.Scatter(
                x=[1.06 * last],
                y=[round(100 * gain.value, 4)],
                mode="markers",
                name=f"verified, with {100 * search.verified.level:.4g}% interval",
                marker={"color": LIGHT["text"], "symbol": "diamond", "size": 10},
                error_y={"type": "data", "array": [round(half, 4)], "color": LIGHT["text"], "thickness": 1.5},
            )
        )
    return make_figure(traces, 400, "runs spent", "gain in score over the full source, points")


def _full_score(search: SearchAccount) -> float:
    """Return the mean score of the full source, by its last appearance in a race."""
    shown = [item.score for race in search.races for rung in race.rungs for item in rung if not item.removed]
    return shown[-1] if shown else 0.0


def _path(search: SearchAccount) -> Table:
    columns = ("Race", "Runs spent", "Best subset", "Gain over the full source", "Entered", "Left")
    rows = [
        Row(
            f"{place + 1}",
            [
                f"{race.spent:,}",
                race.best,
                percent(race.gain, sign=True),
                first_names(list(race.entered), NAMED) or "–",
                first_names(list(race.left), NAMED) or "–",
            ],
        )
        for place, race in enumerate(search.races)
    ]
    caption = "The best subset after each race, with its gain in points by the models that chose it, and what changed"
    return Table("search-path", caption, columns, rows, (1, 3))


def _races(search: SearchAccount) -> Iterator[Table]:
    """Yield the last rung in which each candidate of a race was."""
    for place, race in enumerate(search.races):
        caption = f"Race {place + 1}: each candidate in the last rung that it reached, in percent"
        columns = ("Candidate", "Models", "Mean output", "Score")
        yield Table(f"search-race-{place}", caption, columns, list(_standings(race)), (1, 2, 3))


def _standings(race: RaceAccount) -> Iterator[Row]:
    for step, rung in reversed(list(enumerate(race.rungs))):
        last = step == len(race.rungs) - 1
        for item in rung:
            if last or not item.stays:
                yield Row(item.name, [f"{item.models:,}", number(100 * item.output), number(100 * item.score)])
