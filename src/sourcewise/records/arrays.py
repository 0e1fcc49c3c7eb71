"""Masks and outputs of models that something else trained, from plain files: a record for each row."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import parquet
from scipy.special import expit, logit

from sourcewise.core.errors import SourcewiseError, did_you_mean
from sourcewise.core.messages import first_names
from sourcewise.records.record import Header, Record, TargetOutputs, is_name, pack_paths

DESIGN = "arrays"
"""The design of subsets that a file holds; they count as drawn at random."""
VALUE = "value"
"""The output of numbers of any kind."""
OUTPUTS = ("prob", "margin", "correct", VALUE)
"""Outputs that a file may hold."""
NO_PREDICTION = -1
"""The prediction of a model of which only a number is known."""

_KEYS = ("masks", "outputs", "labels")
_MODEL = "model"
"""The column that names models."""
_CLIP = 1e-4
"""Probabilities nearer to 0 or 1 count as this near on the logit scale."""


@dataclass(frozen=True)
class _Table:
    """A file of numbers: names of the columns, None in a .npy file; values[rows, columns]; names of the rows."""

    file: str
    columns: list[str] | None
    values: NDArray[Any]
    rows: list[str] | None = None

    def cell(self, row: int, column: int) -> str:
        """Return where a cell is, for an error."""
        name = str(column + 1) if self.columns is None else self.columns[column]
        return f"{self.file}: row {row + 1}, column {name}"


def read(files: Mapping[str, str], output: str) -> Iterator[tuple[str, Record]]:
    """Yield a record for each row of the files, with its place.

    Args:
        files: by `masks` (models x groups, 0 or 1), `outputs` (models x examples, numbers), and optionally `labels`
            (a row for each example). CSV and Parquet have names of groups and examples in their header; a column
            `model` names the rows, which are then matched by these names.
        output: what the numbers are, one of `OUTPUTS`.

    Raises SourcewiseError, in one line with file, row and column, for files that do not fit together.
    """
    _check_keys(files)
    if output not in OUTPUTS:
        raise SourcewiseError(f"outputs={output}: of plain arrays, outputs are one of {', '.join(OUTPUTS)}")
    masks, outputs = _numbers(files["masks"]), _numbers(files["outputs"])
    outputs = _matched(masks, outputs)
    _check(masks, (masks.values == 0) | (masks.values == 1), "a mask holds 0 and 1")
    ranges = {"prob": "is no probability; outputs=value takes numbers of any kind", "correct": "is neither 0 nor 1"}
    fits = {"prob": (outputs.values >= 0) & (outputs.values <= 1), "correct": np.isin(outputs.values, (0, 1))}
    if output in fits:
        _check(outputs, fits[output], ranges[output])
    groups = masks.values.shape[1]
    ids, packed = _ids(outputs)
    labels, class_names = _labels(files.get("labels"), outputs)
    stem = Path(files["outputs"]).stem
    target = stem if is_name(stem) and stem != "source" else "target"
    study = f"{DESIGN}-{_digest(masks.values, outputs.values)}"
    for row, (mask, values) in enumerate(zip(masks.values.astype(bool), outputs.values, strict=True)):
        run = masks.rows[row] if masks.rows else f"row {row + 1}"
        header = Header(
            study=study,
            run=run,
            recipe=study.rpartition("-")[2],
            config={"source": {"name": Path(files["masks"]).name}, "subset": {"design": DESIGN}, "seed": row},
            design=DESIGN,
            subset_seed=None,
            seed=row,
            group_names=masks.columns or [str(group) for group in range(groups)],
            class_names={target: class_names},
            fingerprints={},
            metrics={},
            versions={},
            commit=None,
            device="",
            random_design=True,
        )
        model_outputs = TargetOutputs(ids, labels, packed_paths=packed, **_columns(values, output, labels))
        yield f"{files['outputs']}, {run}", Record(mask, {target: model_outputs}, header)


def _check_keys(files: Mapping[str, str]) -> None:
    for key in files:
        if key not in _KEYS:
            raise SourcewiseError(f"records.{key}: plain arrays have {', '.join(_KEYS)}{did_you_mean(key, _KEYS)}")
    for key in _KEYS[:2]:
        if key not in files:
            raise SourcewiseError(f"records: plain arrays need {key}, such as records={{masks: a.csv, outputs: b.csv}}")


def _columns(values: NDArray[Any], output: str, labels: NDArray[np.int32]) -> dict[str, NDArray[Any]]:
    """Return prediction, prob and margin of outputs `[examples]`, as far as their kind tells them."""
    unknown: NDArray[np.int32] = np.full(len(values), NO_PREDICTION, np.int32)
    if output == "correct":
        return {"prediction": np.where(values == 1, labels, unknown), "prob": values, "margin": values}
    if output == "margin":
        return {"prediction": unknown, "prob": expit(values), "margin": values}
    margin = values if output == VALUE else logit(np.clip(values, _CLIP, 1 - _CLIP))
    return {"prediction": unknown, "prob": values, "margin": margin}


def _numbers(file: str) -> _Table:
    """Return a file of numbers, all finite."""
    table = _table(file)
    if isinstance(table, np.ndarray):
        values = table[:, None] if table.ndim == 1 else table
        if values.ndim != 2 or not values.size or values.dtype.kind not in "biuf":
            raise SourcewiseError(f"{file}: {values.dtype}{list(table.shape)}; it should be numbers, models x columns")
        loaded = _Table(file, None, np.asarray(values))
    else:
        names = None
        if table.empty:
            raise SourcewiseError(f"{file}: there is nothing in it")
        if _MODEL in table.columns:
            names = [str(name) for name in table.pop(_MODEL)]
            if twice := {name for name in names if names.count(name) > 1} if len(set(names)) < len(names) else ():
                raise SourcewiseError(f"{file}: two rows are of model {min(twice)}")
        for place, column in enumerate(table.columns):
            if table[column].dtype.kind not in "biuf":
                numbers = pd.to_numeric(table[column], errors="coerce")
                row = int(np.flatnonzero(numbers.isna())[0]) if numbers.isna().any() else 0
                raise SourcewiseError(
                    f"{_Table(file, list(table.columns), np.empty((0, 0))).cell(row, place)}:"
                    f" {table[column].iloc[row]!r} is no number"
                )
        loaded = _Table(file, list(table.columns), table.to_numpy(), names)
    _check(loaded, np.isfinite(loaded.values), "this must be a number; none may be missing")
    return loaded


def _table(file: str) -> NDArray[Any] | pd.DataFrame:
    """Return the content of a file. Raises SourcewiseError when it cannot be read, or names a column twice."""
    kind = Path(file).suffix.lower()
    try:
        if kind == ".npy":
            return np.load(file, mmap_mode="r", allow_pickle=False)  # type: ignore[no-any-return]  # of any type, which is checked
        if kind == ".parquet":
            names = parquet.read_schema(file).names
        elif kind == ".csv":
            with Path(file).open(newline="", encoding="utf-8-sig") as lines:
                names = next(csv.reader(lines), [])
        else:
            raise SourcewiseError(f"{file}: choose a .csv, .npy or .parquet file")
        if twice := [name for place, name in enumerate(names) if name in names[:place]] if _repeats(names) else ():
            raise SourcewiseError(f"{file}: two columns are called {twice[0]!r}")
        if kind == ".parquet":
            table: pd.DataFrame = parquet.read_table(file).to_pandas()
            return table
        return pd.read_csv(file, dtype={_MODEL: str, "example": str, "label": str}, encoding="utf-8-sig")
    except (OSError, ValueError, EOFError, csv.Error, pa.ArrowException) as error:
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise SourcewiseError(f"{file}: cannot be read ({reason[:200]})") from error


def _repeats(names: list[str]) -> bool:
    return len(set(names)) < len(names)


def _matched(masks: _Table, outputs: _Table) -> _Table:
    """Return outputs with their rows in the order of the masks. Raises SourcewiseError unless each has its own."""
    if (masks.rows is None) != (outputs.rows is None):
        named, partner = (masks, outputs) if masks.rows else (outputs, masks)
        raise SourcewiseError(
            f"{named.file} has a column {_MODEL}, and {partner.file} has none: give it to both or none"
        )
    if masks.rows is not None and outputs.rows is not None:
        for table, partner in ((masks, outputs), (outputs, masks)):
            assert table.rows is not None
            assert partner.rows is not None
            if lacking := sorted(set(table.rows) - set(partner.rows)):
                raise SourcewiseError(f"{partner.file}: no row of model {first_names(lacking)}, as {table.file} has")
        row = {name: number for number, name in enumerate(outputs.rows)}
        order = [row[name] for name in masks.rows]
        return _Table(outputs.file, outputs.columns, outputs.values[order], masks.rows)
    if len(masks.values) != len(outputs.values):
        counts = f"{len(outputs.values):,} rows, and {masks.file} has {len(masks.values):,}"
        raise SourcewiseError(f"{outputs.file}: {counts}; each row is a model")
    return outputs


def _check(table: _Table, good: NDArray[np.bool_], problem: str) -> None:
    """Raise SourcewiseError for the first cell that is not good."""
    if not good.all():
        row, column = (int(place[0]) for place in np.nonzero(~good))
        raise SourcewiseError(f"{table.cell(row, column)}: {table.values[row, column]}; {problem}")


def _ids(outputs: _Table) -> tuple[NDArray[np.int32], NDArray[np.uint8] | None]:
    """Return the ids of examples: the names of columns if these are whole numbers; else positions, with the names."""
    positions = np.arange(outputs.values.shape[1], dtype=np.int32)
    if outputs.columns is None:
        return positions, None
    numbers = [int(name) for name in outputs.columns if name.isascii() and name.isdecimal() and len(name) < 10]
    if len(set(numbers)) == len(positions):
        return np.array(numbers, np.int32), None
    return positions, pack_paths(outputs.columns)


def _labels(file: str | None, outputs: _Table) -> tuple[NDArray[np.int32], list[str]]:
    """Return the label of every example and the names of the classes; without a file, all are of one class."""
    count = outputs.values.shape[1]
    if file is None:
        return np.zeros(count, np.int32), ["all"]
    table = _table(file)
    if isinstance(table, np.ndarray):
        if table.shape != (count,):
            raise SourcewiseError(f"{file}: its shape is {list(table.shape)}; {outputs.file} has {count:,} examples")
        names = [str(label) for label in table.tolist()]
    else:
        if missing := [name for name in ("example", "label") if name not in table.columns]:
            raise SourcewiseError(f"{file}: there is no column {missing[0]}; it needs example and label")
        examples = [str(example) for example in table["example"]]
        known = outputs.columns or [str(place) for place in range(count)]
        places = {name: place for place, name in enumerate(known)}
        for row, (example, label) in enumerate(zip(examples, table["label"], strict=True)):
            if example not in places:
                raise SourcewiseError(f"{file}: row {row + 1}: example {example} is no column of {outputs.file}")
            if pd.isna(label):
                raise SourcewiseError(f"{file}: row {row + 1}, column label: there is none")
        label_of = dict(zip(examples, map(str, table["label"]), strict=True))
        if lacking := [name for name in known if name not in label_of]:
            raise SourcewiseError(f"{file}: no row for the examples {first_names(lacking)} of {outputs.file}")
        names = [label_of[name] for name in known]
    classes = sorted(set(names))
    row_of = {name: row for row, name in enumerate(classes)}
    return np.array([row_of[name] for name in names], np.int32), classes


def _digest(*arrays: NDArray[Any]) -> str:
    state = hashlib.sha256()
    for array in arrays:
        state.update(np.ascontiguousarray(array).tobytes())
    return state.hexdigest()[:10]
