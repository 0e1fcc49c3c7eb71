"""Figures and tables for a paper: their size, what they show without colours, and names that are only names."""

from __future__ import annotations

import functools
import itertools
import re
from dataclasses import replace

import numpy as np
import plotly.graph_objects as go
import pytest
from fake_reports import EVIL, build, make, make_summary, make_target
from hypothesis import given
from hypothesis import strategies as st
from matplotlib import rc_context
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from sourcewise.acting.counterfactuals import Comparison, Interval, ListedPoint, RemovalCurve, RemovalPoint
from sourcewise.acting.search.account import RaceAccount, RacedSubset, SearchAccount
from sourcewise.acting.search.settings import SearchSettings
from sourcewise.commands.notebook import Plots
from sourcewise.core.errors import SourcewiseError
from sourcewise.report import figures, printing
from sourcewise.report.contents import TargetReport
from sourcewise.report.drawing import LIGHT, THEMES
from sourcewise.report.latex import escape, latex
from sourcewise.report.parts import Effect, Row, Table, spreadsheet_safe
from sourcewise.study.comparison import StudyComparison
from sourcewise.study.effects import group_effects
from sourcewise.study.influences import Estimated
from tests.report.test_pictures import facts

LONG = ["a kind of name that is far too long", r"$\frac_1", "<b>x</b> & y", "tabby", "ox"]
NUMBERS = st.lists(st.sampled_from([*r"\{}$&#%^_~-[]*<>|\"'`ab1 ", "é", "−", "±"]), max_size=12).map("".join)


def removed(groups: int, score: float) -> RemovalPoint:
    interval = Interval(score, score - 0.01, score + 0.01)
    shown = {"score": interval, "full": interval, "random": None, "every": interval, "output": interval}
    return RemovalPoint(removed=groups, runs=5, **shown, predicted=score - 0.02)  # type: ignore[arg-type]  # mixed kinds


def races() -> SearchAccount:
    rungs = [[RacedSubset(f"race {i}", i, 4, 0.8, 0.9 + 0.001 * i, i > 1) for i in range(5)]]
    gain = Interval(0.01, 0.0, 0.02)
    race = RaceAccount("race", 40, rungs, "race 4", ["a"], ["b"], gain)
    return SearchAccount({"digits": 1.0}, SearchSettings(), ["a"], ["b"], 20, 40, [race, replace(race, spent=90)], gain)


@functools.cache
def report() -> TargetReport:
    """A report that has every figure."""
    groups = [f"{name} {i}" for i in range(4) for name in LONG]
    one, about = make_target("digits", groups=groups, classes=LONG, examples=90)
    two, further = make_target("letters", groups=groups, classes=LONG, examples=90, seed=1)
    studies = StudyComparison(agreements=(), level="class", studies=tuple(LONG), matrix=tuple(map(tuple, np.eye(5))))
    examples = facts(name=groups[0])["subpopulations"]
    about = replace(about, compared=studies, subpopulations=examples, overall=group_effects(one))
    curves = [RemovalCurve(name, (removed(3, 0.9), removed(9, 0.8))) for name in ("worst", "best", "worst, by a prior")]
    listed = tuple(ListedPoint(**vars(removed(4, 0.85)), name=name) for name in LONG)
    runs = [
        Comparison("", "digits", removed(0, 0.9), tuple(curves), listed),
        Comparison("x", "digits", removed(0, 0.9), (), listed),
    ]
    targets = {"digits": about, "letters": replace(further, overall=group_effects(two))}
    summary = make_summary(targets, len(groups), counterfactuals=runs, search=races())
    return build({"digits": one, "letters": two}, summary)[0]


def all_figures() -> dict[str, go.Figure]:
    return {figure.id: figure.figure for section in report().sections for figure in section.figures}


def drawn(figure: go.Figure, columns: int | None = None) -> Figure:
    with rc_context(printing.STYLE):
        result = printing._draw(figure.to_plotly_json(), columns)
        result.draw_without_rendering()
        return result


