"""The summary of an estimate: all that summary.json, the report and the terminal say in words and small tables."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from sourcewise.acting.brittle import BrittleExamples, find_brittle
from sourcewise.acting.counterfactuals import Comparison
from sourcewise.acting.curation import Curation
from sourcewise.acting.harm import harmful_groups
from sourcewise.acting.review import ReviewRow
from sourcewise.acting.search.account import SearchAccount
from sourcewise.acting.subpopulations import Subpopulations, find_subpopulations
from sourcewise.core.results import json_name
from sourcewise.study.baselines import Baseline
from sourcewise.study.collect import Header, LeftOut, Study
from sourcewise.study.comparison import StudyComparison
from sourcewise.study.effects import ALL_KEYS, GroupEffect, count_significant, group_effects
from sourcewise.study.influences import SIGN, Checks, Estimated
from sourcewise.study.levels import LEVELS
from sourcewise.study.outputs import ACCURACY, UNITS
from sourcewise.study.pilot import Pilot, run_pilot
from sourcewise.study.priors import Prior, Priors, PriorScore, score_priors
from sourcewise.study.recipes import train_command
from sourcewise.study.writing import LISTED_GROUPS, listed_groups

USERS_DATA = ("imagefolder", "table", "huggingface")
"""Names of sources and targets that stand for any data of the user's."""
RELATIVE = (
    "All subsets have one size, so influences are relative to the average group:"
    " a constant added to all of them cannot be seen."
)

GROWTH = 3
"""Models to train next at most, as a multiple of those of now: a forecast from few models is rough."""


@dataclass(frozen=True, kw_only=True)
class ClassEffects:
    """The groups that help a target class most, and those that hurt it most."""

    class_name: str = json_name("class")
    helps: tuple[GroupEffect, ...]
    hurts: tuple[GroupEffect, ...]


@dataclass(frozen=True, kw_only=True)
class TargetSummary:
    """Results on one target.

    `examples`, `classes` and `unknown` are numbers: unknown are groups that every model kept, or every model lacked. Of
    the influences at a level, `cells` are known, and `significant` have a q-value up to the false discovery rate.

    Attributes:
        title: how the report calls the target, see `titles`.
        score: what scores models, as in `StudyTarget`.
        metric_mean: mean score of the models.
        metric_std: its standard deviation over models; None with one model.
        table: by class.
        overall: overall effects, from the most helpful group to the most harmful.
        verdict: how far influences at class level can be trusted.
        checks, baselines: as in `Estimated`.
        priors: what else is known of the groups, and how well it predicts these models, by name.
        pilot: which proxy brings most at equal cost; None where there is nothing to compare.
        subpopulations, brittle: None where examples cannot be examined.
        unexamined: whether that is because outputs or influences are too many.
        compared: influences of other studies beside these, if they were asked for.
        harmful: groups that really hurt overall, where all subsets have one size: by models of the full source, which
            show what influences relative to the average group cannot. None without such models, and for other subsets.
    """

    examples: int
    classes: int
    unknown: int
    metric_mean: float
    metric_std: float | None
    significant_example: int
    cells_example: int
    significant_class: int
    cells_class: int
    significant_overall: int
    cells_overall: int
    table: tuple[ClassEffects, ...]
    overall: tuple[GroupEffect, ...]
    verdict: str
    checks: Mapping[str, Checks]
    baselines: Mapping[str, Baseline]
    subpopulations: Subpopulations | None = None
    brittle: BrittleExamples | None = None
    unexamined: bool = False
    title: str = ""
    harmful: tuple[str, ...] | None = None
    priors: Mapping[str, PriorScore] = field(default_factory=dict)
    pilot: Pilot | None = None
    score: str = ACCURACY
    compared: StudyComparison | None = None

    @property
    def is_significant(self) -> bool:
        """Whether any influence is significant, at any level."""
        return self.significant_example + self.significant_class + self.significant_overall > 0

    @property
    def groups_to_show(self) -> set[str]:
        """Groups that set subpopulations apart, whose influences on examples the page needs."""
        splits = self.subpopulations.splits if self.subpopulations else ()
        return {part.group for split in splits for part in split.parts}


