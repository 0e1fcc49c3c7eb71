"""What an estimate says in brief: the JSON summary, and the table that the command prints."""

import shlex
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from sourcewise.acting import analyses, counterfactuals, curation
from sourcewise.estimation.arrays import row_blocks
from sourcewise.records.reading import LeftOut
from sourcewise.report.figures import KEYS
from sourcewise.study import baselines
from sourcewise.study.influences import LEVELS, SHOWN, SIGN, Estimated, Study, shown

RELATIVE = (
    "All subsets have one size, so influences are relative to the average group:"
    " a constant added to all of them cannot be seen."
)


def summarise(study: Study, found: Mapping[str, Estimated], left_out: Sequence[LeftOut], fdr: float) -> dict[str, Any]:
    """All that the report and the terminal say in words and small tables, as JSON. fdr: false discovery rate."""
    header = study.header
    notes = []
    if len(np.unique(study.packed().sizes())) == 1:
        notes.append(RELATIVE)
    unused = +study.not_random
    if unused:
        listed = ", ".join(f"{count} {design}" for design, count in unused.items())
        notes.append(f"Records whose subset was not drawn at random do not enter the influences: {listed}.")
    first = next(iter(found.values())).dataset
    unseen = [str(name) for name in first["group"].values[np.isnan(first["influence_overall"].values)]]
    if unseen:
        notes.append(
            "Groups that every model kept, or every model dropped, have no influence that could be told: "
            + ", ".join(unseen[:20])
            + (f" and {len(unseen) - 20} more." if len(unseen) > 20 else ".")
        )
    if study.groups > SHOWN:
        notes.append(
            f"Of {study.groups:,} groups, the {SHOWN // 2:,} that help and the {SHOWN // 2:,} that hurt most overall"
            " are listed; influences.nc has all."
        )
    return {
        "study": header.study,
        "source": header.config["source"]["name"],
        "models": study.models,
        "groups": study.groups,
        "designs": dict(study.designs),
        "output": study.output,
        "sign": SIGN,
        "estimator": first.attrs["estimator_class"],
        "fdr": fdr,
        "left_out": [{"path": item.path, "reason": item.reason} for item in left_out],
        "command": shlex.join(["python"] * sys.argv[0].endswith(".py") + sys.argv),
        "recipe": header.recipe,
        "config": dict(header.config),
        "versions": dict(header.versions),
        "commit": header.commit,
        "seconds": {stage: total / sum(study.designs.values()) for stage, total in study.seconds.items()},
        "notes": notes,
        "targets": {
            name: _target(item, study.targets[name].scores, fdr) | analyses.examine(study, name, item, fdr)
            for name, item in found.items()
        },
    }


def _target(found: Estimated, scores: Sequence[float], fdr: float) -> dict[str, Any]:
    dataset, counts = found.dataset, dict[str, int]()
    for level, suffix in LEVELS.items():
        q = np.atleast_2d(dataset[f"qvalue{suffix}"].values)
        cells = [(int((q[rows] <= fdr).sum()), int(np.isfinite(q[rows]).sum())) for rows in row_blocks(q.shape)]
        counts[f"significant_{level}"], counts[f"cells_{level}"] = (sum(part) for part in zip(*cells, strict=True))
    return {
        "examples": dataset.sizes["example"],
        "classes": dataset.sizes["class"],
        "unknown": int(np.isnan(dataset["influence_overall"].values).sum()),
        "metric_mean": float(np.mean(scores)),
        "metric_std": float(np.std(scores, ddof=1)) if len(scores) > 1 else None,
        **counts,
        "table": [_class(dataset, str(name)) for name in dataset["class"].values],
        "overall": effects(shown(dataset[[f"{key}_overall" for key in KEYS]])).to_dict("records"),
        "verdict": found.checks["class"]["verdict"],
        "checks": dict(found.checks),
        "baselines": dict(found.baselines),
    }


def _class(dataset: xr.Dataset, name: str, top: int = 3) -> dict[str, Any]:
    known = effects(dataset, name)
    helps, hurts = known[known["influence"] > 0][:top], known[known["influence"] < 0][: -top - 1 : -1]
    return {"class": name, "helps": helps.to_dict("records"), "hurts": hurts.to_dict("records")}


def effects(dataset: xr.Dataset, target_class: str | None = None) -> pd.DataFrame:
    """Columns group, influence, stderr, qvalue: on a class, or overall, from the most helpful to the most harmful.

    Without groups whose influence or its error cannot be told.
    """
    suffix, where = ("_overall", {}) if target_class is None else ("_class", {"class": target_class})
    columns = [dataset[f"{key}{suffix}"].sel(where).values.astype(float) for key in KEYS]
    order = np.argsort(-columns[0], kind="stable")
    order = order[np.isfinite(np.sum(columns, axis=0)[order])]
    known = {key: column[order] for key, column in zip(KEYS, columns, strict=True)}
    return pd.DataFrame({"group": dataset["group"].values[order], **known})


def as_text(summary: Mapping[str, Any]) -> str:
    """The summary for a terminal: the groups that help and hurt each target class most, and those that hurt overall."""
    shares = summary["output"] in ("prob", "correct")
    scale, unit = (100.0, "points") if shares else (1.0, f"units of {summary['output']}")
    lines = []
    for name, target in summary["targets"].items():
        width = max(12, *(len(row["class"]) for row in target["table"]))
        lines += [
            "",
            f"{name}: influence of the {summary['groups']} groups of {summary['source']}, in {unit} +- standard error,"
            f" from {summary['models']} models ({summary['estimator']})",
            f"  * = significant at {summary['fdr']:.0%} false discovery rate"
            f" ({target['significant_class']} of {target['cells_class']} class-level influences are)",
            "",
            f"  {'class':<{width}} {'helps most':<44} hurts most",
        ]
        for row in target["table"]:
            helps, hurts = (
                "  ".join(f"{_show(effect, scale, summary['fdr']):<20}" for effect in row[side][:2])
                for side in ("helps", "hurts")
            )
            lines.append(f"  {row['class']:<{width}} {helps:<44} {hurts}".rstrip())
        hurting = [effect for effect in reversed(target["overall"]) if effect["influence"] < 0][:5]
        shown = ", ".join(_show(effect, scale, summary["fdr"]) for effect in hurting)
        lines += ["", f"  hurt {name} most overall: {shown or 'none'}"]
        levels = ("class", "example") if target["examples"] > 1 else ("overall",)
        lines += ["", *(f"  {target['checks'][level]['verdict']}" for level in levels)]
        if target["baselines"]:
            lines.append(f"  {baselines.as_text(target['baselines'])}")
        if not any(target[f"significant_{level}"] for level in LEVELS):
            lines.append("  No influence stands out from noise: these models cannot support a claim about any group.")
    for found in summary.get("counterfactuals", ()):
        lines += counterfactuals.as_text(found)
    if summary.get("curation"):
        lines += ["", *(f"  {line}" for line in curation.as_text(summary["curation"], summary["output"]))]
    lines += ["", *summary["notes"]]
    for item in summary["left_out"][:20]:
        lines.append(f"left out: {item['path']}: {item['reason']}")
    if len(summary["left_out"]) > 20:
        lines.append(f"left out: {len(summary['left_out']) - 20} more, all in summary.json")
    return "\n".join(lines).rstrip()


def _show(effect: Mapping[str, Any], scale: float, fdr: float) -> str:
    star = "*" if effect["qvalue"] <= fdr else ""
    digits = 1 if scale > 1 else 3
    return f"{effect['group']} {scale * effect['influence']:+.{digits}f} +- {scale * effect['stderr']:.{digits}f}{star}"
