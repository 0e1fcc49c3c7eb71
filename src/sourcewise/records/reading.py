"""Records of one study, one at a time, from one place or several; each that is not used is named with the reason."""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sourcewise.core import settings
from sourcewise.core.errors import SourcewiseError
from sourcewise.records import arrays
from sourcewise.records.places import Entry, Filters, as_list, entries, mixed
from sourcewise.records.record import Record, TargetOutputs

METRIC = "metric:"
"""What the names of outputs begin with that are one scalar of every run."""


@dataclass(frozen=True)
class LeftOut:
    """A record that was not used, and the reason."""

    path: str
    reason: str


@dataclass(frozen=True)
class Records:
    """The records in one place or several; all must be of one study.

    places: a folder (of a run, a study, or several), a bank (`<name>.safetensors`), `wandb:<entity>/<project>`, or
    `wandb-offline:<folder>`; or plain arrays, the files of `arrays.read` by name. filters: fields of `Filters` by name.
    refresh: whether to ask W&B for new runs, see `wandb_reader.Project`. progress: whether a terminal shows bars.

    A pass over them raises SourcewiseError when a place or all records are missing, or when records are of different
    recipes, datasets or examples.

        reading = iter(Records("runs/my-study"))
        outputs = [record.targets["pets"].prob for record in reading]
        print(len(reading.used), reading.left_out)
    """

    places: str | Sequence[str] | Mapping[str, str]
    filters: Mapping[str, Any] = field(default_factory=dict)
    refresh: bool = True
    progress: bool = True

    def __post_init__(self) -> None:
        settings.check_arguments(Filters, self.filters, "filters")

    def __iter__(self) -> "Reading":
        return Reading(self)

    def with_output(self, output: str) -> "Reading":
        """Return a pass over records that hold this output. Scalars are per run, all other outputs per example.

        A scalar of every run, such as `metric:target/digits/accuracy`, comes as a record with one example, whose `prob`
        it is. Of W&B runs, only summaries are read then. The pass raises SourcewiseError when no run has the scalar.
        """
        return Reading(self, output)


