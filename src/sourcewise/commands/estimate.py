"""Estimate influences from the records of a study.

python estimate.py records=runs/<study> out=outputs/<name>
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import hydra
from annotated_types import Interval, MultipleOf
from omegaconf import DictConfig
from pydantic import PositiveInt

from sourcewise.commands.cli import CONFIGS, answer_version, resolve
from sourcewise.core import exits, settings
from sourcewise.core.errors import SourcewiseError

if TYPE_CHECKING:
    from sourcewise.acting.search.account import SearchAccount
    from sourcewise.records.reading import Reading
    from sourcewise.report.summary import Summary
    from sourcewise.study.collect import Study


@dataclass(frozen=True)
class Settings:
    """What conf/estimate.yaml holds."""

    records: str | Sequence[str] | Mapping[str, str]
    filters: Mapping[str, Any]
    refresh: bool
    out: str
    outputs: str
    estimator: str | Sequence[str]
    priors: str | Sequence[str] | None
    fdr: Annotated[float, Interval(gt=0, lt=1)]
    looks: PositiveInt
    top: PositiveInt
    compare: str | Sequence[str] | None
    counterfactuals: str | Sequence[str] | None
    choose: Annotated[float, Interval(gt=0, le=1), MultipleOf(0.125)]
    curate: bool | Mapping[str, float] | None
    remove: PositiveInt | None
    search: str | None
    images: Literal["auto"] | Mapping[str, Any] | None
    sections: Sequence[str] | None
    figures: Literal["pdf", "svg", "png"] | None
    bank: str | None
    wandb_report: bool
    logger: Mapping[str, Any]
    runs_dir: str


def estimate(config: dict[str, Any]) -> "Summary":
    """Do all from records to results on disk and in W&B, and print the summary; return it.

    Raises SourcewiseError for bad settings, and for records that have no results.
    """
    from hydra.utils import instantiate

    from sourcewise.acting.curation import curate
    from sourcewise.commands import results, tracked_results
    from sourcewise.commands.analysis import analyse
    from sourcewise.commands.banks import check_bank, write_bank
    from sourcewise.commands.images import find_images, with_paths
    from sourcewise.core.files import check_place
    from sourcewise.records.places import as_list
    from sourcewise.records.reading import Records
    from sourcewise.report import contents
    from sourcewise.study import comparison, influences, priors, rankings
    from sourcewise.study.recipes import train_command

    out, fdr = Path(config["out"]), config["fdr"]
    contents.check_sections(config["sections"])
    search = _search(config["search"], out)
    check_bank(config["bank"], config["records"])
    check_place(out)
    tracker = instantiate(config["logger"])
    if config["wandb_report"]:
        tracker.check_report()
    records, study = read_study(config)
    images = find_images(config["images"], study.header)
    study = with_paths(study, images)
    known = priors.find_priors(study, config["priors"], config["refresh"])
    tables = priors.values(known)
    others = comparison.read_studies(as_list(config["compare"]), study.header.study)
    try:
        estimated = influences.estimate(study, config["estimator"], looks=config["looks"], priors=tables)
    except SourcewiseError as error:  # such as too few records
        raise SourcewiseError(f"{error}{records.unused}") from error
    datasets = {name: item.dataset for name, item in estimated.items()}
    choosing = rankings.choosing_tables(study) if config["priors"] is not None else {}
    for name, dataset in datasets.items():
        if (scores := rankings.ranking(study, name, choosing)) is not None:
            dataset["ranking"] = "group", scores, {"long_name": "expected effect on the examples that choices look at"}
    curation = curate(study, config["curate"], out, config["remove"], choosing) if config["curate"] else None
    summary = analyse(
        study,
        estimated,
        records.left_out,
        fdr,
        config["looks"],
        priors=known,
        others=others,
        images=images,
        search=search,
        curation=curation,
    )
    reports = contents.build(datasets, summary, partial(train_command, study.header), out, config["sections"], images)
    ranked = {name: rankings.mapping_rankings(study, name, choosing) for name in datasets}
    results.write(out, datasets, summary, records.used, reports, config["top"], config["figures"], ranked)
    if config["bank"]:
        again = Records(config["records"], config["filters"], refresh=False)
        write_bank(Path(config["bank"]), again, records.used, study)
    tracked_results.track(tracker, config, study, summary, records.used, reports)
    print(f"{contents.as_text(reports)}\n\n{out / 'report.html'}")
    return summary


def _search(setting: str | None, out: Path) -> "SearchAccount | None":
    """Return the account that the setting `search` names; `auto`: the one in the folder of the results, if any."""
    from sourcewise.acting.search import account

    path = out / account.FOLDER / account.FILE if setting == "auto" else setting and Path(setting)
    return account.read(path) if path and (path.is_file() or setting != "auto") else None


def read_study(config: dict[str, Any]) -> tuple["Reading", "Study"]:
    """Return the records of the study, with an account of those left out, and their content as arrays.

    The counterfactual runs of further places are part of the study.
    """
    from sourcewise.core.splits import Split
    from sourcewise.records.places import as_list
    from sourcewise.records.reading import Records
    from sourcewise.study.collect import collect, join_counterfactuals

    records = Records(config["records"], config["filters"], config["refresh"]).with_output(config["outputs"])
    study = collect(records, config["outputs"], Split(config["choose"]))
    for place in as_list(config["counterfactuals"] or ()):
        study = join_counterfactuals(study, Records(place, {}, config["refresh"]))
    return records, study


@hydra.main(version_base="1.3", config_path=CONFIGS, config_name="estimate")
def _main(config: DictConfig) -> None:
    """Estimate once, by a composed config."""
    with exits.errors():
        resolved = resolve(config, Settings)
        settings.check_config(resolved["logger"], "logger")
        estimate(resolved)


def main() -> None:
    """Run the command: `python estimate.py`, `sourcewise-estimate`."""
    with exits.errors():
        answer_version()
        _main()
