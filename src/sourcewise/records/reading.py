"""Records of one study, one at a time, from wherever they are; what does not belong is left out, with the reason.

Places: a folder (of a run, a study, or several), `wandb:<entity>/<project>`, `wandb-offline:<folder>`; one or several.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from sourcewise.core import names, settings
from sourcewise.core.errors import SourcewiseError
from sourcewise.core.hashing import fingerprint
from sourcewise.core.names import RECORD
from sourcewise.records import record
from sourcewise.records.record import Header, Record, RecordError, TargetOutputs

METRIC = "metric:"
"""How the outputs are called that are a scalar of every run."""


def filters(
    group: str | None = None,
    tags: str | Sequence[str] | None = None,
    sweep: str | None = None,
    state: str | Sequence[str] | None = None,
    config: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """What records must have. group: the study. tags, sweep, state: of W&B runs. config: settings by dotted name."""
    tags = [tags] if isinstance(tags, str) else tags
    found = {"group": group, "tags": tags, "sweep": sweep, "state": state, "config": config}
    return {key: value for key, value in found.items() if value}


@dataclass(frozen=True)
class LeftOut:
    """A record that was not used, and why."""

    path: str
    reason: str


@dataclass
class Records:
    """An iterator over the records in one place or several; all must be of one study.

    `used` (where the records were) and `left_out` fill while iterating. Raises SourcewiseError when a place or all
    records are missing, or when records are of different recipes, datasets or examples, and says which it found.
    """

    places: str | Sequence[str]
    filters: Mapping[str, Any] = field(default_factory=dict)
    refresh: bool | str = "auto"
    progress: bool = True
    used: list[str] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)

    def __post_init__(self) -> None:
        settings.bind(filters, self.filters, "filters")
        self.filters = filters(**self.filters)

    def __iter__(self) -> Iterator[Record]:
        first: Record | None = None
        for where, item in self._each(self._records):
            first = first or item
            _same_data(first, item, where)
            self.used.append(where)
            yield item

    def giving(self, output: str) -> Iterable[Record]:
        """The records to take this output from: `metric:<name>` means a scalar, any other outputs of every example."""
        return self.scalars(output.removeprefix(METRIC)) if output.startswith(METRIC) else self

    def scalars(self, metric: str) -> Iterator[Record]:
        """One scalar of every run, such as `target/digits/accuracy`; of W&B runs from their summaries alone.

        Each comes as a record with one example, whose `prob` is the scalar. Raises SourcewiseError as iterating does,
        and when no run has the scalar.
        """
        first: Record | None = None
        known: set[str] = set()
        name, one = metric.replace("/", "."), np.zeros(1, np.int32)
        for where, item in self._each(self._summaries):
            metrics: Mapping[str, Any] = item.header.metrics
            known |= {key for key, value in metrics.items() if isinstance(value, int | float)}
            value = metrics.get(metric)
            if not isinstance(value, int | float) or not math.isfinite(value):
                self._leave(where, f"it logged no {metric}" if value is None else f"its {metric} is {value}")
                continue
            scalar: Any = np.array([value], np.float64)
            header = replace(item.header, class_names={name: [metric]}, fingerprints={})
            item = Record(item.mask, {name: TargetOutputs(one, one, one, scalar, scalar)}, header)
            first = first or item
            _same_data(first, item, where)
            self.used.append(where)
            yield item
        if first is None:
            near = ", ".join(get_close_matches(metric, known, n=3) or sorted(known)[:10])
            raise SourcewiseError(f"outputs=metric:{metric}: no run logged this scalar; there are {near}")

    def _each(
        self, of_place: Callable[[str], Iterator[tuple[str, Callable[[], Record]]]]
    ) -> Iterator[tuple[str, Record]]:
        """Every item of the first study found, once, with where it was. Raises at the end if there is another study."""
        self.left_out.clear()
        self.used.clear()
        places = [self.places] if isinstance(self.places, str) else list(self.places)
        if not places:
            raise SourcewiseError("records=[]: name a folder, wandb:<entity>/<project> or wandb-offline:<folder>")
        studies: Counter[str] = Counter()
        seen: dict[tuple[str, str], str] = {}
        for where, load in chain.from_iterable(of_place(str(place)) for place in places):
            try:
                item = load()
            except RecordError as error:
                self._leave(where, str(error).removeprefix(f"{where}: "))
                continue
            about = item.header
            if not self._wanted(about.study, about.config):
                continue
            studies[about.study] += 1
            if (key := (about.study, about.run)) in seen:
                self._leave(where, f"the same run as {seen[key]}")
                continue
            seen[key] = where
            if len(studies) == 1:
                yield where, item
        if len(studies) > 1:
            raise self._mixed(studies)
        if not studies:
            raise self._nothing()

    def _records(self, place: str) -> Iterator[tuple[str, Callable[[], Record]]]:
        if not place.startswith("wandb:"):
            if unknown := self.filters.keys() & {"tags", "sweep", "state"}:
                raise SourcewiseError(
                    f"filters.{min(unknown)}: only W&B knows this; take records=wandb:<entity>/<project>"
                )
            for path in self._bar(_find(place)):
                yield str(path), lambda path=path: record.read(path)  # type: ignore[misc]
            return
        project, runs = self._runs(place)
        for run, found in zip(runs, self._bar(project.records(runs), len(runs)), strict=True):
            yield f"{place}/{run.id}", lambda run=run, found=found: _downloaded(run, found)  # type: ignore[misc]

    def _summaries(self, place: str) -> Iterator[tuple[str, Callable[[], Record]]]:
        if not place.startswith("wandb:"):
            yield from self._records(place)
            return
        for run in self._runs(place)[1]:
            yield f"{place}/{run.id}", lambda run=run: _without_outputs(run)  # type: ignore[misc]

    def _runs(self, place: str) -> tuple[Any, list[Any]]:
        """The project, and its runs that ended well."""
        from sourcewise.records.remote import Project

        project = Project(place.removeprefix("wandb:"), self.filters, self.refresh)
        runs = [run for run in project.runs() if self._wanted(run.group, run.config)]
        good = self.filters.get("state", "finished")
        good = [good] if isinstance(good, str) else list(good)
        for run in runs:
            if run.state not in good:
                self._leave(f"{place}/{run.id}", f"{run.name} did not finish: W&B shows it as {run.state}")
        runs = [run for run in runs if run.state in good]
        studies = Counter(run.group for run in runs)
        if len(studies) > 1:
            raise self._mixed(studies)
        return project, runs

    def _wanted(self, group: str, config: Mapping[str, Any]) -> bool:
        if group != self.filters.get("group", group):
            return False
        return all(_dig(config, key) == value for key, value in self.filters.get("config", {}).items())

    def _bar(self, items: Any, total: int | None = None) -> Any:
        return tqdm(items, "records", total, leave=False, unit="", disable=None if self.progress else True)

    def _leave(self, where: str, reason: str) -> None:
        self.left_out.append(LeftOut(where, reason))

    def _mixed(self, studies: Counter[str]) -> SourcewiseError:
        found = ", ".join(f"{name} ({count} records)" for name, count in studies.most_common())
        return SourcewiseError(
            f"records={self._shown()}: records of different recipes do not mix: {found};"
            " choose one folder, or filters.group=<study>"
        )

    def _nothing(self) -> SourcewiseError:
        why = " passes the filters" if self.filters else " found here"
        if self.left_out:
            first = self.left_out[0]
            why = f" found here; {len(self.left_out)} could not be used, the first: {first.path} ({first.reason})"
        return SourcewiseError(f"records={self._shown()}: no record{why}")

    def _shown(self) -> str:
        return self.places if isinstance(self.places, str) else f"[{','.join(map(str, self.places))}]"


def _without_outputs(run: Any) -> Record:
    """What a W&B run's summary tells of its record. Raises RecordError when it has no subset, or is no run's."""
    try:
        subset = run.config["subset"]
        packed = np.frombuffer(bytes.fromhex(run.summary["subset/mask"]), np.uint8)
        mask = record.unpacked(packed, int(run.summary["subset/groups"]))
        header = Header(
            study=names.study_name(run.config),
            run=names.run_name(run.config),
            recipe=fingerprint(names.recipe(run.config)),
            config=run.config,
            design=str(subset["design"]),
            subset_seed=subset.get("seed"),
            seed=run.config["seed"],
            group_names=run.summary.get("subset/names"),
            class_names={},
            fingerprints={},
            metrics={},
            versions={},
            commit=None,
            device="",
        )
        return replace(record.checked(Record(mask, {}, header)), header=replace(header, metrics=run.summary))
    except (KeyError, TypeError, AttributeError, ValueError, OverflowError, RecursionError) as error:
        raise RecordError(f"{run.name} logged no subset, or its config is not that of a run") from error


def _find(place: str) -> list[Path]:
    """Record files in a folder of runs, or in W&B's offline runs."""
    offline = place.startswith("wandb-offline:")
    folder = Path(place.removeprefix("wandb-offline:"))
    if not folder.is_dir():
        raise SourcewiseError(f"records={place}: there is no such folder; it should hold the runs of a study")
    # Not deeper than <study>/<run>: W&B keeps copies of records further below.
    depths = ("files/", "*run-*/files/", "wandb/*run-*/files/") if offline else ("", "*/", "*/*/")
    return sorted(path for depth in depths for path in folder.glob(depth + RECORD))


