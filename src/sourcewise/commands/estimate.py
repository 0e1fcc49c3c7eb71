"""Estimate influences from the records of a study.

python estimate.py records=runs/<study> out=outputs/<name>
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import hydra
from annotated_types import Interval
from omegaconf import DictConfig
from pydantic import PositiveInt

from sourcewise.commands import CONFIGS, cli
from sourcewise.core import settings

if TYPE_CHECKING:
    from sourcewise.report.summary import Summary


@dataclass(frozen=True)
class Settings:
    """What conf/estimate.yaml holds."""

    records: str | Sequence[str]
    filters: Mapping[str, Any]
    refresh: bool | Literal["auto"]
    out: str
    outputs: str
    estimator: str | Sequence[str]
    fdr: Annotated[float, Interval(gt=0, lt=1)]
    top: PositiveInt
    counterfactuals: str | Sequence[str] | None
    curate: bool | Mapping[str, float] | None
    images: Literal["auto"] | Mapping[str, Any] | None
    sections: Sequence[str] | None
    wandb_report: bool
    logger: Mapping[str, Any]
    runs_dir: str


def estimate(config: dict[str, Any]) -> "Summary":
    """Everything from records to results on disk and in W&B; returns the summary."""
    from hydra.utils import instantiate

    from sourcewise.acting import counterfactuals, curation, review
    from sourcewise.core.files import check_place, write_whole
    from sourcewise.core.results import to_json
    from sourcewise.designs.files import write_ranking
    from sourcewise.records.reading import Records
    from sourcewise.report import contents
    from sourcewise.report.summary import summarise
    from sourcewise.study import influences, writing
    from sourcewise.study.collect import collect, join_counterfactuals
    from sourcewise.study.recipes import train_command

    contents.check_sections(config["sections"])
    check_place(Path(config["out"]))
    tracker = instantiate(config["logger"])
    if config["wandb_report"]:
        tracker.check_report()
    records = Records(config["records"], config["filters"], config["refresh"]).giving(config["outputs"])
    study, out = collect(records, config["outputs"]), Path(config["out"])
    weights = curation.target_weights(config["curate"], list(study.targets)) if config["curate"] else {}
    for place in [further] if isinstance(further := config["counterfactuals"] or [], str) else further:
        study = join_counterfactuals(study, Records(place, {}, config["refresh"]))
    images = cli.images(config["images"], study.header)
    estimated = influences.estimate(study, config["estimator"])
    _clear(out, study.header.study)
    datasets = {name: item.dataset for name, item in estimated.items()}
    summary = summarise(
        study,
        estimated,
        records.left_out,
        config["fdr"],
        counterfactuals=counterfactuals.compare_all(
            study.counterfactual_runs, study.group_names, {name: item.slopes for name, item in estimated.items()}
        ),
        review=review.review(datasets, study.label_agreement, images, config["fdr"]),
        curation=curation.curate(study, weights, out) if weights else None,
    )
    if summary.curation:
        curation.write(out, summary.curation)
    if summary.review:
        review.write(out, summary.review)
    writing.write(datasets, out, config["top"])
    for name, item in estimated.items():
        for key, baseline in item.baselines.items():
            scores = {row.group: row.score for row in baseline.overall}
            write_ranking(out / name / f"{key}.csv", scores)
    write_whole(out / "summary.json", json.dumps(to_json(summary), indent=1).encode())
    write_whole(out / "records.txt", ("\n".join(records.used) + "\n").encode())
    pages = {name: writing.listed_groups(data, summary.targets[name].groups_to_show) for name, data in datasets.items()}
    reports = contents.build(pages, summary, partial(train_command, study.header), out, config["sections"], images)
    write_whole(out / "report.html", contents.as_page(reports).encode())
    about = {**config, "study": study.header.study, "models": study.models}
    with tracker.start(f"estimate-{study.header.study}", study.header.study, about, job="estimate") as tracked:
        for report in reports:
            target, place = report.target, f"target/{report.target.name}"
            for part in report.sections:
                for figure in part.figures:
                    tracked.figure(f"{place}/{figure.id}", figure.figure)
                for table in part.tables:
                    tracked.images(f"{place}/{table.id}", table.images)
            rows = [[row.group, row.influence, row.stderr, row.qvalue] for row in target.facts.overall]
            tracked.table(f"{place}/overall", ["group", "influence", "stderr", "qvalue"], rows)
        for comparison in summary.counterfactuals:
            where = "/".join(["target", comparison.target, "counterfactual", comparison.study]).rstrip("/")
            tracked.table(where, counterfactuals.COLUMNS, counterfactuals.comparison_rows(comparison))
        if config["wandb_report"]:
            title = f"Which groups of {summary.source} help {', '.join(pages)}, and which hurt"
            verdicts = [report.verdict for report in reports]
            text = [line for verdict in verdicts for line in (verdict.headline, *verdict.paragraphs)]
            tracked.report(title, [*text, *summary.notes], [f"target/{name}/score" for name in pages])
        tracked.save(out / "report.html", "report.html")
        results = [f"{name}/{kind}" for name in datasets for kind in ("influences.nc", "top.parquet")]
        files = {name: out / name for name in (*results, "summary.json", "records.txt")}
        tracked.artifact(f"influences-{study.header.study}", "influences", files, {"recipe": study.header.recipe})
    print(f"{contents.as_text(reports)}\n\n{out / 'report.html'}")
    return summary


def _clear(out: Path, study: str) -> None:
    """Remove what an estimate of another study left in `out`: its lists and rankings would pass for this one's."""
    from sourcewise.records.record import is_name

    try:
        before = json.loads((out / "summary.json").read_text(encoding="utf-8"))
        targets = [name for name in before["targets"] if is_name(name)]
        if before["study"] == study:
            return
    except (OSError, ValueError, KeyError, TypeError):
        return  # nothing there that we wrote
    for name in ("keep.txt", "drop.txt", "ranking.csv", "review.csv", "review_drop.txt"):
        (out / name).unlink(missing_ok=True)
    for name in targets:
        for file in ("influences.nc", "top.parquet"):
            (out / name / file).unlink(missing_ok=True)


@hydra.main(version_base="1.3", config_path=CONFIGS, config_name="estimate")
def _main(config: DictConfig) -> None:
    """Estimate once, by a composed config."""
    with cli.errors():
        resolved = cli.resolve(config, Settings)
        settings.check_config(resolved["logger"], "logger")
        estimate(resolved)


def main() -> None:
    """Run the command: `python estimate.py`, `sourcewise-estimate`."""
    with cli.errors():
        _main()
