"""Estimate influences from the records of a study.

python estimate.py records=runs/<study> out=outputs/<name>
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import hydra
from annotated_types import Interval
from omegaconf import DictConfig
from pydantic import PositiveInt

from sourcewise.commands.cli import CONFIGS, resolve
from sourcewise.core import exits, settings
from sourcewise.core.messages import printable


@dataclass(frozen=True)
class Settings:
    """What conf/estimate.yaml holds."""

    records: str | Sequence[str]
    filters: Mapping[str, Any]
    refresh: bool | Literal["auto"]
    out: str
    outputs: str
    estimator: str
    fdr: Annotated[float, Interval(gt=0, lt=1)]
    top: PositiveInt
    counterfactuals: str | Sequence[str] | None
    curate: bool | Mapping[str, float] | None
    images: Literal["auto"] | Mapping[str, Any] | None
    sections: Sequence[str] | None
    wandb_report: bool
    logger: Mapping[str, Any]
    runs_dir: str


def estimate(config: dict[str, Any]) -> dict[str, Any]:
    """Everything from records to results on disk and in W&B; returns the summary."""
    from hydra.utils import instantiate

    from sourcewise.acting import analyses, counterfactuals, curation, review
    from sourcewise.commands.images import find_images
    from sourcewise.core.files import check_place, write_whole
    from sourcewise.designs.files import write_ranking
    from sourcewise.records.reading import Records
    from sourcewise.records.tracking import check_report
    from sourcewise.report import report
    from sourcewise.report.summary import summarise
    from sourcewise.study import influences

    report.check(config["sections"])
    check_place(Path(config["out"]))
    tracker = instantiate(config["logger"])
    if config["wandb_report"]:
        check_report(tracker)
    records, out = Records(config["records"], config["filters"], config["refresh"]), Path(config["out"])
    study = influences.collect(records.giving(config["outputs"]), config["outputs"])
    weights = curation.weights_of(config["curate"], list(study.targets)) if config["curate"] else {}
    for place in [further] if isinstance(further := config["counterfactuals"] or [], str) else further:
        study.trials += influences.further_trials(Records(place, {}, config["refresh"]), study)
    images = find_images(config["images"], study.header)
    estimated = influences.estimate(study, config["estimator"])
    _clear(out, study.header.study)
    summary = summarise(study, estimated, records.left_out, config["fdr"])
    summary["counterfactuals"] = counterfactuals.tables(
        study.trials, study.names, {name: item.slopes for name, item in estimated.items()}
    )
    if weights:
        summary["curation"] = curation.curate(study, weights, out, list(study.header.overrides or ["..."]))
    found = {name: item.dataset for name, item in estimated.items()}
    summary["review"] = review.review(found, study.beliefs, images, config["fdr"])
    if summary["review"]:
        review.write(out, summary["review"])
    influences.write(found, out, config["top"])
    for name, item in estimated.items():
        for baseline, said in item.baselines.items():
            scores = {row["group"]: row["score"] for row in said["overall"]}
            write_ranking(out / name / f"{baseline}.csv", scores)
    write_whole(out / "summary.json", json.dumps(influences.plain(summary), indent=1).encode())
    write_whole(out / "records.txt", ("\n".join(records.used) + "\n").encode())
    pages = {name: influences.shown(data, analyses.named(summary["targets"][name])) for name, data in found.items()}
    built = report.build(pages, summary, config["sections"], images)
    write_whole(out / "report.html", report.render(built).encode())
    about = {**config, "study": study.header.study, "models": study.models}
    with tracker.start(f"estimate-{study.header.study}", study.header.study, about, job="estimate") as tracked:
        for target, sections, _ in built:
            place = f"target/{target.name}"
            for part in sections:
                for figure in part.figures:
                    tracked.figure(f"{place}/{figure.id}", figure.figure)
                for table in part.tables:
                    tracked.images(f"{place}/{table.id}", table.images)
            rows = [list(effect.values()) for effect in target.facts["overall"]]
            tracked.table(f"{place}/overall", ["group", "influence", "stderr", "qvalue"], rows)
        for there in summary["counterfactuals"]:
            where = "/".join(["target", there["target"], "counterfactual", there["study"]]).rstrip("/")
            tracked.table(where, counterfactuals.COLUMNS, counterfactuals.rows(there))
        if config["wandb_report"]:
            title = f"Which groups of {summary['source']} help {', '.join(pages)}, and which hurt"
            verdicts = [report.verdict(item.target) for item in built]
            text = [line for verdict in verdicts for line in (verdict["headline"], *verdict["lead"])]
            tracked.report(title, [*text, *summary["notes"]], [f"target/{name}/score" for name in pages])
        tracked.save(out / "report.html", "report.html")
        results = [f"{name}/{kind}" for name in found for kind in ("influences.nc", "top.parquet")]
        files = {name: out / name for name in (*results, "summary.json", "records.txt")}
        tracked.artifact(f"influences-{study.header.study}", "influences", files, {"recipe": study.header.recipe})
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
    from sourcewise.report.summary import as_text

    with exits.errors():
        resolved = resolve(config, Settings)
        settings.check(resolved["logger"], "logger")
        print(printable(as_text(estimate(resolved))))
        print(f"\n{Path(resolved['out'], 'report.html')}")


def main() -> None:
    """Run the command: `python estimate.py`, `sourcewise-estimate`."""
    with exits.errors():
        _main()
