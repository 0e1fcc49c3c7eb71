"""All results of an estimate, written to disk as a whole."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sourcewise.acting import curation, review
from sourcewise.core.files import write_whole
from sourcewise.core.results import to_json
from sourcewise.core.results_folder import replacing
from sourcewise.designs.files import write_ranking
from sourcewise.report import contents
from sourcewise.study import writing

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
) -> None:
    """Write all results of an estimate, in place of those of the estimate before.

    Args:
        out: the folder of results; all else in it stays.
        influences: by target.
        summary: of the estimate.
        used: names of the records.
        reports: of all targets.
        top: groups of either sign that top.parquet keeps for every example.
    """
    with replacing(out, summary.study, keep=PROPOSAL) as folder:
        if summary.curation:
            curation.write(folder, summary.curation)
        if summary.review:
            review.write(folder, summary.review)
        writing.write(influences, folder, top)
        for name, target in summary.targets.items():
            for key, baseline in target.baselines.items():
                write_ranking(folder / name / f"{key}.csv", {row.group: row.score for row in baseline.overall})
        write_whole(folder / "summary.json", json.dumps(to_json(summary), indent=1).encode())
        write_whole(folder / "records.txt", ("\n".join(used) + "\n").encode())
        write_whole(folder / "report.html", contents.as_page(reports).encode())