def test_a_notebook_draws_every_figure_of_the_report() -> None:
    plain = Estimated(report().target.influences, None, np.zeros(1), report().target.facts.checks, {})  # type: ignore[arg-type]  # not drawn
    plots = Plots(plain, report)
    shown = [plots.heatmap(), plots.overall(), plots.convergence(), plots.subpopulations(), plots.between()]
    shown += [plots.counterfactuals(), plots.counterfactuals(output=True), plots.counterfactuals(1)]
    shown += [plots.studies(), plots.search()]
    expected = all_figures()
    assert len(shown) == len(expected)
    assert all(figure in shown for figure in expected.values())


def test_a_figure_that_the_records_do_not_have_says_what_it_needs() -> None:
    plots = Plots(None, lambda: build(*make(examples=3))[0])  # type: ignore[arg-type]  # not drawn
    with pytest.raises(SourcewiseError, match=r"no figure of between \(between-figure\)\. .* several targets"):
        plots.between()


@pytest.mark.parametrize("name", all_figures())
def test_a_figure_fits_its_page_and_nothing_covers_it(name: str) -> None:
    figure = drawn(all_figures()[name])
    width = 6.9 if name == "heatmap" else 3.3
    assert figure.get_figwidth() == width
    assert 0.8 < figure.get_figheight() <= 9.5
    page, dots = figure.bbox.padded(1), figure.dpi / 72
    axes = figure.axes[0]
    texts = [*axes.texts, *(text for legend in figure.legends for text in legend.get_texts())]
    for each in (axis for part in figure.axes for axis in (part.xaxis, part.yaxis)):
        low, high = sorted(each.get_view_interval())
        ticks = [tick for tick in each.get_major_ticks() if low <= tick.get_loc() <= high]
        names = [text for tick in ticks for text in (tick.label1, tick.label2) if text.get_visible()]
        boxes = [text.get_window_extent() for text in names if text.get_text()]
        assert not any(first.overlaps(second) for first, second in itertools.pairwise(boxes))
        texts += [each.label, *names]
    texts = [text for text in texts if text.get_text()]
    assert texts
    for text in texts:
        box = text.get_window_extent()
        assert page.x0 <= box.x0, text
        assert box.x1 <= page.x1, text
        assert page.y0 <= box.y0, text
        assert box.y1 <= page.y1, text
        assert text.get_fontsize() >= 6
    for legend in figure.legends:
        assert legend.get_window_extent().y0 >= axes.get_window_extent().y1 - dots


def test_a_file_is_as_large_as_it_is_printed_with_fonts_that_journals_take() -> None:
    figure = all_figures()["studies"]
    for columns, width in ((1, 237.6), (2, 496.8)):
        content = printing.to_file(figure, "pdf", columns)
        (box,) = re.findall(rb"/MediaBox \[ ?([\d. ]+)\]", content)
        assert float(box.split()[2]) == pytest.approx(width)
        assert b"/Type3" not in content
        assert b"/FontFile2" in content
        assert content == printing.to_file(figure, "pdf", columns)
    assert printing.to_file(figure, "svg") == printing.to_file(figure, "svg")
    with pytest.raises(SourcewiseError, match="pie: figures for print"):
        printing.to_file(go.Figure(go.Pie(values=[1])), "pdf")


def test_without_colours_signs_tell_what_helps_and_hurts_significantly() -> None:
    dataset, _ = make_target(classes=LONG, examples=3)
    figure = figures.heatmap(dataset)
    order = [str(name) for name in figure.layout.meta["groups"]]
    where = dataset.sel(group=order)
    significant = where["qvalue_class"].values <= 0.05
    axes = drawn(figure, 2).axes[0]
    marks: dict[str, set[tuple[int, int]]] = {"+": set(), "_": set()}
    for collection in axes.collections[1:]:
        (path,) = collection.get_paths()
        cells = {(int(y), int(x)) for x, y in np.asarray(collection.get_offsets())}
        marks["+" if np.ptp(path.vertices[:, 1]) > 0.1 else "_"] |= cells
    value = where["influence_class"].values
    assert marks["+"] == set(zip(*np.nonzero(significant & (value > 0)), strict=True))
    assert marks["_"] == set(zip(*np.nonzero(significant & (value < 0)), strict=True))
    assert marks["+"] and marks["_"]  # noqa: PT018  # both kinds are there


