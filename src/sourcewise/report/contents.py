"""What the report shows of an estimate: its sections, as one page and as text for a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import xarray as xr

from sourcewise.core.errors import SourcewiseError, did_you_mean
from sourcewise.report import page, terminal
from sourcewise.report.formatting import count, display_unit, join
from sourcewise.report.parts import Section
from sourcewise.report.pictures import Album
from sourcewise.report.sections import SECTIONS, closing
from sourcewise.report.sections.context import TargetContext, TrainCommand
from sourcewise.report.sections.verdict import Verdict, verdict
from sourcewise.report.summary import Summary

if TYPE_CHECKING:  # torch is slow to import, and only images need it
    from sourcewise.data import ImageDataset

NO_PICTURES = (
    "Examples go by their ids where their images are not on this machine. The setting images of estimate.py, a mapping"
    " of settings of train.py, finds others: images.source is the name of the source, images.target a list of targets."
)
LISTED_LEFT_OUT = 20
"""Records left out that a terminal lists."""


@dataclass(frozen=True)
class TargetReport:
    """What the report shows of one target.

    Attributes:
        target: what its sections are made from.
        verdict: which claims the data can support.
        sections: in the order of the page.
        needs: by name of a section, or of pictures, that cannot be shown: what it would take.
    """

    target: TargetContext
    verdict: Verdict
    sections: tuple[Section, ...]
    needs: Mapping[str, str]

    @property
    def score(self) -> tuple[str, str]:
        """The name of the models' score, and its mean with its standard deviation, as text."""
        output, mean, spread = self.target.summary.output, self.target.facts.metric_mean, self.target.facts.metric_std
        if output.startswith("metric:"):
            return output.removeprefix("metric:"), f"{mean:.4g}" + ("" if spread is None else f" ± {spread:.4g}")
        return "Accuracy", f"{mean:.1%}" + ("" if spread is None else f" ± {100 * spread:.1f}")


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
    """Build the report of an estimate.

    Args:
        influences: by target.
        summary: of the estimate.
        train_command: returns the command that trains models of this recipe with further overrides.
        out: folder of the estimate's results.
        sections: names of sections, in order; None for all.
        images: datasets by the name of the target, and that of the source under "". Other examples go by their ids.

    Raises SourcewiseError as `check_sections` does.
    """
    check_sections(sections)
    album, reports = Album(images or {}), []
    for name, dataset in influences.items():
        target = TargetContext(name, dataset, summary, train_command, out, album)
        parts = {key: SECTIONS[key](target) for key in sections or SECTIONS}
        needs = {key: part for key, part in parts.items() if isinstance(part, str)}
        needs |= {"pictures": NO_PICTURES} if album.missing else {}
        shown = tuple(part for part in parts.values() if isinstance(part, Section))
        reports.append(TargetReport(target, verdict(target), shown, needs))
    return reports


def as_page(reports: Sequence[TargetReport]) -> str:
    """Return report.html. At its end stands what else it could show, and what that needs."""
    summary = reports[0].target.summary
    needs = {key: need for report in reports for key, need in report.needs.items()}
    return page.html(
        summary=summary,
        unit=display_unit(summary.output),
        names=join([report.target.name for report in reports]),
        reports=reports,
        closing=closing.sections(summary, needs),
    )


def as_text(reports: Sequence[TargetReport]) -> str:
    """Return the text that the command prints: of each target the verdict and a short choice of sections."""
    summary = reports[0].target.summary
    lines: list[str] = []
    for report in reports:
        briefs = [part.brief for part in report.sections if part.brief]
        for section in (_heading(report), report.verdict.section(), *briefs):
            lines += ["", *terminal.lines(section)]
    notes = Section("notes", "Notes", [*summary.notes, *_left_out(summary)])
    return "\n".join([*lines, *(["", *terminal.lines(notes)] if notes.lead else [])])


def _heading(report: TargetReport) -> Section:
    """Return one line on a target and the models."""
    summary, (score, value) = report.target.summary, report.score
    models = f"{count(summary.models, 'model')} of subsets of {count(summary.groups, 'group')}"
    title = (
        f"{summary.source} to {report.target.name}: {models}; {score.lower()} {value}; estimator {summary.estimator}"
    )
    return Section("heading", title)


def _left_out(summary: Summary) -> Iterator[str]:
    for item in summary.left_out[:LISTED_LEFT_OUT]:
        yield f"Left out: {item.path}: {item.reason}"
    if len(summary.left_out) > LISTED_LEFT_OUT:
        yield f"Left out: {len(summary.left_out) - LISTED_LEFT_OUT} more, all in summary.json"
