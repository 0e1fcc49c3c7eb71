"""From records to influences at example, class and overall level: one `xarray.Dataset` a target, and its checks."""

from __future__ import annotations

import json
import shutil
import tempfile
import weakref
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pyarrow as pa
import xarray as xr
from numpy.typing import NDArray
from pyarrow import parquet
from tqdm import tqdm

from sourcewise.acting.counterfactuals import Trial
from sourcewise.acting.review import Beliefs
from sourcewise.core.errors import SourcewiseError
from sourcewise.designs import recorded_design
from sourcewise.estimation.arrays import Index, row_blocks
from sourcewise.estimation.assessment import Assessment
from sourcewise.estimation.fitting import Fit, fit
from sourcewise.estimation.masks import PackedMasks
from sourcewise.estimation.moments import GRAM_GROUPS
from sourcewise.records.reading import METRIC
from sourcewise.records.record import Header, Record, TargetOutputs
from sourcewise.study import baselines

UNITS = {
    "prob": "probability of the correct class",
    "margin": "logit of the correct class minus logsumexp of the others",
    "correct": "share of models that are right",
}
NONE_DRAWN = (
    "no record has a randomly drawn subset, which influences need;"
    " train some: python train.py -m 'subset.seed=range(0,96)'"
)
SIGN = "positive = keeping the group helps"

SAID = (
    "estimator", "lds", "lds_interval", "noise_ceiling", "split_half", "more_models", "candidates", "verdict"
)  # fmt: skip
"""Attributes of a fit that results tell."""

LEVELS = {"example": "", "class": "_class", "overall": "_overall"}
"""Levels and the suffix of their variables."""

SMALL = 2**25
"""Up to this many outputs and influences, float64 costs nothing that anybody would notice; beyond, float32 and disk."""

SHOWN = 2000
"""Groups that a page lists at most."""

Array = NDArray[np.floating[Any]]


class Spool:
    """Rows of one length and dtype, one a record, on disk: memory does not grow with the number of records."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile(prefix="sourcewise-")  # noqa: SIM115  # lives as long as the array
        weakref.finalize(self, self._file.close)
        self._dtype: np.dtype[Any] = np.dtype(np.float16)
        self.shape = (0, 0)

    def __len__(self) -> int:
        return self.shape[0]

    def append(self, row: NDArray[Any]) -> None:
        """Append one record's row."""
        self._dtype = row.dtype
        self._file.write(row.tobytes())
        self.shape = (len(self) + 1, len(row))

    def array(self) -> NDArray[Any]:
        """All rows `[records, columns]`, mapped from the file."""
        self._file.flush()
        return np.memmap(self._file, dtype=self._dtype, mode="r", shape=self.shape)


@dataclass
class Target:
    """Outputs and levels (`level_of`) on one target of every example, and mean outputs by class and overall (last)."""

    ids: NDArray[np.int32]
    labels: NDArray[np.int32]
    class_names: list[str]
    examples: Spool = field(default_factory=Spool)
    levels: Spool = field(default_factory=Spool)
    means: list[NDArray[np.float64]] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)

    @property
    def sizes(self) -> Index:
        """int[classes], how many examples each class has."""
        return np.bincount(self.labels, minlength=len(self.class_names))

    def add(self, outputs: TargetOutputs, output: str) -> None:
        """One more record."""
        values = outputs_of(outputs, output)
        self.examples.append(values)
        self.levels.append(level_of(outputs, output))
        wide = values.astype(np.float64)
        totals = np.bincount(self.labels, wide, len(self.class_names))
        self.means.append(np.append(totals / np.maximum(self.sizes, 1), wide.mean()))
        right = values if output.startswith(METRIC) else outputs.prediction == outputs.labels
        self.scores.append(float(right.mean()))