def test_colours_of_curves_differ_in_grey_and_so_do_their_markers() -> None:
    ink = THEMES["print"]
    assert ink.keys() == LIGHT.keys()
    grey = sorted(np.dot(to_rgb(ink[name]), (0.2126, 0.7152, 0.0722)) for name in ("text", "helps", "soft", "hurts"))
    assert min(np.diff(grey)) > 0.1
    assert len(set(printing.MARKERS.values())) == 4
    lines = drawn(all_figures()["convergence"]).axes[0].get_lines()
    styles = [(line.get_linestyle(), line.get_marker()) for line in lines]
    assert len(set(styles)) == len(styles) > 3


def test_a_font_without_the_characters_of_a_name_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    dataset, _ = make_target(groups=["犬", "猫"], classes=["a", "b"], examples=3)
    printing.to_file(figures.overall_bars(dataset), "pdf")
    assert capsys.readouterr().err.startswith("figures: the font lacks characters of some names; set font.family")


COMMANDS = {
    "textbackslash": "\\",
    "textasciicircum": "^",
    "textasciitilde": "~",
    "textless": "<",
    "textgreater": ">",
    "textbar": "|",
    "textquotedbl": '"',
}
"""What LaTeX prints for these, from its own documentation."""


def printed(text: str) -> str:
    """What LaTeX would print of a text in the commands that we use; anything else active is an error."""
    result = ""
    while text:
        found = re.match(
            r"\\(?P<command>[a-z]+)\{\}|\\(?P<sign>[{}$&#%_])|\{(?P<kept>[\[\]*])\}|\$(?P<maths>-|\\pm)\$|(?P<hyphen>-)(?:\{\})?|(?P<plain>[^\\{}$&#%_^~<>|\"\[\]*])",
            text,
        )
        assert found, text
        kind, value = str(found.lastgroup), found[str(found.lastgroup)]
        result += {"command": COMMANDS, "maths": {"-": "−", r"\pm": "±"}}.get(kind, {value: value})[value]
        text = text[found.end() :]
    return result


@given(NUMBERS)
def test_latex_prints_every_name_and_obeys_none(name: str) -> None:
    assert printed(escape(name)) == " ".join(name.split())
    assert "--" not in escape(name)


def test_a_table_is_a_tabular_with_stars() -> None:
    rows = [
        Row("[x]\n", ["−1.00", [Effect("a", "+1.00", "0.10"), Effect("b", "+0.50", "0.40", significant=False)]], True)
    ]
    text = latex(Table("t", "50% of\nall", ["Group", "Mean", "Helped by"], rows, (1,)))
    assert text.splitlines() == [
        r"% 50\% of all. {*}: significant",
        r"% Needs \usepackage{booktabs} and \usepackage[T1]{fontenc}.",
        r"\begin{tabular}{lrl}",
        r"\toprule",
        r"Group & Mean & Helped by \\",
        r"\midrule",
        r"{[}x{]}\textsuperscript{*} & $-$1.00 & \begin{tabular}[t]{@{}l@{}}a +1.00 $\pm$ 0.10\textsuperscript{*}"
        r" \\ b +0.50 $\pm$ 0.40\end{tabular} \\",
        r"\bottomrule",
        r"\end{tabular}",
    ]


@pytest.mark.parametrize("name", ["=1+2", "+x", "-1+cmd|' /C calc'!A0", "@sum", "\t=1", "-"])
def test_no_name_is_a_formula_of_a_spreadsheet(name: str) -> None:
    assert spreadsheet_safe(name) == f"'{name}"
    assert Table("t", "", ["Group"], [Row(name, [])]).csv().splitlines()[1].strip('"').startswith("'")


@pytest.mark.parametrize(
    "text", ["-0.50", "+1,200.5", "-0.20 to +0.30", "+1.00 ± 0.10", "+0.00 (-0.62 to +0.62)", EVIL, "", "a-b"]
)
def test_numbers_stay_numbers(text: str) -> None:
    assert spreadsheet_safe(text) == text