class Reading(Iterator[Record]):
    """One pass over records.

    `used` holds the paths of the records that it has given so far, and `left_out` those that it has not used; both are
    complete when it has ended.
    """

    def __init__(self, records: Records, output: str | None = None) -> None:
        self.used: list[str] = []
        self.left_out: list[LeftOut] = []
        self._settings, self._filters, self._output = records, Filters(**records.filters), output
        self._metric = output.removeprefix(METRIC) if output and output.startswith(METRIC) else None
        self._records = self._checked()

    def __next__(self) -> Record:
        return next(self._records)

    @property
    def unused(self) -> str:
        """The end of an error's message, on the records that were left out; "" if none was."""
        if not self.left_out:
            return ""
        first = self.left_out[0]
        return f"; {len(self.left_out)} could not be used, the first: {first.path} ({first.reason})"

    def _checked(self) -> Iterator[Record]:
        """Yield the records to use. Raises SourcewiseError for one whose groups or examples are not the first's."""
        first: Record | None = None
        scalars: set[str] = set()
        for path, item in self._first_study():
            if self._metric is not None and isinstance(item, Record):
                numbers = item.header.metrics.items()
                scalars |= {name for name, value in numbers if isinstance(value, int | float)}
                item = _scalar(item, self._metric)
            if isinstance(item, str):
                self.left_out.append(LeftOut(path, item))
                continue
            first = first or item
            _check_same_data(first, item, path)
            self.used.append(path)
            yield item
        if self._metric is not None and not self.used:
            near = ", ".join(get_close_matches(self._metric, scalars, n=3) or sorted(scalars)[:10])
            raise SourcewiseError(f"outputs={METRIC}{self._metric}: no run logged this scalar; there are {near}")

    def _first_study(self) -> Iterator[Entry]:
        """Yield the entries of the first study, each run once.

        Raises SourcewiseError at the end when there was another study, or none.
        """
        studies: Counter[str] = Counter()
        contents: dict[str, tuple[Mapping[str, Any], Mapping[str, str]]] = {}
        paths: dict[tuple[str, str], str] = {}
        for path, item in self._entries():
            if isinstance(item, str):
                yield path, item
                continue
            run = item.header.study, item.header.run
            if not self._filters.admit(item.header.study, item.header.config):
                continue
            studies[item.header.study] += 1
            contents.setdefault(item.header.study, (item.header.config, item.header.fingerprints))
            if run in paths:
                yield path, f"the same run as {paths[run]}"
                continue
            paths[run] = path
            if len(studies) == 1:
                yield path, item
        places = self._settings.places
        shown = places if isinstance(places, str) else f"[{','.join(map(str, places))}]"
        if len(studies) > 1:
            raise mixed(shown, studies, contents)
        if not studies and self.left_out:
            raise SourcewiseError(f"records={shown}: no record found here{self.unused}")
        if not studies:
            reason = "passes the filters" if any(self._settings.filters.values()) else "found here"
            runs = Path(places, "runs") if isinstance(places, str) else None
            hint = f"; try records={runs}" if runs and runs.is_dir() else ""
            raise SourcewiseError(f"records={shown}: no record {reason}{hint}")

    def _entries(self) -> Iterator[Entry]:
        """Yield the entries of all places."""
        if isinstance(self._settings.places, Mapping):
            yield from arrays.read(self._settings.places, self._output or arrays.VALUE)
            return
        if self._output == arrays.VALUE:
            raise SourcewiseError(f"outputs={self._output}: plain arrays alone have this output; choose another")
        places = as_list(self._settings.places)
        if not places:
            raise SourcewiseError("records=[]: name a folder, wandb:<entity>/<project> or wandb-offline:<folder>")
        refresh, progress = self._settings.refresh, self._settings.progress
        for name in places:
            yield from entries(str(name), self._filters, refresh, progress, summaries=self._metric is not None)


def _check_same_data(first: Record, item: Record, path: str) -> None:
    """Raise SourcewiseError unless a record is of the same datasets, groups and examples as the first."""
    run = first.header.run
    for dataset, fingerprint in first.header.fingerprints.items():
        if item.header.fingerprints.get(dataset) != fingerprint:
            raise SourcewiseError(
                f"{path}: its dataset {dataset} has fingerprint {item.header.fingerprints.get(dataset)}, that of {run}"
                f" has {fingerprint}: the data changed between the runs; estimate from runs on the same data"
            )
    if first.header.group_names != item.header.group_names or len(first.mask) != len(item.mask):
        raise SourcewiseError(f"{path}: its {len(item.mask)} groups are not the {len(first.mask)} groups of {run}")
    for target, expected in first.targets.items():
        outputs = item.targets.get(target)
        if outputs is None:
            raise SourcewiseError(f"{path}: it has no outputs on target {target}, which {run} has")
        if not (np.array_equal(outputs.ids, expected.ids) and np.array_equal(outputs.labels, expected.labels)):
            raise SourcewiseError(f"{path}: its examples of target {target} are not those of {run}")


def _scalar(item: Record, metric: str) -> Record | str:
    """Return a record of one example, whose `prob` is the metric, or the reason why there is none."""
    value = item.header.metrics.get(metric)
    if not isinstance(value, int | float) or not math.isfinite(value):
        return f"it logged no {metric}" if value is None else f"its {metric} is {value}"
    target, example = metric.replace("/", "."), np.zeros(1, np.int32)
    scalar: NDArray[Any] = np.array([value], np.float64)
    outputs = TargetOutputs(example, example, example, scalar, scalar)
    header = replace(item.header, class_names={target: [metric]}, fingerprints={})
    return Record(item.mask, {target: outputs}, header)
