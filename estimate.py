"""Estimate influences from the records of a study.

python estimate.py records=runs/<study> out=outputs/<name>
"""

import json
from pathlib import Path
from typing import Any

import hydra
from omegaconf import DictConfig

from sourcewise import cli

SETTINGS = ("records", "out", "output", "estimator", "fdr", "top", "logger", "runs_dir")


def estimate(config: dict[str, Any]) -> dict[str, Any]:
    """Everything from records to results on disk and in W&B; returns the summary."""
    from hydra.utils import instantiate

    from sourcewise import figures, influences, report
    from sourcewise.records import Records
    from sourcewise.summary import summarise

    records, out = Records(config["records"]), Path(config["out"])
    study = influences.collect(records, config["output"])
    estimated = influences.estimate(study, config["estimator"])
    summary = summarise(study, estimated, records.left_out, config["fdr"])
    found = {name: item.dataset for name, item in estimated.items()}
    out.mkdir(parents=True, exist_ok=True)
    influences.write(found, out, config["top"])
    (out / "summary.json").write_text(json.dumps(summary, indent=1), encoding="utf-8")
    report.write(out / "report.html", found, summary)
    tracker = instantiate(config["logger"])
    with tracker.start(f"estimate-{study.header.study}", study.header.study, config, job="estimate") as tracked:
        for name, dataset in found.items():
            tracked.figure(f"target/{name}/influence_class", figures.heatmap(dataset, fdr=config["fdr"]))
            tracked.figure(f"target/{name}/influence_overall", figures.overall_bars(dataset, fdr=config["fdr"]))
            tracked.save(out / name / "influences.nc", f"{name}/influences.nc")
        tracked.save(out / "summary.json", "summary.json")
        tracked.save(out / "report.html", "report.html")
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
