"""A bank: all records of a study in one safetensors file, which is read as they are, one at a time.

Tensors: `mask`, the packed bits of a run in each row; for each target `<target>/ids`, `/labels` and `/packed_paths`,
once, and the other columns of records with a row for each run. The header's one entry, `sourcewise`, is JSON: what the
headers of all runs share, what each adds, and the runs of those columns that not all runs have. The tensor `sha256`
covers all of it, as in a record.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from sourcewise.core.errors import SourcewiseError
from sourcewise.core.files import write_atomically
from sourcewise.core.spool import Spool
from sourcewise.records import record
from sourcewise.records.record import SOURCE, Header, Record, RecordError, TargetOutputs

SUFFIX = ".safetensors"
"""How the names of banks end."""
SCHEMA = 1
MAX_HEADER = 100_000_000
"""Bytes that the header of a safetensors file may have; its readers refuse more."""

_ONCE = ("ids", "labels", "packed_paths")
"""Columns that are the same in all records of a study."""
_BLOCK = 2**24
"""Bytes of a tensor that are in memory at a time."""
_DTYPES = {"uint8": "U8", "int32": "I32", "float16": "F16", "float32": "F32"}


def write(path: Path, records: Iterable[Record]) -> None:
    """Write the records of one study as a bank, atomically, in memory that does not grow with their outputs.

    Raises SourcewiseError when examples or groups are not those of the first record, or the runs are too many for a
    header; OSError when the disk does not take it.
    """
    shared: dict[str, Any] = {}
    runs: list[dict[str, Any]] = []
    rows: dict[str, list[int]] = defaultdict(list)
    spools: dict[str, Spool] = defaultdict(Spool)
    tensors: dict[str, NDArray[Any]] = {}
    groups = None
    for run, item in enumerate(records):
        fields = json.loads(json.dumps(item.header.as_json()))
        common = _common(shared, fields) if runs else fields
        if common != shared:
            lost = _beyond(shared, common)
            runs, shared = [_merged(lost, added) for added in runs], common
        runs.append(_beyond(fields, shared))
        groups = len(item.mask) if groups is None else groups
        spools["mask"].append(np.packbits(item.mask))
        for target, outputs in item.outputs.items():
            for name, column in outputs.columns().items():
                key = f"{target}/{name}"
                if name not in _ONCE:
                    spools[key].append(column)
                    rows[key].append(run)
                elif not np.array_equal(tensors.setdefault(key, column), column) and name != "packed_paths":
                    raise SourcewiseError(f"{item.header.run}: its examples of {target} are not those of other runs")
        if len(item.mask) != groups:
            raise SourcewiseError(f"{item.header.run}: its {len(item.mask)} groups are not {groups}, as of other runs")
    tensors |= {key: spool.array() for key, spool in spools.items()}
    partial_rows = {key: numbers for key, numbers in rows.items() if len(numbers) < len(runs)}
    content = {"schema": SCHEMA, "kind": "bank", "groups": groups, "shared": shared, "runs": runs, "rows": partial_rows}
    header = json.dumps(content, sort_keys=True)
    parts = ((key, tensors[key].shape, _blocks(tensors[key])) for key in sorted(tensors))
    tensors["sha256"] = record.checksum(header, parts)
    write_atomically(path, _file(path, header, tensors))


def read(path: Path) -> Iterator[Record]:
    """Yield the records of a bank, in the order in which they were written.

    Raises RecordError, in one line, for a file that is no bank, is truncated, was changed, or does not fit together.
    """
    if not path.is_file():
        raise RecordError(f"{path}: there is no such bank")
    try:
        with safe_open(path, "np") as file:
            yield from _records(path, file)
    except (SafetensorError, OSError) as error:
        raise record.Damaged(f"{path}: not a whole bank of sourcewise (truncated, or another kind of file)") from error


def _records(path: Path, file: Any) -> Iterator[Record]:
    """Yield the records of an open bank."""
    try:
        header = (file.metadata() or {})["sourcewise"]
        content = json.loads(header)
        if content.get("kind") != "bank":
            raise RecordError(f"{path}: not a bank; if it is one record, name its folder")
        if content["schema"] != SCHEMA:
            raise RecordError(f"{path}: a bank of schema {content['schema']}; this sourcewise reads {SCHEMA}")
        slices = {key: file.get_slice(key) for key in sorted(file.keys()) if key != "sha256"}
        expected = file.get_tensor("sha256")
    except (KeyError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise record.Damaged(f"{path}: not a whole bank of sourcewise (truncated, or another kind of file)") from error
    parts = ((key, tuple(part.get_shape()), _blocks(part)) for key, part in slices.items())
    if not np.array_equal(expected, record.checksum(header, parts)):
        raise record.Damaged(f"{path}: its content was changed since it was written (checksum differs)")
    try:
        runs, rows = content["runs"], content["rows"]
        places = {key: _places(key, rows.get(key), slices[key].get_shape(), len(runs)) for key in _per_run(slices)}
        once = {key: file.get_tensor(key) for key in slices if key not in places}
        for run, added in enumerate(runs):
            columns: dict[str, dict[str, NDArray[Any]]] = defaultdict(dict)
            for key, place in places.items():
                if key != "mask" and run in place:
                    target, _, name = key.rpartition("/")
                    columns[target][name] = slices[key][place[run] : place[run] + 1][0]
            for target, fields in columns.items():
                fields |= {name: once[key] for name in _ONCE if (key := f"{target}/{name}") in once}
            outputs = {target: TargetOutputs(**fields) for target, fields in sorted(columns.items())}
            mask = record.unpack_mask(slices["mask"][run : run + 1][0], content["groups"])
            source = outputs.pop(SOURCE, None)
            item = Record(mask, outputs, Header(**_merged(content["shared"], added)), source)
            record.check(item)
            yield item
    except (KeyError, TypeError, ValueError, AttributeError, SourcewiseError) as error:
        raise RecordError(f"{path}: a bank with missing or unknown parts ({str(error)[:200]})") from error


def _per_run(keys: Iterable[str]) -> list[str]:
    """Return the tensors that have a row for each run."""
    return [key for key in keys if key.rpartition("/")[2] not in _ONCE]


def _places(key: str, runs: Any, shape: list[int], count: int) -> Mapping[int, int]:
    """Return the row of each run in a tensor. Raises ValueError unless it has as many rows as runs."""
    numbers = range(count) if runs is None else runs
    if len(shape) < 1 or shape[0] != len(numbers) or not all(type(run) is int for run in numbers):
        raise ValueError(f"{key} has the shape {shape}, for {len(numbers)} runs")
    return {run: row for row, run in enumerate(numbers)}


def _blocks(tensor: Any) -> Iterator[NDArray[Any]]:
    """Yield an array, or a slice of a file, in parts along the first axis; at least one."""
    shape = tensor.shape if isinstance(tensor, np.ndarray) else tensor.get_shape()
    size = max(1, _BLOCK // max(4 * int(np.prod(shape[1:])), 1))
    for start in range(0, max(shape[0], 1), size):
        yield tensor[start : min(start + size, shape[0])]


def _file(path: Path, header: str, tensors: Mapping[str, NDArray[Any]]) -> Iterator[bytes]:
    """Return the bytes of a safetensors file in parts. Raises SourcewiseError when its header is too large."""
    order = sorted(tensors, key=lambda key: (-tensors[key].itemsize, key))  # so that all are aligned
    entries: dict[str, Any] = {"__metadata__": {"sourcewise": header}}
    end = 0
    for key in order:
        start, end = end, end + tensors[key].nbytes
        dtype = _DTYPES[tensors[key].dtype.name]
        entries[key] = {"dtype": dtype, "shape": list(tensors[key].shape), "data_offsets": [start, end]}
    text = json.dumps(entries).encode()
    text += b" " * (-len(text) % 8)
    if len(text) > MAX_HEADER:
        raise SourcewiseError(f"{path}: {len(text):,} bytes on its runs; a bank has at most {MAX_HEADER:,} of them")
    yield len(text).to_bytes(8, "little") + text
    for key in order:
        yield from map(partial(np.ndarray.tobytes), _blocks(tensors[key]))


def _common(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """Return what two nested mappings share: equal values, and of mappings in both what these share."""
    shared = {}
    for key in first.keys() & second.keys():
        a, b = first[key], second[key]
        if _same(a, b):
            shared[key] = a
        elif isinstance(a, dict) and isinstance(b, dict) and (inner := _common(a, b)):
            shared[key] = inner
    return shared


def _beyond(fields: Mapping[str, Any], shared: Mapping[str, Any]) -> dict[str, Any]:
    """Return what `_merged` must add to the shared part to give the fields again."""
    return {
        key: _beyond(value, shared[key]) if key in shared else value
        for key, value in fields.items()
        if key not in shared or not _same(value, shared[key])
    }


def _merged(shared: Mapping[str, Any], added: Mapping[str, Any]) -> dict[str, Any]:
    """Return two nested mappings as one; where both have a key, both values are mappings."""
    both = {key: _merged(shared[key], added[key]) for key in shared.keys() & added.keys()}
    return {**shared, **added, **both}


def _same(a: Any, b: Any) -> bool:
    """Return whether two values are the same JSON: 1, 1.0 and true are not."""
    return a is b or (a == b and json.dumps(a, sort_keys=True) == json.dumps(b, sort_keys=True))