def _downloaded(run: Any, found: Path | str) -> Record:
    """The record of a W&B run. Raises RecordError when there is none, or it is not what the run's config says."""
    if isinstance(found, str):
        raise RecordError(f"{run.name}: {found}")
    item = record.read(found)
    try:
        told = {"recipe": names.recipe(run.config), "subset": run.config["subset"], "seed": run.config["seed"]}
        own = item.header.config
        held = {"recipe": names.recipe(own), "subset": own["subset"], "seed": item.header.seed}
    except (KeyError, TypeError, AttributeError, RecursionError) as error:
        raise RecordError(f"{run.name}: its config in W&B is not that of a run") from error
    for key, value in told.items():
        if fingerprint(value) != fingerprint(held[key]):
            raise RecordError(f"{run.name}: its record was made with another {key} than its config in W&B says")
    return item


def _dig(config: Any, key: str) -> Any:
    for part in key.split("."):
        config = config.get(part) if isinstance(config, Mapping) else None
    return config


def _same_data(first: Record, item: Record, where: str) -> None:
    """Raise unless two records are about the same groups and examples."""
    one, other = first.header, item.header
    for name, content in one.fingerprints.items():
        if other.fingerprints.get(name) != content:
            raise SourcewiseError(
                f"{where}: its dataset {name} has fingerprint {other.fingerprints.get(name)}, that of {one.run} has"
                f" {content}: the data changed between the runs; estimate from runs on the same data"
            )
    if one.group_names != other.group_names or len(first.mask) != len(item.mask):
        raise SourcewiseError(f"{where}: its {len(item.mask)} groups are not the {len(first.mask)} groups of {one.run}")
    for target, outputs in first.targets.items():
        mine = item.targets.get(target)
        if mine is None:
            raise SourcewiseError(f"{where}: it has no outputs on target {target}, which {one.run} has")
        if not (np.array_equal(mine.ids, outputs.ids) and np.array_equal(mine.labels, outputs.labels)):
            raise SourcewiseError(f"{where}: its examples of target {target} are not those of {one.run}")
