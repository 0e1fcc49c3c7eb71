"""The steps of an estimate after the influences: what to do about them, the report, and all of it written to disk."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sourcewise.acting import counterfactuals, curation
from sourcewise.acting import review as reviewing
from sourcewise.core.files import write_whole
from sourcewise.core.results import to_json
from sourcewise.core.results_folder import replacing
from sourcewise.designs.files import write_ranking
from sourcewise.report import contents
from sourcewise.study import writing
from sourcewise.study.recipes import train_command

if TYPE_CHECKING:
    from sourcewise.acting.counterfactuals import Comparison
    from sourcewise.acting.curation import Curation
    from sourcewise.acting.review import ReviewRow
    from sourcewise.data import ImageDataset
    from sourcewise.report.contents import TargetReport
    from sourcewise.report.summary import Summary
    from sourcewise.study.collect import Study
    from sourcewise.study.influences import Estimated

PROPOSAL = ("keep.txt", "drop.txt", "ranking.csv")
"""Files of a proposal of curation, which later estimates of the study leave where they are."""


def compare(study: Study, estimated: Mapping[str, Estimated]) -> tuple[Comparison, ...]:
    """Return what models of chosen subsets did beside what the influences predict."""
    slopes = {name: item.slopes for name, item in estimated.items()}
    return counterfactuals.compare_all(study.counterfactual_runs, study.group_names, slopes)


def review(
    study: Study, estimated: Mapping[str, Estimated], images: Mapping[str, ImageDataset], fdr: float
) -> tuple[ReviewRow, ...]:
    """Return the source examples that a person should look at."""
    datasets = {name: item.dataset for name, item in estimated.items()}
    return reviewing.review(datasets, study.label_agreement, images, fdr)


def curate(study: Study, setting: Any, out: Path) -> Curation | None:
    """Return a proposal of groups to remove, if the setting `curate` asks for one.

    Raises SourcewiseError for wrong weights, and where the records cannot carry a proposal.
    """
    if not setting:
        return None
    return curation.curate(study, curation.target_weights(setting, list(study.targets)), out)


def build_reports(
    study: Study,
    estimated: Mapping[str, Estimated],
    summary: Summary,
    out: Path,
    sections: Sequence[str] | None,
    images: Mapping[str, ImageDataset],
) -> list[TargetReport]:
    """Return the report of every target, with as many groups as a page can list."""
    listed = {
        name: writing.listed_groups(item.dataset, summary.targets[name].groups_to_show)
        for name, item in estimated.items()
    }
    return contents.build(listed, summary, partial(train_command, study.header), out, sections, images)


def write(
    out: Path,
    estimated: Mapping[str, Estimated],
    summary: Summary,
    used: Sequence[str],
    reports: Sequence[TargetReport],
    top: int,
) -> None:
    """Write all results of an estimate, in place of those of the estimate before.

    Args:
        out: the folder of results; all else in it stays.
        estimated: influences by target.
        summary: of the estimate.
        used: names of the records.
        reports: of all targets.
        top: groups of either sign that top.parquet keeps for every example.
    """
    with replacing(out, summary.study, keep=PROPOSAL) as folder:
        if summary.curation:
            curation.write(folder, summary.curation)
        if summary.review:
            reviewing.write(folder, summary.review)
        writing.write({name: item.dataset for name, item in estimated.items()}, folder, top)
        for name, item in estimated.items():
            for key, baseline in item.baselines.items():
                write_ranking(folder / name / f"{key}.csv", {row.group: row.score for row in baseline.overall})
        write_whole(folder / "summary.json", json.dumps(to_json(summary), indent=1).encode())
        write_whole(folder / "records.txt", ("\n".join(used) + "\n").encode())
        write_whole(folder / "report.html", contents.as_page(reports).encode())
