"""An estimate under the logger: scalars, figures, pictures, tables, a report and files."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sourcewise.acting import counterfactuals
from sourcewise.records.places import page
from sourcewise.study.effects import ALL_KEYS
from sourcewise.study.levels import LEVELS

if TYPE_CHECKING:
    import xarray as xr

    from sourcewise.records.tracker import TrackedRun, Tracker
    from sourcewise.report.contents import TargetReport
    from sourcewise.report.summary import Summary
    from sourcewise.study.collect import Study

ROWS = 10_000
"""Rows of a table under the logger."""
INTERVALS = ("lds", "noise_ceiling", "more_models")
"""Fields of `Checks` that have an interval."""
CHECKS = (*INTERVALS, "split_half", "split_half_median", "split_half_without_largest")
"""Fields of `Checks` that are scalars of an estimate."""


def track(
    tracker: Tracker,
    config: Mapping[str, Any],
    study: Study,
    summary: Summary,
    used: Sequence[str],
    reports: Sequence[TargetReport],
) -> None:
    """Keep an estimate under the logger as a run of its own, with the files in `config["out"]`.

    used: places of the records.
    """
    header, out = study.header, Path(config["out"])
    settings = {**config, "study": header.study, "models": study.models}
    settings |= {"source": {"name": summary.source}, "target": {name: {} for name in summary.targets}}
    with tracker.start(f"estimate-{header.study}", header.study, settings, job="estimate") as tracked:
        tracked.summarise(scalars(summary))
        tracked.table("runs", ["record", "run"], [[place, page(place) or ""] for place in used[:ROWS]])
        if summary.left_out:
            left_out = [[item.path, item.reason] for item in summary.left_out[:ROWS]]
            tracked.table("left out", ["record", "reason"], left_out)
        for report in reports:
            _track_target(tracked, report)
        for comparison in summary.counterfactuals:
            name = "/".join(["target", comparison.target, "counterfactual", comparison.study]).rstrip("/")
            tracked.table(name, counterfactuals.COLUMNS, counterfactuals.comparison_rows(comparison))
        if config["wandb_report"]:
            _track_report(tracked, summary, reports)
        tracked.save(out / "report.html", "report.html")
        results = [f"{name}/{file}" for name in study.targets for file in ("influences.nc", "top.parquet")]
        files = {name: out / name for name in (*results, "summary.json", "records.txt")}
        tracked.artifact(f"influences-{header.study}", "influences", files, {"recipe": header.recipe})


def scalars(summary: Summary) -> dict[str, float]:
    """Return the numbers by which a list of estimates is sorted and compared, by name; unknown ones are left out."""
    values: dict[str, float | None] = {
        "models": summary.models,
        "groups": summary.groups,
        "left_out": len(summary.left_out),
    }
    for name, target in summary.targets.items():
        place = f"target/{name}"
        values[f"{place}/score"] = target.metric_mean
        for level in LEVELS:
            checks = target.checks[level]
            for key in CHECKS:
                values[f"{place}/{level}/{key}"] = getattr(checks, key)
            for key in INTERVALS:
                low, high = getattr(checks, f"{key}_interval") or (None, None)
                values |= {f"{place}/{level}/{key}_low": low, f"{place}/{level}/{key}_high": high}
            values[f"{place}/{level}/significant"] = getattr(target, f"significant_{level}")
            values[f"{place}/{level}/influences"] = getattr(target, f"cells_{level}")
    if summary.curation:
        values["curation/removed"] = len(summary.curation.drop)
        values["curation/expected_gain"] = summary.curation.expected.full.value
        for name, gain in summary.curation.verified.items():
            values[f"target/{name}/verified_gain"] = gain.full.value if gain else None
    return {name: value for name, value in values.items() if value is not None and math.isfinite(value)}


def _track_target(tracked: TrackedRun, report: TargetReport) -> None:
    """Keep the figures, pictures, and influences overall and on classes of one target."""
    place = f"target/{report.target.name}"
    for section in report.sections:
        for figure in section.figures:
            tracked.figure(f"{place}/{figure.id}", figure.figure)
        for table in section.tables:
            tracked.images(f"{place}/{table.id}", table.images)
    rows = [[getattr(row, key) for key in ("group", *ALL_KEYS)] for row in report.target.facts.overall]
    tracked.table(f"{place}/overall", ["group", *ALL_KEYS], rows)
    tracked.table(f"{place}/class", ["class", "group", *ALL_KEYS], class_rows(report.target.influences))


def class_rows(influences: xr.Dataset) -> list[list[Any]]:
    """Return the influences of groups on classes as rows, the strongest first: class, group and `ALL_KEYS`.

    Unknown ones are left out.
    """
    columns = [influences[f"{key}_class"].values.astype(float) for key in ALL_KEYS]
    known = np.isfinite(columns[0] + columns[1])
    order = np.argsort(np.where(known, -np.abs(columns[0]), 1.0), axis=None, kind="stable")[: min(ROWS, known.sum())]
    rows, groups = np.unravel_index(order, known.shape)
    names = influences["class"].values[rows].tolist(), influences["group"].values[groups].tolist()
    return [list(row) for row in zip(*names, *(column[rows, groups].tolist() for column in columns), strict=True)]


def _track_report(tracked: TrackedRun, summary: Summary, reports: Sequence[TargetReport]) -> None:
    """Make a report of the verdicts and of the scores of the study's runs."""
    targets = [report.target.name for report in reports]
    title = f"Which groups of {summary.source} help {', '.join(targets)}, and which hurt"
    text = [line for report in reports for line in (report.verdict.title, *report.verdict.lead)]
    tracked.report(title, [*text, *summary.notes], [f"target/{name}/score" for name in targets])