@dataclass(frozen=True, kw_only=True)
class MoreModels:
    """The models to train next.

    count: how many. asked: how many the verdict asks for, on the target that needs the most; None if it cannot tell.
    command: that trains them, besides those that are complete.
    """

    count: int
    asked: int | None
    command: str


@dataclass(frozen=True, kw_only=True)
class Summary:
    """Results on all targets, and where they come from.

    What is not explained here is as in `Study` and `Header`: recipe, config, versions and commit are those of the first
    record.

    Attributes:
        source: how the report calls the source, see `titles`.
        sign: what a positive influence means.
        estimator: the one at class level, of the first target.
        fdr: false discovery rate.
        seconds: mean wall time of a run, by stage.
        elapsed: seconds in which at least one run was training; None if records do not hold their times.
        notes: what a reader has to know of these records.
        counterfactuals: models of chosen subsets, by study and target.
        review: source examples to review.
        curation: proposal of groups to remove, if it was asked for.
        search: what a search for a better source did, if there was one.
        sweeps: the commands that train such models.
        more_models: None where the verdict asks for no more, or no design of ours drew the subsets.
    """

    study: str
    source: str
    models: int
    groups: int
    designs: Mapping[str, int]
    output: str
    sign: str
    estimator: str
    fdr: float
    left_out: Sequence[LeftOut]
    command: str
    recipe: str
    config: Mapping[str, Any]
    versions: Mapping[str, str]
    commit: str | None
    seconds: Mapping[str, float]
    notes: Sequence[str]
    targets: Mapping[str, TargetSummary]
    counterfactuals: Sequence[Comparison]
    review: Sequence[ReviewRow]
    curation: Curation | None = None
    search: SearchAccount | None = None
    sweeps: Sequence[str] = ()
    elapsed: float | None = None
    more_models: MoreModels | None = None

    def title_of(self, target: str) -> str:
        """Return how texts call a target, which may be one of another study."""
        return self.targets[target].title or target if target in self.targets else target


def summarise(
    study: Study,
    estimated: Mapping[str, Estimated],
    left_out: Sequence[LeftOut],
    fdr: float,
    looks: int = 1,
    counterfactuals: Sequence[Comparison] = (),
    review: Sequence[ReviewRow] = (),
    curation: Curation | None = None,
    search: SearchAccount | None = None,
    priors: Priors | None = None,
    compared: Mapping[str, StudyComparison | None] | None = None,
) -> Summary:
    """Summarise influences and what analyses make of them.

    priors: those that the estimate took. compared: other studies beside these influences, by target.
    fdr: false discovery rate, over `looks` looks at a growing study together.
    """
    header, records, first = study.header, sum(study.designs.values()), next(iter(estimated.values()))
    titles = dataset_titles(header)
    return Summary(
        study=header.study,
        source=titles[""],
        models=study.models,
        groups=study.groups,
        designs=study.designs,
        output=study.output,
        sign=SIGN,
        estimator=first.checks["class"].estimator,
        fdr=fdr,
        left_out=left_out,
        command=shlex.join(["python"] * sys.argv[0].endswith(".py") + sys.argv),
        recipe=header.recipe,
        config=header.config,
        versions=header.versions,
        commit=header.commit,
        seconds={stage: total / records for stage, total in study.seconds.items()},
        notes=_notes(study, looks),
        targets={
            name: _summarise_target(
                study,
                name,
                item,
                fdr,
                looks,
                titles[name],
                priors=(priors or {}).get(name, {}),
                compared=(compared or {}).get(name),
            )
            for name, item in estimated.items()
        },
        counterfactuals=counterfactuals,
        review=review,
        curation=curation,
        search=search,
        elapsed=study.elapsed,
        sweeps=[train_command(header, *overrides) for overrides in study.sweeps.overrides()],
        more_models=_more_models(study, [item.checks for item in estimated.values()]),
    )


def _more_models(study: Study, checks: Sequence[Mapping[str, Checks]]) -> MoreModels | None:
    """Return what the verdict asks for, at most GROWTH times the models of now; as many again if it cannot tell."""
    level = "class" if study.output in UNITS else "overall"
    forecasts = [of_target[level].more_models for of_target in checks]
    known = [forecast for forecast in forecasts if forecast is not None]
    asked = max(known) if len(known) == len(forecasts) else None
    count = study.models if asked is None else min(asked, GROWTH * study.models)
    overrides = study.sweeps.longer(count) if count else []
    return MoreModels(count=count, asked=asked, command=train_command(study.header, *overrides)) if overrides else None


