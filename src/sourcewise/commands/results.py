"""All results of an estimate, written to disk as a whole."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from sourcewise.acting import curation, review
from sourcewise.core.files import write_atomically
from sourcewise.core.results import to_json
from sourcewise.core.results_folder import replacing
from sourcewise.designs.files import write_ranking
from sourcewise.report import contents
from sourcewise.report.latex import latex
from sourcewise.report.parts import spreadsheet_safe
from sourcewise.report.printing import Kind, to_file
from sourcewise.study import comparison, writing
from sourcewise.study.effects import ALL_KEYS

if TYPE_CHECKING:
    import xarray as xr

    from sourcewise.report.contents import TargetReport
    from sourcewise.report.summary import Summary

PROPOSAL = ("keep.txt", "drop.txt", "ranking.csv")
"""Files of a proposal of curation, which later estimates of the study leave where they are."""


def write(
    out: Path,
    influences: Mapping[str, xr.Dataset],
    summary: Summary,
    used: Sequence[str],
    reports: Sequence[TargetReport],
    top: int,
    figures: Kind | None = None,
    rankings: Mapping[str, Mapping[str, Mapping[str, float]]] = {},
) -> None:
    """Write all results of an estimate, in place of those of the estimate before.

    Args:
        out: the folder of results; all else in it stays.
        influences: by target.
        summary: of the estimate.
        used: names of the records.
        reports: of all targets.
        top: groups of either sign that top.parquet keeps for every example.
        figures: kind of file that the figures are written as; None for none.
        rankings: scores of the groups, by target, name of the ranking and group.
    """
    with replacing(out, summary.study, keep=PROPOSAL) as folder:
        if summary.curation:
            curation.write(folder, summary.curation)
        if summary.review:
            review.write(folder, summary.review)
        writing.write(influences, folder, top)
        for name, target in summary.targets.items():
            for key, scores in rankings.get(name, {}).items():
                write_ranking(folder / name / f"{key}.csv", scores)
            if target.compared:
                comparison.write(folder / name, target.compared)
        write_atomically(folder / "summary.json", json.dumps(to_json(summary), indent=1).encode())
        write_atomically(folder / "records.txt", ("\n".join(used) + "\n").encode())
        write_atomically(folder / "report.html", contents.as_page(reports).encode())
        for report in reports:
            _write_tables(folder / "tables", report)
            if figures:
                _write_figures(folder / "figures", report, figures)


def _write_tables(folder: Path, report: TargetReport) -> None:
    """Write the tables of the page, as CSV and LaTeX, and influences on classes, errors, ... as classes x groups."""
    folder.mkdir(exist_ok=True)
    name, influences = report.target.name, report.target.influences
    for table in (table for section in report.sections for table in section.tables):
        write_atomically(folder / f"{name}-{table.id}.csv", table.csv().encode())
        write_atomically(folder / f"{name}-{table.id}.tex", latex(table).encode())
    for key in ALL_KEYS:
        values = influences[f"{key}_class"].transpose("class", "group").values
        classes, groups = (
            [spreadsheet_safe(str(each)) for each in influences[dim].values] for dim in ("class", "group")
        )
        matrix = pd.DataFrame(values, pd.Index(classes, name="class"), groups)
        content = matrix.to_csv(lineterminator="\n", float_format="%.6g")
        write_atomically(folder / f"{name}-{key}_class.csv", content.encode())


def _write_figures(folder: Path, report: TargetReport, kind: Kind) -> None:
    folder.mkdir(exist_ok=True)
    for figure in (figure for section in report.sections for figure in section.figures):
        write_atomically(folder / f"{report.target.name}-{figure.id}.{kind}", to_file(figure.figure, kind))
