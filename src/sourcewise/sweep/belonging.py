"""Whether the record in a run's folder is the run's, of the current data, or another one, which does not count."""

import hashlib
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal, NamedTuple

from sourcewise.core import names
from sourcewise.core.errors import SourcewiseError
from sourcewise.core.hashing import fingerprint
from sourcewise.core.identity import Fingerprints, differing, is_same_run, lies_on_disk, recorded_recipe
from sourcewise.core.names import Config
from sourcewise.records import record as records

State = Literal["missing", "done", "damaged", "unusable", "foreign", "changed"]
"""What a run's folder holds: no record, the run's, a damaged one, one that cannot be read, another run's, or one of
other data."""


class Look(NamedTuple):
    """What a look into a run's folder shows. detail: why it is not done, or the names of the datasets that changed."""

    state: State
    detail: str = ""
    record: records.Record | None = None


def look(folder: Path, config: Config, fingerprints: Callable[[Config], Fingerprints | None]) -> Look:
    """Return whose record lies in the folder of a run with this config.

    fingerprints: reads what the datasets of a config hold, for data that lie on disk. When they cannot be read, records
    count as they are: a sweep that is done needs no data.
    """
    if not names.is_done(folder):
        return Look("missing")
    path = folder / names.RECORD
    try:
        item = records.read(path)
    except records.Damaged as error:
        return Look("damaged", str(error))
    except records.RecordError as error:
        return Look("unusable", str(error))
    header = item.header
    if not is_same_run(header.config, config):
        return Look("foreign", f"{path}: the record of another run ({header.study}/{header.run})")
    if lies_on_disk(config):
        with suppress(SourcewiseError):
            current = fingerprints(config)
            if current and (changed := differing(header.fingerprints, current, config["source"]["name"])):
                return Look("changed", ", ".join(changed))
    return Look("done", record=item)


def set_aside(folder: Path, existing: Look) -> None:
    """Move the record of a run that is to be done again out of the way, and print why. This process holds the run.

    A record that can be read is kept as `record.<hash>.safetensors`, which nothing reads. A damaged one is removed.
    """
    path = folder / names.RECORD
    if existing.state == "damaged":
        path.unlink()
        line = f"{existing.detail.partition(';')[0]}: the run is done again"
    else:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()[:8]
        kept = path.rename(path.with_stem(f"{path.stem}.{digest}"))
        reason = f"{path}: {existing.detail} changed since" if existing.state == "changed" else existing.detail
        line = f"{reason}: it is kept as {kept.name}, and the run is done again"
    print(line, file=sys.stderr, flush=True)


def changed_data(count: int, total: int, folder: Path, changed: str) -> SourcewiseError:
    """Return the error for runs whose records are of other data. folder: of one of them; changed: names of datasets."""
    runs = "this run has a record" if total == 1 else f"{count} of {total} runs have records"
    listed = "" if total == 1 else " (hydra.launcher.status=true lists them)"
    return SourcewiseError(
        f"{folder.parent}: {runs} of other data{listed}: {changed} changed since; nothing was"
        " trained. To keep them and train the data of now beside: study=<another name>. To train these runs anew:"
        f" retrain=true, which keeps their records as {folder.name}/record.<hash>.safetensors, for nothing to read"
    )


def other_studies(config: Config, current: Fingerprints) -> str:
    """Return one line on the studies of a config's recipe that lie beside its own, and how their data differ; or "".

    A study of an older version, whose name depends on the paths of its data, is recognised by the recipe in a record.
    """
    runs, study, key = Path(config["runs_dir"]), names.study_name(config), fingerprint(names.recipe(config))
    older = study.removesuffix(study[-len(f"{key}-01234567") :])
    lines = []
    for folder in sorted({*runs.glob(f"*-{key}-*"), *runs.glob(f"{older}{'[0-9a-f]' * len(key)}")}):
        paths = sorted(folder.glob(f"*/{names.RECORD}"))
        if folder.name == study or not paths:
            continue
        with suppress(records.RecordError):
            header = records.read(paths[0]).header
            if recorded_recipe(header.config) == key:
                changed = ", ".join(differing(header.fingerprints, current, config["source"]["name"]))
                lines.append(f"{folder} ({_runs(paths)}; {f'{changed} differs' if changed else 'the same data'})")
    return (
        f"other studies of this recipe are kept, and these runs are trained anew: {', '.join(lines)}" if lines else ""
    )


def _runs(paths: Sequence[Path]) -> str:
    return f"{len(paths)} run{'s' * (len(paths) != 1)}"
