"""Where records are: a folder, a bank, W&B's offline runs in a folder, or a W&B project; and the filters on them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from tqdm import tqdm

from sourcewise.core import names
from sourcewise.core.errors import SourcewiseError
from sourcewise.core.hashing import fingerprint
from sourcewise.core.identity import Fingerprints, differing, recorded_recipe
from sourcewise.records import bank, browsing, record, uploads
from sourcewise.records.record import Header, Record, RecordError

if TYPE_CHECKING:
    from sourcewise.records.wandb_reader import Project, RemoteRun

WANDB, OFFLINE = "wandb:", "wandb-offline:"
"""What the names of places begin with that are no plain folders."""

Entry = tuple[str, Record | str]
"""Where a record is, and the record, or the reason why it cannot be used."""


@dataclass(frozen=True)
class Filters:
    """What records must have; None admits all.

    group: the study. tags, sweep, state: of W&B runs. config: settings by dotted name.
    """

    group: str | None = None
    tags: str | Sequence[str] | None = None
    sweep: str | None = None
    state: str | Sequence[str] | None = None
    config: Mapping[str, Any] | None = None

    def admit(self, group: str, config: Mapping[str, Any]) -> bool:
        """Return whether a record of this study and config passes, apart from what only W&B knows."""
        wanted = (self.config or {}).items()
        return group == (self.group or group) and all(_setting(config, key) == value for key, value in wanted)


def entries(name: str, filters: Filters, refresh: bool, progress: bool, *, summaries: bool) -> Iterator[Entry]:
    """Yield all records in the place of that name.

    refresh: whether to ask W&B for new runs, see `wandb_reader.Project`. summaries: whether metrics suffice; then
    records of W&B have no outputs. Raises SourcewiseError when the place cannot be read at all, or does not know the
    filters.
    """
    if name.endswith(bank.SUFFIX):
        return ((f"{name}/{item.header.run}", _checked(item)) for item in bank.read(Path(name)))
    if name.startswith(WANDB):
        from sourcewise.records.wandb_reader import Project

        project = Project(name.removeprefix(WANDB), filters, refresh, progress)
        return _wandb_entries(project, summaries)
    if unknown := [key for key in ("state", "sweep", "tags") if getattr(filters, key)]:
        raise SourcewiseError(f"filters.{unknown[0]}: only W&B knows this; take records=wandb:<entity>/<project>")
    return _folder_entries(name, progress)


def _folder_entries(name: str, progress: bool) -> Iterator[Entry]:
    """Yield the records of one run, of a study or of several, in the order of their paths."""
    folder, is_offline = Path(name.removeprefix(OFFLINE)), name.startswith(OFFLINE)
    if not folder.is_dir():
        raise SourcewiseError(f"records={name}: there is no such folder; it should hold the runs of a study")
    # Not deeper than <study>/<run>, since W&B keeps copies of records further below.
    depths = ("files/", "*run-*/files/", "wandb/*run-*/files/") if is_offline else ("", "*/", "*/*/")
    for path in _bar(sorted(path for depth in depths for path in folder.glob(depth + names.RECORD)), progress):
        yield str(path), _read(path)


def _wandb_entries(project: Project, summaries: bool) -> Iterator[Entry]:
    """Yield the records of the runs that ended well, in the order in which W&B created the runs.

    Raises SourcewiseError for runs of several studies.
    """
    place, filters = f"{WANDB}{project.path}", project.filters
    states = as_list(filters.state or "finished")
    admitted = [run for run in project.runs() if filters.admit(run.group, run.config)]
    finished = [run for run in admitted if run.state in states]
    for run in admitted:
        if run.state not in states:
            yield f"{place}/{run.id}", f"{run.name} did not finish: W&B shows it as {run.state}"
    if len(studies := Counter(run.group for run in finished)) > 1:
        raise mixed(place, studies, {run.group: (run.config, _data(run.config)) for run in finished})
    if summaries:
        yield from ((f"{place}/{run.id}", _without_outputs(run)) for run in finished)
        return
    files = _bar(project.records(finished), project.progress, len(finished))
    for run, file in zip(finished, files, strict=True):
        item = _read(file) if isinstance(file, Path) else file
        if isinstance(item, Record):
            item = _disagreement(run, item) or item
        yield f"{place}/{run.id}", item if isinstance(item, Record) else f"{run.name}: {item}"


def page(place: str) -> str | None:
    """Return the page in W&B of the run whose record lies in this place; None where it is not known."""
    if place.startswith(WANDB):
        from sourcewise.records.wandb_tracker import run_page

        return run_page(place.removeprefix(WANDB))
    note = uploads.read(Path(place).parent)
    return note.url if note else None


def as_list(value: str | Sequence[str] | None) -> list[str]:
    """Return a setting that may be one text, several or none as a list."""
    return [value] if isinstance(value, str) else list(value or ())


def _setting(config: Any, name: str) -> Any:
    """Return the setting of a dotted name; None when there is none."""
    for part in name.split("."):
        config = config.get(part) if isinstance(config, Mapping) else None
    return config


def mixed(
    places: str, studies: Counter[str], contents: Mapping[str, tuple[Mapping[str, Any], Fingerprints]]
) -> SourcewiseError:
    """Return the error for records of several studies.

    studies: the number of records of each. contents: config and fingerprints of one record of each.
    """
    counts = ", ".join(f"{study} ({count} records)" for study, count in studies.most_common())
    choices = "choose one folder, or filters.group=<study>"
    recipes = {recorded_recipe(config) for config, _ in contents.values()}
    if len(recipes) > 1 or "" in recipes:
        return SourcewiseError(f"records={places}: records of different recipes do not mix: {counts}; {choices}")
    (config, first), *further = contents.values()
    source = str(config["source"]["name"])
    differ = list(dict.fromkeys(name for _, data in further for name in differing(data, first, source)))
    reason = f"other data ({', '.join(differ)} differs)" if differ else "the same data, under several names,"
    return SourcewiseError(f"records={places}: records of one recipe and {reason} do not mix: {counts}; {choices}")


def _data(config: Mapping[str, Any]) -> Fingerprints:
    """Return the `data` of a config, by the names of source and targets; nothing if it is not a run's."""
    try:
        return {name.removeprefix("target."): str(value) for name, value in names.data(config).items()}
    except (KeyError, TypeError, AttributeError):
        return {}


