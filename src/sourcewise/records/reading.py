"""Records of one study, one at a time, from one place or several; each that is not used is named with the reason."""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sourcewise.core import settings
from sourcewise.core.errors import SourcewiseError
from sourcewise.records.filters import Filters, as_list
from sourcewise.records.places import Entry, LeftOut, mixed, place
from sourcewise.records.record import Record, TargetOutputs

METRIC = "metric:"
"""What the names of outputs begin with that are one scalar of every run."""

__all__ = ["METRIC", "Filters", "LeftOut", "Reading", "Records"]


class Reading(Iterator[Record]):
    """One pass over records.

    `used` holds the paths of the records that it has given so far, and `left_out` those that it has not used; both are
    complete when it has ended.
    """

    def __init__(self, entries: Iterator[Entry | LeftOut]) -> None:
        self._entries = entries
        self.used: list[str] = []
        self.left_out: list[LeftOut] = []

    def __next__(self) -> Record:
        for entry in self._entries:
            if isinstance(entry, Entry):
                self.used.append(entry.path)
                return entry.record
            self.left_out.append(entry)
        raise StopIteration


@dataclass(frozen=True)
class Records:
    """The records in one place or several; all must be of one study.

    places: a folder (of a run, a study, or several), `wandb:<entity>/<project>`, or `wandb-offline:<folder>`. filters:
    fields of `Filters` by name. refresh: whether to ask W&B for new runs, see `wandb_reader.Project`. progress: whether
    bars are shown in a terminal.

    A pass over them raises SourcewiseError when a place or all records are missing, or when records are of different
    recipes, datasets or examples.

        reading = iter(Records("runs/my-study"))
        outputs = [record.targets["pets"].prob for record in reading]
        print(len(reading.used), reading.left_out)
    """

    places: str | Sequence[str]
    filters: Mapping[str, Any] = field(default_factory=dict)
    refresh: bool | str = "auto"
    progress: bool = True

    def __post_init__(self) -> None:
        settings.check_arguments(Filters, self.filters, "filters")

    def __iter__(self) -> Reading:
        entries = (entry for item in self._places() for entry in item.records())
        return Reading(_of_the_same_data(self._of_one_study(entries)))

    def scalars(self, metric: str) -> Reading:
        """Return a pass over one scalar of every run, such as `target/digits/accuracy`.

        Each comes as a record with one example, whose `prob` is the scalar. Of W&B runs, only summaries are read. The
        pass raises SourcewiseError as other passes do, and when no run has the scalar.
        """
        entries = (entry for item in self._places() for entry in item.summaries())
        return Reading(_of_the_same_data(_scalars(self._of_one_study(entries), metric)))

    def giving(self, output: str) -> Reading:
        """Return a pass to take this output from: `metric:<name>` is a scalar, any other is there for every example."""
        return self.scalars(output.removeprefix(METRIC)) if output.startswith(METRIC) else iter(self)

    def _places(self) -> Iterator[Any]:
        places = as_list(self.places)
        if not places:
            raise SourcewiseError("records=[]: name a folder, wandb:<entity>/<project> or wandb-offline:<folder>")
        filters = Filters(**self.filters)
        return (place(str(name), filters, self.refresh, self.progress) for name in places)

    def _of_one_study(self, entries: Iterable[Entry | LeftOut]) -> Iterator[Entry | LeftOut]:
        """Yield the entries of the first study, each run once.

        Raises SourcewiseError at the end when there was another study, or none.
        """
        filters = Filters(**self.filters)
        studies: Counter[str] = Counter()
        paths: dict[tuple[str, str], str] = {}
        left_out: list[LeftOut] = []
        for entry in entries:
            if isinstance(entry, LeftOut):
                left_out.append(entry)
                yield entry
                continue
            header = entry.record.header
            if not filters.admit(header.study, header.config):
                continue
            studies[header.study] += 1
            if first := paths.get((header.study, header.run)):
                yield LeftOut(entry.path, f"the same run as {first}")
                continue
            paths[header.study, header.run] = entry.path
            if len(studies) == 1:
                yield entry
        shown = self.places if isinstance(self.places, str) else f"[{','.join(map(str, self.places))}]"
        if len(studies) > 1:
            raise mixed(shown, studies)
        if not studies and left_out:
            reason = f"{len(left_out)} could not be used, the first: {left_out[0].path} ({left_out[0].reason})"
            raise SourcewiseError(f"records={shown}: no record found here; {reason}")
        if not studies:
            reason = "passes the filters" if any(self.filters.values()) else "found here"
            raise SourcewiseError(f"records={shown}: no record {reason}")


def _of_the_same_data(entries: Iterable[Entry | LeftOut]) -> Iterator[Entry | LeftOut]:
    """Yield the entries. Raises SourcewiseError for a record whose groups or examples are not those of the first."""
    first: Record | None = None
    for entry in entries:
        if isinstance(entry, Entry):
            first = first or entry.record
            _check_same_data(first, entry)
        yield entry


def _check_same_data(first: Record, entry: Entry) -> None:
    """Raise SourcewiseError unless the entry's record is of the same datasets, groups and examples as the first."""
    path, item, run = entry.path, entry.record, first.header.run
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


def _scalars(entries: Iterable[Entry | LeftOut], metric: str) -> Iterator[Entry | LeftOut]:
    """Yield records of one example, whose `prob` is the metric.

    Raises SourcewiseError at the end when no record has the metric.
    """
    known: set[str] = set()
    is_known = False
    target, example = metric.replace("/", "."), np.zeros(1, np.int32)
    for entry in entries:
        if isinstance(entry, LeftOut):
            yield entry
            continue
        header, metrics = entry.record.header, entry.record.header.metrics
        known |= {name for name, value in metrics.items() if isinstance(value, int | float)}
        value = metrics.get(metric)
        if not isinstance(value, int | float) or not math.isfinite(value):
            yield LeftOut(entry.path, f"it logged no {metric}" if value is None else f"its {metric} is {value}")
            continue
        is_known = True
        scalar: NDArray[Any] = np.array([value], np.float64)
        outputs = TargetOutputs(example, example, example, scalar, scalar)
        header = replace(header, class_names={target: [metric]}, fingerprints={})
        yield Entry(entry.path, Record(entry.record.mask, {target: outputs}, header))
    if not is_known:
        near = ", ".join(get_close_matches(metric, known, n=3) or sorted(known)[:10])
        raise SourcewiseError(f"outputs={METRIC}{metric}: no run logged this scalar; there are {near}")
