"""What the report shows of an estimate: its sections, as one self-contained HTML page and as text for a terminal.

The page fetches nothing, and a content security policy says so. Its template escapes every string.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import jinja2
import pandas as pd
import xarray as xr
from plotly.offline import get_plotlyjs

from sourcewise.core.errors import SourcewiseError, did_you_mean
from sourcewise.report import terminal
from sourcewise.report.drawing import THEMES
from sourcewise.report.formatting import count, display_unit, join, places
from sourcewise.report.parts import Section
from sourcewise.report.sections import SECTIONS
from sourcewise.report.sections.closing import closing_sections, next_section
from sourcewise.report.sections.context import Album, TargetContext, TrainCommand
from sourcewise.report.sections.trust import verdict
from sourcewise.report.summary import Summary
from sourcewise.study.outputs import ACCURACY
from sourcewise.study.writing import listed_groups

if TYPE_CHECKING:  # torch is slow to import, and only images need it
    from sourcewise.data import ImageDataset

NO_PICTURES = (
    "Examples go by their ids where their images are not on this machine. The setting images of estimate.py, a mapping"
    " of settings of train.py, finds others: images.source is the name of the source, images.target a list of targets."
)
LISTED_LEFT_OUT = 20
"""Records left out that a terminal lists."""
SHOWN_ROWS = 40
"""Rows of a searchable table that the page shows before the reader asks for more."""


@dataclass(frozen=True)
class TargetReport:
    """What the report shows of one target: the verdict, and the sections in the order of the page.

    needs: by name of a section, or of pictures, that cannot be shown: what it would take.
    """

    target: TargetContext
    verdict: Section
    sections: tuple[Section, ...]
    needs: Mapping[str, str]

    @property
    def score(self) -> tuple[str, str]:
        """The name of the models' score, and its mean with its standard deviation, as text."""
        facts = self.target.facts
        mean, spread = facts.metric_mean, facts.metric_std
        if facts.score != ACCURACY:
            return facts.score, f"{mean:.4g}" + ("" if spread is None else f" ± {spread:.4g}")
        return "Accuracy", f"{mean:.1%}" + ("" if spread is None else f" ± {100 * spread:.{places(100 * spread, 1)}f}")


def check_sections(names: Sequence[str] | None) -> None:
    """Raise SourcewiseError when there is no section of such a name."""
    for name in names or ():
        if name not in SECTIONS:
            hint = did_you_mean(name, SECTIONS) or f"; choose from {', '.join(SECTIONS)}"
            raise SourcewiseError(f"sections: the report has no section {name!r}{hint}")


def build(
    influences: Mapping[str, xr.Dataset],
    summary: Summary,
    train_command: TrainCommand,
    out: Path,
    sections: Sequence[str] | None = None,
    images: Mapping[str, ImageDataset] | None = None,
) -> list[TargetReport]:
    """Build the report of an estimate from its influences, by target, and its summary, with as many groups as fit.

    sections: names of sections, in order; None for all. images: as in Album. All else is as in TargetContext.
    """
    album, reports = Album(images or {}, _paths(influences)), []
    for name, dataset in influences.items():
        listed = listed_groups(dataset, summary.targets[name].groups_to_show)
        if "group_path" in listed.coords:  # groups that are source examples go by their files
            names = zip(listed["group_path"].values, listed["group"].values, strict=True)
            listed = listed.assign_coords(group=[path or number for path, number in names])
        target = TargetContext(name, listed, summary, train_command, out, album)
        parts = {key: SECTIONS[key](target) for key in sections or SECTIONS}
        needs = {key: part for key, part in parts.items() if isinstance(part, str)}
        needs |= {"pictures": NO_PICTURES} if album.missing else {}
        shown = tuple(part for part in parts.values() if isinstance(part, Section))
        reports.append(TargetReport(target, verdict(target), shown, needs))
    return reports


def _paths(influences: Mapping[str, xr.Dataset]) -> dict[str, pd.Series[str]]:
    """Return the paths of examples by id, for each target where they are known, and of source examples under ""."""
    paths = {
        name: pd.Series(dataset["path"].values, dataset["example"].values)
        for name, dataset in influences.items()
        if "path" in dataset.coords
    }
    first = next(iter(influences.values()))
    return paths | ({"": pd.Series(first["group_path"].values)} if "group_path" in first.coords else {})


def as_page(reports: Sequence[TargetReport]) -> str:
    """Return report.html. At its end stands what else it could show, and what that needs."""
    loader = jinja2.PackageLoader("sourcewise.report")
    environment = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.globals["count"] = count
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "allow_nan": False}
    style, script = (loader.get_source(environment, f"report.{kind}")[0] for kind in ("css", "js"))
    scripts = [get_plotlyjs(), script]
    digests = (base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in scripts)
    allowed = " ".join(f"'sha256-{digest}'" for digest in digests)
    summary = reports[0].target.summary
    return environment.get_template("report.html.j2").render(
        summary=summary,
        unit=display_unit(summary.output),
        names=join([report.target.title for report in reports]),
        reports=reports,
        closing=[
            *next_section(reports[0].target),
            *closing_sections(summary, {report.target.name: report.needs for report in reports}),
        ],
        themes=THEMES,
        rows=SHOWN_ROWS,
        style=style,
        scripts=scripts,
        policy=f"default-src 'none'; img-src data: blob:; style-src 'unsafe-inline'; script-src {allowed}",
    )


def as_text(reports: Sequence[TargetReport]) -> str:
    """Return the text that the command prints: of each target the verdict and a short choice of sections."""
    summary = reports[0].target.summary
    left_out = [f"Left out: {item.path}: {item.reason}" for item in summary.left_out[:LISTED_LEFT_OUT]]
    if more := len(summary.left_out) - len(left_out):
        left_out.append(f"Left out: {more} more, all in summary.json")
    briefs = []
    for report in reports:
        parts = (report.verdict, *report.sections)
        briefs += [_heading(report), *(part.brief for part in parts if part.brief)]
    if summary.notes or left_out:
        briefs.append(Section("notes", "Notes", [*summary.notes, *left_out]))
    briefs += next_section(reports[0].target)
    return "\n".join(line for part in briefs for line in ("", *terminal.lines(part)))


def _heading(report: TargetReport) -> Section:
    summary, (score, value) = report.target.summary, report.score
    models = f"{count(summary.models, 'model')} of subsets of {count(summary.groups, 'group')}"
    title = (
        f"{summary.source} to {report.target.title}: {models}; {score.lower()} {value}; estimator {summary.estimator}"
    )
    return Section("heading", title)