@dataclass
class Study:
    """What one pass over the records of a study leaves.

    header: that of the first record. groups: how many the source has. designs: records by design;
    not_random: those among them whose subset was chosen. masks (as bits) and
    seeds: of the records that influences rest on, in the order of every target's outputs. full: the outputs of a run
    that kept all groups, with its baselines. trials: the other records, of chosen subsets. without: of those that keep
    all groups but one (-1: all groups), by target and that group, each run's outputs, whether they are right, and
    levels (`level_of`), as arrays [3, examples]; nothing where groups are examples. beliefs: what models say of the
    source, where they are.
    """

    header: Header
    output: str
    groups: int
    designs: Counter[str] = field(default_factory=Counter)
    not_random: Counter[str] = field(default_factory=Counter)
    seconds: Counter[str] = field(default_factory=Counter)
    masks: Spool = field(default_factory=Spool)
    seeds: list[str] = field(default_factory=list)
    targets: dict[str, Target] = field(default_factory=dict)
    full: Mapping[str, TargetOutputs] = field(default_factory=dict)
    trials: list[Trial] = field(default_factory=list)
    without: dict[str, dict[int, list[NDArray[np.float16]]]] = field(default_factory=dict)
    beliefs: Beliefs | None = None

    @property
    def models(self) -> int:
        """How many records the influences rest on."""
        return len(self.masks)

    def packed(self) -> PackedMasks:
        """The masks."""
        return PackedMasks(self.masks.array(), self.groups)

    @property
    def names(self) -> list[str]:
        """Names of the groups; their numbers, where groups are examples."""
        return self.header.group_names or [str(i) for i in range(self.groups)]


@dataclass(frozen=True)
class Estimated:
    """Influences on one target; by level what checks say of them, as `describe` has it; what one model would say.

    slopes: float[groups], what the fit predicts overall outputs with. assessments: by level, as fits have them.
    """

    dataset: xr.Dataset
    slopes: NDArray[np.float64]
    checks: Mapping[str, Mapping[str, Any]]
    assessments: Mapping[str, Assessment]
    baselines: Mapping[str, Mapping[str, Any]]


def collect(records: Iterable[Record], output: str = "prob") -> Study:
    """One pass over records, in memory that does not grow with records times examples.

    Only randomly drawn subsets count towards influences: those chosen by hand or by a ranking would bias them. With an
    output `metric:<name>`, records are those of `Records.giving`. Raises SourcewiseError for an unknown output, or
    when no record has a random subset.
    """
    if output not in UNITS and not output.startswith(METRIC):
        raise SourcewiseError(f"outputs={output}: choose one of {', '.join(UNITS)}, or metric:<name of a scalar>")
    study: Study | None = None
    for item in records:
        study = study or Study(item.header, output, len(item.mask))
        study.designs[item.header.design] += 1
        study.not_random[item.header.design] += not item.header.is_random
        study.seconds.update(dict(item.header.seconds))
        if item.mask.all():
            study.full = study.full or item.targets
        if item.header.is_random:
            study.masks.append(np.packbits(item.mask))
            study.seeds.append(f"{item.header.seed}{_of_subset(item, recorded_design(item.header.design).replica)}")
            for name, outputs in item.targets.items():
                if name not in study.targets:
                    names = list(item.header.class_names[name])
                    study.targets[name] = Target(outputs.ids, outputs.labels, names)
                study.targets[name].add(outputs, output)
            examples_are_groups = item.header.group_names is None
            if item.source is not None and examples_are_groups and len(item.source.labels) == len(item.mask):
                study.beliefs = study.beliefs or Beliefs(len(item.mask))
                study.beliefs.add(item.mask, item.source)
        elif output in UNITS:
            study.trials.append(_trial(item, output))
            dropped = [*np.flatnonzero(~item.mask).tolist(), -1]
            for name, outputs in item.targets.items() if len(dropped) <= 2 and item.header.group_names else ():
                right = outputs.prediction == outputs.labels
                rows = np.array([outputs_of(outputs, output), right, level_of(outputs, output)], np.float16)
                study.without.setdefault(name, {}).setdefault(dropped[0], []).append(rows)
    if study is None or not study.models:
        raise SourcewiseError(NONE_DRAWN)
    return study


def further_trials(records: Iterable[Record], study: Study) -> list[Trial]:
    """Models of chosen subsets from another place that are not in the study; their recipe may be another.

    Raises SourcewiseError when their source has other groups.
    """
    known = {(trial.mask.tobytes(), trial.seed) for trial in study.trials if not trial.study}
    found = []
    for item in records:
        if item.header.group_names != study.header.group_names or len(item.mask) != study.groups:
            raise SourcewiseError(
                f"counterfactuals: the {len(item.mask)} groups of {item.header.run} in {item.header.study} are not the"
                f" {study.groups} groups of {study.header.study}"
            )
        other = "" if item.header.study == study.header.study else item.header.study
        there = not other and (item.mask.tobytes(), str(item.header.seed)) in known
        if not item.header.is_random and not there:
            found.append(_trial(item, study.output, other))
    return found


