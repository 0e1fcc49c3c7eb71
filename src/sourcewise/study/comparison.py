"""Studies side by side: how far influences of other estimates agree with those of this one, and where they do not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from sourcewise.core.errors import SourcewiseError
from sourcewise.core.files import write_atomically
from sourcewise.core.identity import dataset_names
from sourcewise.core.results import json_name, to_json
from sourcewise.estimation.agreement import Agreement, Table, agreement, disagreement, shared_agreement
from sourcewise.estimation.arrays import Array
from sourcewise.estimation.collapse import collapse
from sourcewise.estimation.inference import pvalues, qvalues
from sourcewise.estimation.moments import GRAM_GROUPS
from sourcewise.estimation.ridge import RIDGE
from sourcewise.estimation.scoring import LEAST_UNITS
from sourcewise.study.collect import Study
from sourcewise.study.estimates import check_other, estimate_files, read_estimate

LEVELS = ("class", "overall")
"""Levels at which studies are compared; examples may be others."""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A group on which two studies disagree significantly; in units of the output, or of true influences' spread.

    Attributes:
        class_name: None for the influence overall.
        difference: influence here minus there, each relative to its mean over the groups in common.
        qvalue: of the difference, over the classes and groups in common.
    """

    group: str
    class_name: str | None = json_name("class")
    difference: float
    stderr: float
    qvalue: float


@dataclass(frozen=True, kw_only=True)
class StudyAgreement:
    """How far another study agrees at one level.

    Attributes:
        study, target: the other's.
        level: `class`, over all classes in common, or `overall`.
        classes: how many classes are in common.
        same_unit: whether differences are in units of the output; else of the spread of true influences.
        agreement: see there.
        differences: where both disagree significantly, the surest first.
    """

    study: str
    target: str
    level: str
    classes: int
    same_unit: bool
    agreement: Agreement
    differences: tuple[Difference, ...]


@dataclass(frozen=True, kw_only=True)
class StudyComparison:
    """Other studies beside this one, on one target.

    Attributes:
        agreements: of each with this one.
        level: at which `matrix` is: `class` where any two have classes in common, else `overall`.
        studies: names of all, this one first.
        matrix: corrected correlations of any two; NaN where the data cannot tell, or both rest on the same models.
    """

    agreements: tuple[StudyAgreement, ...]
    level: str
    studies: tuple[str, ...]
    matrix: tuple[tuple[float, ...], ...]


def read_studies(places: Sequence[str], study: str) -> dict[str, list[xr.Dataset]]:
    """Return the estimates in each place, which are of other studies.

    Raises SourcewiseError for a place without an estimate, or of this study.
    """
    estimates: dict[str, list[xr.Dataset]] = {}
    for place in places:
        try:
            estimates[place] = [read_estimate(file) for file in estimate_files(place)]
            if not estimates[place]:
                raise SourcewiseError("there is no influences.nc here; name the folder of an estimate (its out)")
            for dataset in estimates[place]:
                check_other(str(dataset.attrs["study"]), study)
        except SourcewiseError as error:
            raise SourcewiseError(f"compare={place}: {error}") from error
    return estimates


def compare(
    influences: xr.Dataset,
    others: Mapping[str, Sequence[xr.Dataset]],
    fdr: float,
    transfers: Sequence[StudyAgreement] = (),
) -> StudyComparison | None:
    """Return other studies beside influences on a target; None without any.

    Of each place, the estimate on the target of the same name counts, or all where none has it. transfers: agreements
    with other transfers to the same target, of the same models.

    Raises SourcewiseError for a study with fewer than two groups in common, or one that is there twice.
    """
    datasets = [influences]
    for place, offered in others.items():
        same = [dataset for dataset in offered if dataset.attrs["target"] == influences.attrs["target"]]
        for dataset in same or offered:
            if len(set(dataset["group"].values) & set(influences["group"].values)) < 2:
                raise SourcewiseError(f"compare={place}: it has no groups in common with this study")
            if any(_key(dataset) == _key(earlier) for earlier in datasets):
                raise SourcewiseError(f"compare={place}: {' on '.join(_key(dataset))} is there twice; leave one out")
            datasets.append(dataset)
    if len(datasets) == 1 and not transfers:
        return None
    agreements = [item for dataset in datasets[1:] for item in _agreements(influences, dataset, fdr)]
    pairs = list(combinations(range(len(datasets)), 2))
    by_class = all(_classes(datasets[a], datasets[b]) for a, b in pairs)
    level, matrix = LEVELS[not by_class], np.full((len(datasets), len(datasets)), np.nan)
    np.fill_diagonal(matrix, 1.0)
    for a, b in pairs:
        if datasets[a].attrs["study"] != datasets[b].attrs["study"]:
            between = agreement(*_tables(datasets[a], datasets[b], level))
            matrix[a, b] = matrix[b, a] = between.corrected if between.is_known else np.nan
    return StudyComparison(
        agreements=(*transfers, *agreements),
        level=level,
        studies=tuple(_label(dataset, influences) for dataset in datasets),
        matrix=tuple(map(tuple, matrix.tolist())),
    )


