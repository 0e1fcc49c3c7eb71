"""From records to influences: one `xarray.Dataset` a target, at example, class and overall level."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from sourcewise import inference
from sourcewise.errors import SourcewiseError
from sourcewise.estimators import ESTIMATORS
from sourcewise.moments import Moments, Stream
from sourcewise.record import Header, Record, TargetOutputs
from sourcewise.subsets import RANDOM_DESIGNS

UNITS = {
    "prob": "probability of the correct class",
    "margin": "logit of the correct class minus logsumexp of the others",
    "correct": "share of models that are right",
}
SIGN = "positive = keeping the group helps"

SMALL = 2**22
"""Up to this many influences, float64 costs nothing that anybody would notice; beyond, float32 halves the time."""

LEVELS = {"": "example", "_class": "class", "_overall": None}
"""Suffix of the variables of each level, and its dimension beside `group`."""


@dataclass
class Study:
    """What was learnt from the records of a study: moments of outputs by target, and the means of outputs and scores.

    header: that of the first record. designs: records by design. scores: accuracy by target, one per model.
    """

    header: Header
    groups: int
    output: str
    designs: Counter[str] = field(default_factory=Counter)
    seconds: Counter[str] = field(default_factory=Counter)
    scores: dict[str, list[float]] = field(default_factory=dict)
    targets: dict[str, "_Target"] = field(default_factory=dict)

    @property
    def models(self) -> int:
        """How many records the influences rest on."""
        return sum(count for design, count in self.designs.items() if design in RANDOM_DESIGNS)


@dataclass
class _Target:
    """Streams of one target: of its examples, and of its class means followed by the overall mean."""

    ids: NDArray[np.int32]
    labels: NDArray[np.int32]
    class_names: list[str]
    examples: Stream
    means: Stream
    average: NDArray[np.float64]


def collect(records: Iterable[Record], output: str = "prob") -> Study:
    """One pass over records, in memory of groups x examples whatever their number.

    Only randomly drawn subsets count towards influences: those chosen by hand or by a ranking would bias them.
    Raises SourcewiseError for an unknown output, or when no record has a random subset.
    """
    if output not in UNITS:
        raise SourcewiseError(f"output={output}: choose one of {', '.join(UNITS)}")
    study: Study | None = None
    for item in records:
        if study is None:
            study = Study(item.header, len(item.mask), output)
        study.designs[item.header.design] += 1
        study.seconds.update(dict(item.header.seconds))
        if item.header.design in RANDOM_DESIGNS:
            for name, outputs in item.targets.items():
                _add(study, name, item, outputs)
    if study is None or not study.models:
        raise SourcewiseError(
            "no record has a randomly drawn subset, which influences need;"
            " train some: python train.py -m 'subset.seed=range(0,96)'"
        )
    return study


def estimate(study: Study, estimator: str = "difference") -> dict[str, xr.Dataset]:
    """Influences of every target, laid out as docs/architecture.md says. Raises SourcewiseError, unknown estimator."""
    if estimator not in ESTIMATORS:
        raise SourcewiseError(f"estimator={estimator}: choose one of {', '.join(ESTIMATORS)}")
    return {name: _dataset(study, name, target, estimator) for name, target in study.targets.items()}


def write(influences: Mapping[str, xr.Dataset], out: Path) -> None:
    """`<out>/<target>/influences.nc` for every target, each written whole or not at all."""
    for name, dataset in influences.items():
        folder = out / name
        folder.mkdir(parents=True, exist_ok=True)
        part = folder / ".influences.nc.tmp"
        compressed = {str(key): {"zlib": True, "complevel": 4, "dtype": "float32"} for key in dataset.data_vars}
        dataset.to_netcdf(part, engine="h5netcdf", encoding=compressed)
        part.replace(folder / "influences.nc")


def outputs_of(outputs: TargetOutputs, output: str) -> NDArray[Any]:
    """The chosen output of every example, `float[examples]`."""
    if output == "correct":
        return (outputs.prediction == outputs.labels).astype(np.float32)
    return outputs.margin if output == "margin" else outputs.prob


def _add(study: Study, name: str, item: Record, outputs: TargetOutputs) -> None:
    if name not in study.targets:
        classes = list(study.header.class_names[name])
        rows = np.zeros((len(classes) + 1, len(outputs.labels)))
        rows[outputs.labels, np.arange(len(outputs.labels))] = 1
        rows[-1] = 1
        with np.errstate(invalid="ignore", divide="ignore"):
            average = np.nan_to_num(rows / rows.sum(1, keepdims=True))  # a class without examples has mean 0
        examples, means = (Stream(study.groups, size) for size in (len(outputs.labels), len(classes) + 1))
        study.targets[name] = _Target(outputs.ids, outputs.labels, classes, examples, means, average)
        study.scores[name] = []
    target = study.targets[name]
    values = outputs_of(outputs, study.output)
    exact = study.groups * len(values) <= SMALL
    target.examples.add(item.mask, values.astype(np.float64) if exact else values)
    target.means.add(item.mask, target.average @ values.astype(np.float64))
    study.scores[name].append(float((outputs.prediction == outputs.labels).mean()))


def _dataset(study: Study, name: str, target: _Target, estimator: str) -> xr.Dataset:
    empty = np.flatnonzero(target.average.sum(1) == 0)
    means = _tables(target.means.moments(), estimator, slice(0, -1), empty)
    tables = {
        "": _tables(target.examples.moments(), estimator),
        "_class": means,
        "_overall": _tables(target.means.moments(), estimator, slice(-1, None)),
    }
    variables = {}
    for suffix, dimension in LEVELS.items():
        for variable, values in tables[suffix].items():
            dims, values = (("group",), values[0]) if dimension is None else ((dimension, "group"), values)
            about = (
                {"units": UNITS[study.output]} if variable != "qvalue" else {"long_name": "Benjamini-Hochberg q-value"}
            )
            variables[variable + suffix] = (dims, values, about)
    names = study.header.group_names or [str(i) for i in range(study.groups)]
    return xr.Dataset(
        variables,
        coords={
            "example": target.ids,
            "label": ("example", target.labels),
            "class": target.class_names,
            "group": names,
        },
        attrs={
            "output": study.output,
            "units": UNITS[study.output],
            "sign": SIGN,
            "estimator": estimator,
            "models": study.models,
            "target": name,
            "study": study.header.study,
            "recipe": study.header.recipe,
        },
    )


def _tables(
    moments: Moments, estimator: str, rows: slice = slice(None), empty: NDArray[np.intp] | None = None
) -> dict[str, NDArray[np.float64]]:
    """influence, stderr and qvalue `[rows, groups]`; q-values control the false discovery rate of these rows."""
    found = ESTIMATORS[estimator](moments)
    influence, stderr, dof = found.influence[rows].copy(), found.stderr[rows].copy(), found.dof[rows]
    if empty is not None:
        influence[empty], stderr[empty] = np.nan, np.nan
    return {
        "influence": influence,
        "stderr": stderr,
        "qvalue": inference.qvalues(inference.pvalues(influence, stderr, dof)),
    }