def estimate(study: Study, estimator: str = "auto", targets: Sequence[str] | None = None) -> dict[str, Estimated]:
    """Influences of the targets (None: of all), laid out as docs/architecture.md says, with their checks.

    Raises SourcewiseError for an unknown estimator, fewer than two models, or outputs that are all the same.
    """
    names = targets or list(study.targets)
    with tqdm(total=len(LEVELS) * len(names), unit="fit", leave=False, disable=None) as bar:
        return {name: _estimated(study, name, study.targets[name], estimator, bar) for name in names}


def describe(found: Fit) -> dict[str, Any]:
    """What is to be said of a fit, as JSON."""
    return plain({key: getattr(found, key) for key in SAID})


def plain(said: Mapping[str, Any]) -> dict[str, Any]:
    """As JSON has it; numbers that cannot be told are null.

    >>> plain({"known": 1.5, "unknown": float("nan")})
    {'known': 1.5, 'unknown': None}
    """
    return dict(json.loads(json.dumps(said), parse_constant=lambda _: None))


def shown(dataset: xr.Dataset, names: Collection[str] = ()) -> xr.Dataset:
    """The influences of as many groups as a page can list: those that help and that hurt most overall, and `names`."""
    if dataset.sizes["group"] <= SHOWN:
        return dataset
    order = np.argsort(np.nan_to_num(dataset["influence_overall"].values), kind="stable")
    named = np.flatnonzero(np.isin(dataset["group"].values, list(names)))
    return dataset.isel(group=np.unique(np.concatenate([order[: SHOWN // 2], order[-SHOWN // 2 :], named])))


def write(influences: Mapping[str, xr.Dataset], out: Path, top: int = 10) -> None:
    """`<out>/<target>/influences.nc` and `top.parquet` for every target, each written whole or not at all.

    top.parquet: for every example the `top` most helpful and most harmful groups, with errors and q-values.
    """
    for name, dataset in influences.items():
        folder = out / name
        folder.mkdir(parents=True, exist_ok=True)
        size, free = 4 * sum(table.size for table in dataset.values()), shutil.disk_usage(folder).free
        if size > free:  # HDF5 does not survive a full disk
            raise SourcewiseError(f"{folder}: influences of up to {size:,} bytes, and the disk has {free:,} left")
        part = folder / ".influences.nc.tmp"
        compressed = {str(key): {"zlib": True, "complevel": 4, "dtype": "float32"} for key in dataset.data_vars}
        dataset.to_netcdf(part, engine="h5netcdf", encoding=compressed)
        part.replace(folder / "influences.nc")
        part = folder / ".top.parquet.tmp"
        blocks = row_blocks(dataset["influence"].shape)
        parquet.write_table(pa.concat_tables(_top(dataset.isel(example=rows), top) for rows in blocks), part)
        part.replace(folder / "top.parquet")


def outputs_of(outputs: TargetOutputs, output: str) -> Array:
    """The chosen output of every example, `float[examples]`."""
    if output == "correct":
        right: NDArray[np.float16] = (outputs.prediction == outputs.labels).astype(np.float16)
        return right
    return outputs.margin if output == "margin" else outputs.prob


def level_of(outputs: TargetOutputs, output: str) -> Array:
    """The output of every example where what groups do adds up best: logits of probabilities, others as they are."""
    return outputs.margin if output == "prob" else outputs_of(outputs, output)


def _trial(item: Record, output: str, study: str = "") -> Trial:
    """A model of a chosen subset."""
    header, metrics = item.header, item.header.metrics
    right = {name: float((o.prediction == o.labels).mean()) for name, o in item.targets.items()}
    return Trial(
        study=study,
        curve=_of_subset(item, recorded_design(header.design).curve),
        mask=item.mask,
        seed=str(header.seed),
        scores={name: metrics.get(f"target/{name}/score", right[name]) for name in item.targets},
        outputs={name: float(outputs_of(o, output).mean(dtype=np.float64)) for name, o in item.targets.items()},
    )


def _of_subset(item: Record, tell: Callable[[Mapping[str, Any]], str]) -> str:
    try:
        return tell(item.header.config["subset"])
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise SourcewiseError(
            f"{item.header.run}: its settings of subset are not those of a run ({error!r})"
        ) from error


def _estimated(study: Study, name: str, target: Target, estimator: str, bar: tqdm[NoReturn]) -> Estimated:
    masks, seeds = study.packed(), np.array(study.seeds)
    examples, means = target.examples.array(), np.array(target.means)
    if examples.shape[1] * max(len(masks), study.groups) <= SMALL:
        examples = examples.astype(np.float64)
    filled = target.sizes > 0
    outputs = {"example": examples, "class": means[:, :-1][:, filled], "overall": means[:, -1:]}
    units = UNITS.get(study.output, study.output)
    variables: dict[str, Any] = {}
    checks: dict[str, dict[str, Any]] = {}
    assessments: dict[str, Assessment] = {}
    for level, suffix in LEVELS.items():
        bar.set_description(f"{name}, {level}")
        found = fit(masks, outputs[level], estimator, seeds, level=level)
        bar.update()
        checks[level], assessments[level] = describe(found), found.assessment
        if level != "overall" and study.groups <= GRAM_GROUPS:
            checks[level]["curve"] = [[point.models, point.lds, point.split_half] for point in found.curve()]
        for variable in ("influence", "stderr", "qvalue"):
            table = getattr(found, variable)
            if level == "class" and not filled.all():
                table = np.full((len(filled), study.groups), np.nan)
                table[filled] = getattr(found, variable)
            dims, values = (("group",), table[0]) if level == "overall" else ((level, "group"), table)
            unit = {"long_name": "Benjamini-Hochberg q-value"} if variable == "qvalue" else {"units": units}
            variables[variable + suffix] = dims, values, unit
    interval = {"units": units, "long_name": "half of the 95% interval (Student's t)"}
    variables["interval_overall"] = ("group",), (found.interval()[1] - found.influence)[0], interval  # the last level's
    coordinates: dict[str, Any] = {
        "example": target.ids,
        "label": ("example", target.labels),
        "class": target.class_names,
        "group": study.names,
    }
    attributes = {
        "output": study.output,
        "units": units,
        "sign": SIGN,
        "models": study.models,
        "target": name,
        "study": study.header.study,
        "recipe": study.header.recipe,
    }
    for level, suffix in LEVELS.items():
        told = {key: checks[level][key] for key in ("estimator", "lds", "noise_ceiling", "split_half")}
        attributes |= {f"{key}{suffix}": value for key, value in told.items() if value is not None}
    dataset = xr.Dataset(variables, coordinates, attributes)
    kept = masks.unpack() if study.groups <= GRAM_GROUPS else None
    alone = baselines.compare(study.full[name], dataset, kept, means[:, :-1]) if name in study.full else {}
    return Estimated(dataset, found.estimate.slopes[0], checks, assessments, alone)  # slopes of the last level


def _top(dataset: xr.Dataset, top: int) -> pa.Table:
    """For every example the `top` groups of either sign that matter most, as a table."""
    influence = dataset["influence"].values
    order = np.argsort(np.where(np.isnan(influence), 0, -influence), axis=1, kind="stable")
    count = min(top, influence.shape[1])
    columns = np.concatenate([order[:, :count], order[:, ::-1][:, :count]], axis=1)
    rows = np.repeat(np.arange(len(influence)), columns.shape[1])
    rank = np.tile(np.concatenate([np.arange(1, count + 1), -np.arange(1, count + 1)]), len(influence))
    at = (rows, columns.ravel())
    keep = np.sign(influence[at]) == np.sign(rank)  # the most harmful groups are those that harm
    groups = dataset["group"].values.astype(str)
    return pa.table(
        {
            "example": dataset["example"].values[rows][keep],
            "label": dataset["label"].values[rows][keep],
            "rank": rank[keep],
            "group": groups[at[1]][keep],
            **{name: dataset[name].values[at][keep] for name in ("influence", "stderr", "qvalue")},
        }
    )