def compare_transfers(study: Study, target: str, fdr: float) -> list[StudyAgreement]:
    """Return how far influences on a target agree with those after other transfers to the same test examples."""
    tests = {name: study.header.fingerprints.get(dataset_names(name)["test"]) for name in study.targets}
    reference = study.targets[target]
    partners = [name for name, test in tests.items() if name != target and test is not None and test == tests[target]]
    agreements = []
    for partner in partners if study.groups <= GRAM_GROUPS else ():
        alternative = study.targets[partner]
        if reference.class_names != alternative.class_names or not np.array_equal(reference.ids, alternative.ids):
            continue
        present = reference.class_sizes > 0
        names = np.array(reference.class_names)[present].tolist()
        outputs = {
            "class": (reference.class_means[:, present], alternative.class_means[:, present], names),
            "overall": (reference.overall_means[:, None], alternative.overall_means[:, None], [None]),
        }
        for level, (first, second, classes) in outputs.items():
            both = collapse(study.masks, np.hstack([first, second]).astype(np.float64), study.seeds)
            if both.units < 2 * LEAST_UNITS:
                continue
            gap = RIDGE.estimate_subsets(collapse(study.masks, (first - second).astype(np.float64), study.seeds))
            q = qvalues(pvalues(gap.influence, gap.stderr, gap.dof))
            agreements.append(
                StudyAgreement(
                    study=study.header.study,
                    target=partner,
                    level=level,
                    classes=len(classes) if level == "class" else 0,
                    same_unit=True,
                    agreement=shared_agreement(both, first.shape[1], RIDGE),
                    differences=_significant(gap.influence, gap.stderr, q, study.group_names, classes, fdr),
                )
            )
    return agreements


def _significant(
    difference: Array, stderr: Array, q: NDArray[Any], groups: Sequence[str], classes: Sequence[str | None], fdr: float
) -> tuple[Difference, ...]:
    """Return the significant differences in tables float[classes, groups], the surest first."""
    cells = [cell for cell in np.argsort(q, axis=None).tolist() if q.flat[cell] <= fdr]
    return tuple(
        Difference(
            group=groups[cell % len(groups)],
            class_name=classes[cell // len(groups)],
            difference=float(difference.flat[cell]),
            stderr=float(stderr.flat[cell]),
            qvalue=float(q.flat[cell]),
        )
        for cell in cells
    )


def _agreements(first: xr.Dataset, second: xr.Dataset, fdr: float) -> Iterator[StudyAgreement]:
    """Yield how far two estimates agree on the classes in common, if there are any, and overall."""
    same_unit = first.attrs.get("output") == second.attrs.get("output")
    groups = _common(first, second, "group")
    for level in LEVELS:
        classes: list[str | None] = [*_classes(first, second)] if level == "class" else [None]
        if not classes:
            continue
        tables = _tables(first, second, level)
        difference, stderr, q = disagreement(*tables, same_unit=same_unit)
        yield StudyAgreement(
            study=str(second.attrs["study"]),
            target=str(second.attrs["target"]),
            level=level,
            classes=len(classes) if level == "class" else 0,
            same_unit=same_unit,
            agreement=agreement(*tables),
            differences=_significant(difference, stderr, q, groups, classes, fdr),
        )


def _tables(first: xr.Dataset, second: xr.Dataset, level: str) -> tuple[Table, Table]:
    """Return the influences of both on the classes, or overall, and groups that they have in common."""
    where = {"group": _common(first, second, "group")}
    where |= {"class": _classes(first, second)} if level == "class" else {}

    def table(dataset: xr.Dataset) -> Table:
        influence, stderr = (
            np.atleast_2d(dataset[f"{key}_{level}"].sel(where).values.astype(float)) for key in ("influence", "stderr")
        )
        return Table(influence, stderr, int(dataset.attrs["models"]))

    return table(first), table(second)


def _classes(first: xr.Dataset, second: xr.Dataset) -> list[str]:
    """Return the classes in common that have examples in both."""
    known = [
        set(dataset["class"].values[np.isfinite(dataset["influence_class"].values).any(1)].tolist())
        for dataset in (first, second)
    ]
    return [name for name in _common(first, second, "class") if name in known[0] & known[1]]


def _common(first: xr.Dataset, second: xr.Dataset, dim: str) -> list[str]:
    names = set(second[dim].values.tolist())
    return [name for name in first[dim].values.tolist() if name in names]


def _key(dataset: xr.Dataset) -> tuple[str, str]:
    return str(dataset.attrs["study"]), str(dataset.attrs["target"])


def _label(dataset: xr.Dataset, here: xr.Dataset) -> str:
    """Return what a study is called: by its name, and by its target where that is another."""
    study, target = _key(dataset)
    return study if target == here.attrs["target"] else f"{study} on {target}"


def write(folder: Path, comparison: StudyComparison) -> None:
    """Write `compare.csv`, a row for each agreement, and `disagreements.csv`, one for each significant difference."""
    agreements, differences = [], []
    for item in comparison.agreements:
        place = {"study": item.study, "target": item.target, "level": item.level}
        agreements.append(place | vars(item.agreement) | {"disagreements": len(item.differences)})
        differences += [place | to_json(each) for each in item.differences]
    columns = ["study", "target", "level", "group", "class", "difference", "stderr", "qvalue"]
    tables = {"compare": pd.DataFrame(agreements), "disagreements": pd.DataFrame(differences, columns=columns)}
    for name, table in tables.items():
        write_atomically(folder / f"{name}.csv", table.to_csv(index=False, lineterminator="\n").encode())
