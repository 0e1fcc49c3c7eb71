"""Other studies beside this one: how far influences agree, apart from noise, and the groups on which they do not."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sourcewise.report import figures
from sourcewise.report.formatting import count, number, q_value
from sourcewise.report.parts import Figure, Row, Section, Table
from sourcewise.report.sections.context import TargetContext
from sourcewise.study.comparison import Difference, StudyAgreement

LISTED = 40
"""Disagreements with a study that the page lists; disagreements.csv has all."""


def studies_section(target: TargetContext) -> Section | str:
    """Return the correlations of influences with those of other studies, the groups that differ, and the matrix."""
    compared = target.facts.compared
    if compared is None:
        return (
            "It shows how far influences agree with those of other studies: another architecture, transfer, share kept"
            " or target. It needs their estimates: compare=[<out>,...] of estimate.py."
        )
    title = "Studies side by side"
    table = _agreements(target, compared.agreements)
    lead = [
        "Noise lowers the correlation of influences even where two studies agree fully, to the number in the column"
        " Noise allows. Corrected is the correlation of the true influences, with its 95% interval. Influences count"
        " relative to their mean over the groups in common, so a constant does not matter, nor, for correlations, the"
        " scale."
    ]
    if any(np.isnan(item.agreement.corrected) and item.agreement.ceiling >= 0 for item in compared.agreements):
        lead.append(
            "A correlation far above what noise allows means that both studies share their noise, as transfers of the"
            " same kept source models do: then it cannot be told. transfer=[fixed,full] compares such transfers."
        )
    drawn = []
    if len(compared.studies) > 2:
        caption = (
            f"Corrected correlations of influences {_on(compared.level)}, similar studies side by side. Empty: it"
            " cannot be told, or both are of the same models."
        )
        drawn = [Figure("studies", figures.studies(compared.studies, np.array(compared.matrix)), caption)]
    brief = Section("compare", title, tables=[table.brief(20, "comparisons")])
    differences = [_differences(target, place, item) for place, item in enumerate(compared.agreements)]
    shown = [difference for difference in differences if difference.rows]
    return Section("compare", title, lead, figures=drawn, tables=[table, *shown], brief=brief)


def _name(target: TargetContext, item: StudyAgreement) -> str:
    if item.study == target.summary.study:
        return item.target
    return item.study if item.target == target.name else f"{item.study} on {item.target}"


def _on(level: str) -> str:
    return "on classes" if level == "class" else "overall"


def _agreements(target: TargetContext, items: Sequence[StudyAgreement]) -> Table:
    columns = ["Study", "Influences", "Groups", "Correlation", "Noise allows", "Corrected", "Disagree"]
    rows = []
    for item in items:
        agreement = item.agreement
        corrected = "cannot tell"
        if agreement.is_known:
            corrected = f"{number(agreement.corrected)} ({number(agreement.low)} to {number(agreement.high)})"
        level = f"on {count(item.classes, 'class')}" if item.level == "class" else "overall"
        numbers = [number(value, unknown="–") for value in (agreement.correlation, agreement.ceiling)]
        cells = [level, f"{agreement.groups:,}", *numbers, corrected, f"{len(item.differences):,}"]
        rows.append(Row(_name(target, item), cells))
    caption = (
        f"Influences on {target.title} beside those of other studies, or after another transfer. Disagree: influences"
        f" that differ significantly, at a false discovery rate of {target.summary.fdr:.0%}"
    )
    return Table("compare", caption, columns, rows, (2, 3, 4, 5, 6))


def _differences(target: TargetContext, place: int, item: StudyAgreement) -> Table:
    unit = f"in {target.unit.name}" if item.same_unit else "in standard deviations of true influences"
    caption = (
        f"Groups on which {_name(target, item)} differs significantly, {_on(item.level)}: influence here minus there,"
        f" {unit} ± standard error, both relative to the mean group"
    )
    if len(item.differences) > LISTED:
        caption += f"; the surest {LISTED} of {len(item.differences):,}, disagreements.csv has all"

    def row(difference: Difference) -> Row:
        value, error = difference.difference, difference.stderr
        in_spreads = f"{number(value, sign=True)} ± {number(error)}"
        shown = target.with_error(value, error) if item.same_unit else in_spreads
        names = [] if difference.class_name is None else [difference.class_name]
        return Row(difference.group, [*names, shown, q_value(difference.qvalue)])

    columns = ["Source group", *(["Class"] if item.level == "class" else []), "Difference", "q-value"]
    numeric = tuple(range(len(columns) - 2, len(columns)))
    return Table(f"differ-{place}", caption, columns, [row(each) for each in item.differences[:LISTED]], numeric)
