"""An estimate under the logger: figures, pictures, tables, a report and files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sourcewise.acting import counterfactuals

if TYPE_CHECKING:
    from sourcewise.records.tracker import TrackedRun, Tracker
    from sourcewise.report.contents import TargetReport
    from sourcewise.report.summary import Summary
    from sourcewise.study.collect import Study


def track(
    tracker: Tracker, config: Mapping[str, Any], study: Study, summary: Summary, reports: Sequence[TargetReport]
) -> None:
    """Keep an estimate under the logger as a run of its own, with the files in `config["out"]`."""
    header, out = study.header, Path(config["out"])
    settings = {**config, "study": header.study, "models": study.models}
    with tracker.start(f"estimate-{header.study}", header.study, settings, job="estimate") as tracked:
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


def _track_target(tracked: TrackedRun, report: TargetReport) -> None:
    """Keep the figures, pictures and overall influences of one target."""
    place = f"target/{report.target.name}"
    for section in report.sections:
        for figure in section.figures:
            tracked.figure(f"{place}/{figure.id}", figure.figure)
        for table in section.tables:
            tracked.images(f"{place}/{table.id}", table.images)
    rows = [[row.group, row.influence, row.stderr, row.qvalue] for row in report.target.facts.overall]
    tracked.table(f"{place}/overall", ["group", "influence", "stderr", "qvalue"], rows)


def _track_report(tracked: TrackedRun, summary: Summary, reports: Sequence[TargetReport]) -> None:
    """Make a report of the verdicts and of the scores of the study's runs."""
    targets = [report.target.name for report in reports]
    title = f"Which groups of {summary.source} help {', '.join(targets)}, and which hurt"
    text = [line for report in reports for line in (report.verdict.title, *report.verdict.lead)]
    tracked.report(title, [*text, *summary.notes], [f"target/{name}/score" for name in targets])
