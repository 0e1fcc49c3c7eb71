"""Estimate influences from the records of a study.

python estimate.py records=runs/<study> out=outputs/<name>
"""

import json
from pathlib import Path
from typing import Any

import hydra
from omegaconf import DictConfig

from sourcewise import cli

SETTINGS = (
    "records",
    "filters",
    "refresh",
    "out",
    "outputs",
    "estimator",
    "fdr",
    "top",
    "sections",
    "logger",
    "runs_dir",
)


def estimate(config: dict[str, Any]) -> dict[str, Any]:
    """Everything from records to results on disk and in W&B; returns the summary."""
    from hydra.utils import instantiate

    from sourcewise import figures, influences, report
    from sourcewise.records import Records
    from sourcewise.summary import summarise

    report.check(config["sections"])
    records, out = Records(config["records"], config["filters"], config["refresh"]), Path(config["out"])
    metric = config["outputs"].removeprefix("metric:")
    found_in = records if metric == config["outputs"] else records.scalars(metric)
    study = influences.collect(found_in, config["outputs"])
    estimated = influences.estimate(study, config["estimator"])
    summary = summarise(study, estimated, records.left_out, config["fdr"])
    found = {name: item.dataset for name, item in estimated.items()}
    out.mkdir(parents=True, exist_ok=True)
    influences.write(found, out, config["top"])
    (out / "summary.json").write_text(json.dumps(summary, indent=1), encoding="utf-8")
    (out / "records.txt").write_text("\n".join(records.used) + "\n", encoding="utf-8")
    pages = {name: influences.shown(dataset) for name, dataset in found.items()}
    report.write(out / "report.html", pages, summary, config["sections"])
    tracker = instantiate(config["logger"])
    about = {**config, "study": study.header.study, "models": study.models}
    with tracker.start(f"estimate-{study.header.study}", study.header.study, about, job="estimate") as tracked:
        for name, dataset in pages.items():
            tracked.figure(f"target/{name}/influence_class", figures.heatmap(dataset, fdr=config["fdr"]))
            tracked.figure(f"target/{name}/influence_overall", figures.overall_bars(dataset, fdr=config["fdr"]))
            overall = [list(effect.values()) for effect in summary["targets"][name]["overall"]]
            tracked.table(f"target/{name}/overall", ["group", "influence", "stderr", "qvalue"], overall)
        tracked.save(out / "report.html", "report.html")
        results = [f"{name}/{kind}" for name in found for kind in ("influences.nc", "top.parquet")]
        files = {name: out / name for name in (*results, "summary.json", "records.txt")}
        tracked.artifact(f"influences-{study.header.study}", "influences", files, {"recipe": study.header.recipe})
    return summary


@hydra.main(version_base="1.3", config_path="conf", config_name="estimate")
def main(config: DictConfig) -> None:
    """One estimate of a composed config."""
    from sourcewise.summary import as_text

    with cli.errors():
        resolved = cli.resolve(config, SETTINGS)
        print(as_text(estimate(resolved)))
        print(f"\n{Path(resolved['out'], 'report.html')}")


if __name__ == "__main__":
    with cli.errors():
        main()
