"""Where records are: a folder, W&B's offline runs in a folder, or a W&B project. Each gives records or scalars."""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

import numpy as np
from tqdm import tqdm

from sourcewise.core import names
from sourcewise.core.errors import SourcewiseError
from sourcewise.core.hashing import fingerprint
from sourcewise.records import record
from sourcewise.records.filters import Filters, as_list
from sourcewise.records.record import Header, Record, RecordError

if TYPE_CHECKING:
    from sourcewise.records.wandb_reader import Project, RemoteRun

WANDB, OFFLINE = "wandb:", "wandb-offline:"
"""What the names of places begin with that are no plain folders."""


@dataclass(frozen=True)
class Entry:
    """A record, and where it is."""

    path: str
    record: Record


@dataclass(frozen=True)
class LeftOut:
    """A record that was not used, and the reason."""

    path: str
    reason: str


class Place(Protocol):
    """A place with records. Both methods raise SourcewiseError when the place cannot be read at all."""

    def records(self) -> Iterator[Entry | LeftOut]:
        """Yield every record, and what is left out."""

    def summaries(self) -> Iterator[Entry | LeftOut]:
        """Yield every record as `records` does, but perhaps without its outputs."""


def place(name: str, filters: Filters, refresh: bool | str = "auto", progress: bool = True) -> Place:
    """Return the place of that name. refresh: whether to ask W&B for new runs, see `wandb_reader.Project`.

    Raises SourcewiseError for filters that the place does not know.
    """
    if name.startswith(WANDB):
        return WandbPlace(name, filters, refresh, progress)
    if unknown := [key for key in ("state", "sweep", "tags") if getattr(filters, key)]:
        raise SourcewiseError(f"filters.{unknown[0]}: only W&B knows this; take records=wandb:<entity>/<project>")
    return FolderPlace(name, progress)


@dataclass(frozen=True)
class FolderPlace:
    """A folder of one run, of a study or of several, or (`wandb-offline:<folder>`) of W&B's offline runs."""

    name: str
    progress: bool

    def records(self) -> Iterator[Entry | LeftOut]:
        """Yield the records in the order of their paths."""
        for path in _bar(self._files(), self.progress):
            yield _entry(str(path), path)

    def summaries(self) -> Iterator[Entry | LeftOut]:
        """Yield what `records` yields."""
        return self.records()

    def _files(self) -> list[Path]:
        folder = Path(self.name.removeprefix(OFFLINE))
        if not folder.is_dir():
            raise SourcewiseError(f"records={self.name}: there is no such folder; it should hold the runs of a study")
        # Not deeper than <study>/<run>, since W&B keeps copies of records further below.
        is_offline = self.name.startswith(OFFLINE)
        depths = ("files/", "*run-*/files/", "wandb/*run-*/files/") if is_offline else ("", "*/", "*/*/")
        return sorted(path for depth in depths for path in folder.glob(depth + names.RECORD))


@dataclass(frozen=True)
class WandbPlace:
    """A W&B project."""

    name: str
    filters: Filters
    refresh: bool | str
    progress: bool

    def records(self) -> Iterator[Entry | LeftOut]:
        """Yield the records of the runs that ended well, in the order in which W&B created the runs."""
        project = self._project()
        runs = yield from self._finished(project)
        files = _bar(project.records(runs), self.progress, len(runs))
        for run, file in zip(runs, files, strict=True):
            path = f"{self.name}/{run.id}"
            if isinstance(file, str):
                yield LeftOut(path, f"{run.name}: {file}")
                continue
            entry = _entry(path, file)
            problem = _disagreement(run, entry.record) if isinstance(entry, Entry) else None
            yield LeftOut(path, f"{run.name}: {problem}") if problem else entry

    def summaries(self) -> Iterator[Entry | LeftOut]:
        """Yield records without outputs, whose metrics are W&B's summaries."""
        for run in (yield from self._finished(self._project())):
            path = f"{self.name}/{run.id}"
            try:
                yield Entry(path, _without_outputs(run))
            except RecordError as error:
                yield LeftOut(path, str(error))

    def _project(self) -> Project:
        from sourcewise.records.wandb_reader import Project

        return Project(self.name.removeprefix(WANDB), self.filters, self.refresh, self.progress)

    def _finished(self, project: Project) -> Generator[LeftOut, None, list[RemoteRun]]:
        """Return the runs that pass the filters and ended well; yield those that did not end well.

        Raises SourcewiseError for runs of several studies.
        """
        states = as_list(self.filters.state or "finished")
        admitted = [run for run in project.runs() if self.filters.admit(run.group, run.config)]
        finished = [run for run in admitted if run.state in states]
        for run in admitted:
            if run.state not in states:
                yield LeftOut(f"{self.name}/{run.id}", f"{run.name} did not finish: W&B shows it as {run.state}")
        if len(studies := Counter(run.group for run in finished)) > 1:
            raise mixed(self.name, studies)
        return finished


def mixed(places: str, studies: Counter[str]) -> SourcewiseError:
    """Return the error for records of several studies. studies: the number of records of each."""
    counts = ", ".join(f"{study} ({count} records)" for study, count in studies.most_common())
    return SourcewiseError(
        f"records={places}: records of different recipes do not mix: {counts};"
        " choose one folder, or filters.group=<study>"
    )


Item = TypeVar("Item")


def _bar(items: Iterable[Item], shown: bool, total: int | None = None) -> Iterable[Item]:
    """Return the items with a progress bar, which only a terminal shows."""
    return tqdm(items, "records", total, leave=False, unit="", disable=None if shown else True)


def _entry(path: str, file: Path) -> Entry | LeftOut:
    """Return the record in a file. path: what it is called, which may be another name than the file's."""
    try:
        return Entry(path, record.read(file))
    except RecordError as error:
        return LeftOut(path, str(error).removeprefix(f"{file}: "))


def _disagreement(run: RemoteRun, item: Record) -> str | None:
    """Return in what a record disagrees with the config of its run in W&B; None when they agree."""
    try:
        in_wandb = {"recipe": names.recipe(run.config), "subset": run.config["subset"], "seed": run.config["seed"]}
        config = item.header.config
        in_record = {"recipe": names.recipe(config), "subset": config["subset"], "seed": item.header.seed}
    except (KeyError, TypeError, AttributeError, RecursionError):
        return "its config in W&B is not that of a run"
    for key, value in in_wandb.items():
        if fingerprint(value) != fingerprint(in_record[key]):
            return f"its record was made with another {key} than its config in W&B says"
    return None


def _without_outputs(run: RemoteRun) -> Record:
    """Return a record of a W&B run from its config and summary. Raises RecordError when they are not those of a run."""
    try:
        subset = run.config["subset"]
        bits = np.frombuffer(bytes.fromhex(run.summary["subset/mask"]), np.uint8)
        mask = record.unpack_mask(bits, int(run.summary["subset/groups"]))
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
        record.check(Record(mask, {}, header))
        return Record(mask, {}, replace(header, metrics=run.summary))
    except (KeyError, TypeError, AttributeError, ValueError, OverflowError, RecursionError, SourcewiseError) as error:
        raise RecordError(f"{run.name} logged no subset, or its config is not that of a run") from error
