"""Files of group names and of rankings, which people, estimates and chosen designs hand to each other."""

import csv
import io
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from sourcewise.core.errors import SourcewiseError
from sourcewise.core.files import write_atomically


@dataclass(frozen=True)
class Ranking:
    """Scores of groups, low ones for the worst; NaN where a group's score is not known. name: how runs call it."""

    scores: Mapping[str, float]
    name: str


def write_names(path: Path, title: str, names: Iterable[str]) -> None:
    """Write a list of names for `subset=listed`, a name a line, below the line `# <title>`.

    A name that a line cannot hold as it is stands there as a JSON string.
    """
    lines = [name if _fits_a_line(name) else json.dumps(name) for name in names]
    write_atomically(path, "\n".join([f"# {title}", *lines, ""]).encode())


def read_names(path: str, setting: str, instead: str = "") -> list[str]:
    """Return the names in a list that `write_names` wrote, or a person; lines that begin with # hold none.

    setting: what errors call the list. instead: how names themselves are given, if not as `<setting>=[...]`. Raises
    SourcewiseError when it cannot be read.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
        names = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
        return [str(json.loads(name)) if name.startswith('"') else name for name in names]
    except FileNotFoundError as error:
        raise SourcewiseError(
            f"{setting}={path}: there is no such file of names; names themselves go in brackets:"
            f" '{instead or f'{setting}=[{path}]'}'"
        ) from error
    except (OSError, ValueError) as error:
        raise SourcewiseError(f"{setting}={path}: cannot read this list of names ({error})") from error


def write_ranking(path: Path, scores: Mapping[str, float]) -> None:
    """Write scores by group as a CSV for `subset=ranked`: the worst first, those that are not known (NaN) last."""
    ordered = sorted(scores.items(), key=lambda item: (math.isnan(item[1]), item[1]))
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["group", "score"])
    rows.writerows([group, "" if math.isnan(score) else f"{score:.9g}"] for group, score in ordered)
    write_atomically(path, text.getvalue().encode())


def read_ranking(path: Path, target: str | None, setting: str = "subset.ranking") -> Ranking:
    """Return the ranking in a CSV with the columns group,score, or that of an influences.nc.

    target: which target's influences these must be; None: any. setting: which names the file, for messages.

    Raises SourcewiseError for another target, or a file that cannot be read as either.
    """
    try:
        return _read_ranking(path, path.stat().st_mtime_ns, target)
    except (OSError, ValueError, KeyError) as error:
        reason = f"it has no {error}" if isinstance(error, KeyError) else str(error)
        raise SourcewiseError(
            f"{setting}={path}: cannot read scores of groups in it ({reason});"
            " give an influences.nc, or a CSV with the columns group,score"
        ) from error


@lru_cache(maxsize=8)  # a sweep asks for the same file once a run
def _read_ranking(path: Path, changed: int, target: str | None) -> Ranking:
    """Return the ranking in a file; changed: when the file was last written to, in ns, so that old content is not."""
    if path.suffix == ".csv":
        with path.open(encoding="utf-8", newline="") as file:
            rows = [(row["group"], float(row["score"] or "nan")) for row in csv.DictReader(file)]
        name = path.stem
    else:
        import xarray as xr  # slow to import, and most runs need none of it

        with xr.open_dataset(path, engine="h5netcdf") as dataset:
            # Of larger studies and in older files there is no ranking.
            key = next(name for name in ("ranking", "posterior_overall", "influence_overall") if name in dataset)
            values = dataset[key].values.astype(float).tolist()
            rows = list(zip(dataset["group"].values.astype(str).tolist(), values, strict=True))
            estimated_on = dataset.attrs["target"]
        if target not in (None, estimated_on):
            raise SourcewiseError(f"subset.target={target}: {path} holds influences on {estimated_on}")
        name = f"{path.stem}/{estimated_on}"
    if not rows or len(dict(rows)) < len(rows):
        raise ValueError("it names a group twice" if rows else "it is empty")
    return Ranking(dict(rows), name)


def _fits_a_line(name: str) -> bool:
    return bool(name) and name == name.strip() and name.isprintable() and not name.startswith(("#", '"'))