def _notes(study: Study, looks: int) -> list[str]:
    notes = []
    if looks > 1:
        notes.append(f"The false discovery rate holds over {looks} looks together: q-values are multiplied by {looks}.")
    if study.stretches > looks:
        notes.append(
            f"The models were trained in {study.stretches} stretches of time. Whoever estimates after each, and stops"
            " at the first star, finds false ones more often than one look does: in up to 28% of studies without any"
            f" effect by eight looks. looks={study.stretches} gives q-values that hold over so many."
        )
    if len(np.unique(study.masks.sizes())) == 1:
        notes.append(RELATIVE)
    if study.chosen_designs:
        listed = ", ".join(f"{count} {design}" for design, count in study.chosen_designs.items())
        notes.append(f"Records whose subset was not drawn at random do not enter the influences: {listed}.")
    notes += study.limits
    if study.groups > LISTED_GROUPS:
        half = LISTED_GROUPS // 2
        notes.append(
            f"Of {study.groups:,} groups, the {half:,} that help and the {half:,} that hurt most overall"
            " are listed; influences.nc has all."
        )
    return notes


def dataset_titles(header: Header) -> dict[str, str]:
    """Return how a report calls the datasets of a study: the targets by name, and the source under "".

    Data of the user's own are called by their folder, if that distinguishes them; all others by their name.
    """
    source, targets = header.config["source"], header.config.get("target")
    names = {"": str(source["name"]), **{name: name for name in header.class_names}}
    sections = {**(targets if isinstance(targets, Mapping) else {}), "": source}
    folders = {
        key: Path(str(section["root"])).name
        for key, section in sections.items()
        if names.get(key) in USERS_DATA and isinstance(section, Mapping) and section.get("root")
    }
    return {
        key: folders[key] if [*folders.values()].count(folders.get(key, "")) == 1 else name
        for key, name in names.items()
    }


def _summarise_target(
    study: Study,
    name: str,
    estimated: Estimated,
    fdr: float,
    looks: int,
    title: str,
    *,
    priors: Mapping[str, Prior],
    compared: StudyComparison | None,
) -> TargetSummary:
    dataset, scores = estimated.dataset, study.targets[name].scores
    counts: dict[str, int] = {}
    for level, suffix in LEVELS.items():
        counts[f"significant_{level}"], counts[f"cells_{level}"] = count_significant(dataset, suffix, fdr)
    tables = {key: prior.values for key, prior in priors.items()}
    scored = score_priors(study, name, priors)
    large = study.has_examples(name) and study.is_large(name)
    examined = study.has_examples(name) and not large
    return TargetSummary(
        examples=dataset.sizes["example"],
        classes=dataset.sizes["class"],
        unknown=int(np.isnan(dataset["influence_overall"].values).sum()),
        score=study.targets[name].score,
        metric_mean=float(np.mean(scores)),
        metric_std=float(np.std(scores, ddof=1)) if len(scores) > 1 else None,
        **counts,
        table=tuple(_class_effects(dataset, str(class_name)) for class_name in dataset["class"].values),
        overall=group_effects(listed_groups(dataset[[f"{key}_overall" for key in ALL_KEYS]])),
        verdict=estimated.checks["class"].verdict,
        checks=estimated.checks,
        baselines=estimated.baselines,
        subpopulations=find_subpopulations(study, name, estimated, fdr / looks) if examined else None,
        brittle=find_brittle(study, name, dataset, tables) if examined else None,
        unexamined=large,
        title=title,
        compared=compared,
        harmful=harmful_groups(study, name, dataset, fdr / looks),
        priors=scored,
        pilot=run_pilot(study, name, priors, scored),
    )


def _class_effects(dataset: xr.Dataset, class_name: str, top: int = 3) -> ClassEffects:
    effects = group_effects(dataset, class_name)
    helps = [effect for effect in effects if (effect.posterior or 0) > 0]
    hurts = [effect for effect in effects if (effect.posterior or 0) < 0]
    return ClassEffects(class_name=class_name, helps=tuple(helps[:top]), hurts=tuple(hurts[: -top - 1 : -1]))