Item = TypeVar("Item")


def _bar(items: Iterable[Item], shown: bool, total: int | None = None) -> Iterable[Item]:
    """Return the items with a progress bar, which only a terminal shows."""
    return tqdm(items, "records", total, leave=False, unit="", disable=None if shown else True)


def _read(file: Path) -> Record | str:
    """Return the record in a file, or the reason why it cannot be used."""
    try:
        return _checked(record.read(file))
    except RecordError as error:
        return str(error).removeprefix(f"{file}: ")


def _checked(item: Record) -> Record | str:
    """Return the record, or the reason why it cannot be used: it has the name of another run."""
    with suppress(KeyError, TypeError, AttributeError):
        run = names.run_name(item.header.config)
        # Names that sourcewise gives end with a hash of the run's settings; makers of other records may choose theirs.
        if re.fullmatch(r".+-[0-9a-f]{8}", item.header.run) and item.header.run != run:
            return f"it is called {item.header.run}, and its config is that of {run}"
    return item


def _disagreement(run: RemoteRun, item: Record) -> str | None:
    """Return how a record disagrees with the config of its run in W&B; None when they agree."""
    try:
        in_wandb, in_record = (
            {"recipe": names.recipe(config), "data": names.data(config), "subset": config["subset"]}
            for config in (run.config, item.header.config)
        )
        in_wandb |= {"seed": run.config["seed"]}
        in_record |= {"seed": item.header.seed}
    except (KeyError, TypeError, AttributeError, RecursionError):
        return "its config in W&B is not that of a run"
    for key, value in in_wandb.items():
        if fingerprint(value) != fingerprint(in_record[key]):
            return f"its record was made with another {key} than its config in W&B says"
    return None


def _without_outputs(run: RemoteRun) -> Record | str:
    """Return a record without outputs, whose metrics are a W&B run's summary, or the reason why there is none."""
    try:
        mask, group_names = browsing.read_subset(run.summary)
        unknown: dict[str, Any] = {"class_names": {}, "fingerprints": {}, "metrics": {}, "versions": {}}
        header = Header.from_config(run.config, group_names=group_names, commit=None, device="", **unknown)
        header = replace(header, study=run.group)  # which an older sourcewise named otherwise
        record.check(Record(mask, {}, header))
        return Record(mask, {}, replace(header, metrics=run.summary))
    except (KeyError, TypeError, AttributeError, ValueError, OverflowError, RecursionError, SourcewiseError):
        return f"{run.name} logged no subset, or its config is not that of a run"
