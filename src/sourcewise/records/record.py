"""The record: one safetensors file with everything that a run leaves. No other module knows its bytes."""

import hashlib
import json
import re
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from sourcewise.core import names, settings
from sourcewise.core.errors import SourcewiseError
from sourcewise.core.files import open_regular, write_atomically
from sourcewise.core.hashing import fingerprint
from sourcewise.core.results_folder import RESERVED
from sourcewise.core.splits import PARTS
from sourcewise.designs import recorded_design

SCHEMA = 1

MAX_BYTES = 2**28
"""Bytes that a record may have, wherever it comes from."""
MAX_PATH = 4096
"""Bytes that a path may have, on average over a target."""

_LATER = ("overrides", "random_design", "finished", "group_sizes")
"""Fields of the header that the first records did not have."""

SOURCE = "source"
"""The name of outputs on the source, which no target may have."""


class RecordError(SourcewiseError):
    """A file that cannot be used as a record; the message says which file and why."""


class Damaged(RecordError):  # noqa: N818
    """A file that is not what was written: truncated, changed, or of another kind."""


@dataclass(frozen=True)
class TargetOutputs:
    """Outputs on one target, one row per test example, sorted by id.

    ids, labels, prediction: int32[n]; prob (of the correct class) and margin (its logit minus logsumexp of the others):
    float16[n]. label_mapping, feature_mapping: float32[target classes, groups], see `baselines`; only in records of
    runs that keep all groups. label_mapping_parts, feature_mapping_parts: float16[PARTS, target classes, groups], the
    same for each part of the examples (see `core.splits`); not in older records. packed_paths: files of the examples,
    see `pack_paths`; None where there are none.
    """

    ids: NDArray[np.int32]
    labels: NDArray[np.int32]
    prediction: NDArray[np.int32]
    prob: NDArray[np.float16]
    margin: NDArray[np.float16]
    label_mapping: NDArray[np.float32] | None = None
    feature_mapping: NDArray[np.float32] | None = None
    label_mapping_parts: NDArray[np.float16] | None = None
    feature_mapping_parts: NDArray[np.float16] | None = None
    packed_paths: NDArray[np.uint8] | None = None

    @property
    def paths(self) -> NDArray[np.object_] | None:
        """The file of every example as seen from its dataset's root, None for one without; None where no file is known.

        Raises RecordError when they cannot be unpacked.
        """
        return None if self.packed_paths is None else _unpack_paths(self.packed_paths, len(self.ids))

    def columns(self) -> dict[str, NDArray[Any]]:
        """Return the arrays that there are, by name."""
        return {name: column for name in _COLUMNS if (column := getattr(self, name)) is not None}


@dataclass(frozen=True)
class Header:
    """Everything in a record besides its arrays; all of it is JSON.

    group_names: null when groups are examples. metrics: float scalars such as `target/digits/accuracy`.
    fingerprints: dataset name to hash of its content. seconds: wall time by stage. overrides: the recipe's settings of
    the command line that made the run. random_design: whether the design draws subsets at random. finished: when all
    stages were done, in seconds since 1970. group_sizes: source examples of each group; None when groups are examples.
    The last four are None in older records.
    """

    study: str
    run: str
    recipe: str
    config: Mapping[str, Any]
    design: str
    subset_seed: int | None
    seed: int
    group_names: list[str] | None
    class_names: Mapping[str, list[str]]
    fingerprints: Mapping[str, str]
    metrics: Mapping[str, float]
    versions: Mapping[str, str]
    commit: str | None
    device: str
    seconds: Mapping[str, float] = field(default_factory=dict)
    overrides: list[str] | None = None
    random_design: bool | None = None
    finished: float | None = None
    group_sizes: list[int] | None = None

    @classmethod
    def from_config(cls, config: names.Config, **fields: Any) -> "Header":
        """Return the header of a run of a resolved config; fields: those that are not in the config.

        Raises KeyError, TypeError or AttributeError for a config of another kind.
        """
        return cls(
            study=names.study_name(config),
            run=names.run_name(config),
            recipe=fingerprint(names.recipe(config)),
            config=config,
            design=config["subset"]["design"],
            subset_seed=config["subset"].get("seed"),
            seed=config["seed"],
            **fields,
        )

    @property
    def is_random(self) -> bool:
        """Whether the subset was drawn at random, so that influences may rest on the record."""
        return recorded_design(self.design).is_random if self.random_design is None else self.random_design

    def as_json(self) -> dict[str, Any]:
        """Return the fields by name. Those that older records lack are left out while they are None."""
        return {name: value for name, value in vars(self).items() if name not in _LATER or value is not None}


@dataclass(frozen=True)
class Record:
    """The subset `mask: bool[groups]`, the outputs on every target, and the header.

    source: outputs on the examples of the source, of runs with `source.outputs=true`.
    """

    mask: NDArray[np.bool_]
    targets: Mapping[str, TargetOutputs]
    header: Header
    source: TargetOutputs | None = None

    @property
    def outputs(self) -> Mapping[str, TargetOutputs]:
        """All outputs by target, and those on the source under the name SOURCE."""
        return {**self.targets, **({SOURCE: self.source} if self.source else {})}

    def __post_init__(self) -> None:
        for target, outputs in self.outputs.items():
            bad = int((~np.isfinite(outputs.prob) | np.isnan(outputs.margin)).sum())
            if bad:
                raise RecordError(f"{self.header.run}: {bad} outputs on target {target} are not numbers")


def write(record: Record, path: Path) -> None:
    """Write atomically: a reader sees the whole record or none.

    Raises OSError when the disk does not take it, and RecordError when it is too large to be read again.
    """
    content = to_bytes(record)
    if len(content) > MAX_BYTES:
        raise RecordError(f"{path}: {len(content):,} bytes; a record has at most {MAX_BYTES:,}")
    write_atomically(path, content)


def read(path: Path) -> Record:
    """Read and verify a record.

    Raises RecordError for a missing, truncated, foreign, changed or too large file, or another schema.
    """
    content = _content(path)
    try:
        return from_bytes(content, str(path))
    except Damaged as error:
        raise Damaged(f"{error}; delete it and repeat the command that made it") from error


def _content(path: Path) -> bytes:
    """Return the bytes of a regular file. Raises RecordError for anything else, which a reader might wait for."""
    try:
        with open_regular(path) as (file, size):
            if size > MAX_BYTES:
                raise RecordError(f"{path}: {size:,} bytes; a record has at most {MAX_BYTES:,}")
            return file.read(size)
    except OSError as error:
        raise RecordError(f"{path}: cannot be read ({error.strerror})") from error


def to_bytes(record: Record) -> bytes:
    """Return the content of the record's file. Equal records give equal bytes."""
    tensors = {"mask": np.packbits(record.mask)}
    for target, outputs in record.outputs.items():
        for name, column in outputs.columns().items():
            tensors[f"{target}/{name}"] = np.ascontiguousarray(column, dtype=_COLUMNS[name])
    header = json.dumps({"schema": SCHEMA, "groups": len(record.mask), **record.header.as_json()}, sort_keys=True)
    tensors["sha256"] = _checksum(header, tensors)
    return save(tensors, {"sourcewise": header})


def from_bytes(content: bytes, name: str) -> Record:
    """Return the record that a file holds. name: what errors call the file. Raises RecordError as `read` does."""
    try:
        tensors = load(content)
        header = metadata(content)
        fields = json.loads(header)
        schema = fields.pop("schema")
        written = tensors.pop("sha256")
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise Damaged(f"{name}: not a whole sourcewise record (truncated, or another kind of file)") from error
    if schema != SCHEMA:
        raise RecordError(f"{name}: a record of schema {schema}, and this sourcewise reads schema {SCHEMA}")
    if not np.array_equal(written, _checksum(header, tensors)):
        raise Damaged(f"{name}: its content was changed since it was written (checksum differs)")
    try:
        mask = unpack_mask(tensors.pop("mask"), fields.pop("groups"))
        targets: dict[str, dict[str, NDArray[Any]]] = {}
        # By target, then column: safetensors' own order differs from process to process.
        for key, array in sorted(tensors.items(), key=lambda item: item[0].rpartition("/")):
            target, _, column = key.rpartition("/")
            targets.setdefault(target, {})[column] = array
        outputs = {target: TargetOutputs(**columns) for target, columns in targets.items()}
        source = outputs.pop(SOURCE, None)
        item = Record(mask, outputs, Header(**fields), source)
        check(item)
        return item
    except (KeyError, TypeError, ValueError, SourcewiseError) as error:
        raise RecordError(f"{name}: a record with missing or unknown parts ({str(error)[:200]})") from error


def metadata(content: bytes) -> str:
    """Return what the header of a safetensors file holds of ours. Raises ValueError, KeyError or TypeError."""
    text: str = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])["__metadata__"]["sourcewise"]
    return text


def unpack_mask(bits: NDArray[np.uint8], groups: int) -> NDArray[np.bool_]:
    """Return the mask, `bool[groups]`, that `np.packbits` packed.

    Raises ValueError unless there are as many bytes as the groups take.
    """
    if bits.size != -(-groups // 8):
        raise ValueError(f"{bits.size} bytes of mask for {groups} groups")
    return np.unpackbits(bits, count=groups).astype(bool)


def pack_paths(paths: Sequence[str | None] | NDArray[np.object_]) -> NDArray[np.uint8]:
    """Return paths of files, None where there is none, as compressed bytes, `uint8[bytes]`: 2 to 20 for a path.

    A reader of a thousand records unpacks them once.
    """
    text = "\0".join(path or "" for path in paths)
    return np.frombuffer(zlib.compress(text.encode(errors="replace")), np.uint8)


def _unpack_paths(packed: NDArray[np.uint8], examples: int) -> NDArray[np.object_]:
    """Return the paths that `pack_paths` packed. Raises RecordError unless there are as many as examples."""
    limit = MAX_PATH * max(examples, 1)
    try:
        content = zlib.decompressobj().decompress(packed.tobytes(), limit)
        paths = [path or None for path in content.decode().split("\0")]
    except (zlib.error, UnicodeDecodeError) as error:
        raise RecordError("the record's paths of examples cannot be unpacked") from error
    if len(paths) != max(examples, 1) or len(content) == limit:
        raise RecordError(f"the record's paths of examples are not those of its {examples:,} examples")
    return np.array(paths[:examples], object)


def is_name(target: str) -> bool:
    """Return whether a target may have this name, since results are written to a folder of that name."""
    return re.fullmatch(r"\w[\w .+-]*", target) is not None and target.casefold() not in RESERVED


def digest(record: Record) -> str:
    """Return a hash of all that the same config gives again on the same machine.

    Times do not count, and neither do the fields on the command that made the run, which older records do not have, nor
    the paths of examples, nor whether the source model is kept, or was.
    """
    config = {key: value for key, value in record.header.config.items() if key not in names.KEEPING}
    fields = {**vars(record.header), "seconds": {}, "config": config}
    for name in _LATER:
        del fields[name]
    state = hashlib.sha256(json.dumps(fields, sort_keys=True).encode())
    state.update(record.mask.tobytes())
    for target in sorted(record.outputs):
        for column in replace(record.outputs[target], packed_paths=None).columns().values():
            state.update(column.tobytes())
    return state.hexdigest()


_HEADER_TYPES = get_type_hints(Header)

_COLUMNS = {
    "ids": np.int32,
    "labels": np.int32,
    "prediction": np.int32,
    "prob": np.float16,
    "margin": np.float16,
    "label_mapping": np.float32,
    "feature_mapping": np.float32,
    "label_mapping_parts": np.float16,
    "feature_mapping_parts": np.float16,
    "packed_paths": np.uint8,
}


def check(record: Record) -> None:
    """Raise ValueError, KeyError or SourcewiseError unless a record has the types, shapes and ranges that it should.

    The checksum reveals accidents. This guards against records that were made by other means: they must not make a
    reader fail, take memory, or write outside its folder.
    """
    for name, hint in _HEADER_TYPES.items():
        settings.check_value(getattr(record.header, name), hint, name)
    group_names = record.header.group_names
    other_fields = json.dumps({**vars(record.header), "group_names": None}, ensure_ascii=False)
    "".join([other_fields, *(group_names or [])]).encode()  # half a character cannot be printed
    if group_names is not None and len(group_names) != len(record.mask):
        raise ValueError(f"{len(group_names)} group names for {len(record.mask)} groups")
    sizes = record.header.group_sizes
    if sizes is not None and (len(sizes) != len(record.mask) or min(sizes, default=0) < 0):
        raise ValueError(f"sizes of groups that are not those of {len(record.mask)} groups")
    config = record.header.config
    if config["subset"]["design"] != record.header.design or not isinstance(config["source"]["name"], str):
        raise ValueError("its design is not that of its config, or its source has no name")
    for kind, labels in {**record.header.class_names, "group": group_names or []}.items():
        if len(set(labels)) < len(labels):
            raise ValueError(f"names of {kind} that are not unique")
    for target, outputs in record.outputs.items():
        if not is_name(target):
            raise ValueError(f"a target that is called {target!r}")
        classes = len(record.header.class_names[target]) if target != SOURCE else np.iinfo(np.int32).max
        table = (classes, len(record.mask))
        for name, column in outputs.columns().items():
            shape = outputs.ids.shape[:1]
            if name == "packed_paths":
                shape = column.shape[:1]
            elif "mapping" in name:
                shape = (PARTS, *table) if name.endswith("_parts") else table
            if column.dtype != _COLUMNS[name] or column.shape != shape:
                raise ValueError(f"{target}/{name} is {column.dtype}{list(column.shape)}")
        for column in (outputs.labels, outputs.prediction):
            if len(column) and not 0 <= column.min() <= column.max() < classes:
                raise ValueError(f"{target}: labels that none of its {classes} classes has")


def _checksum(header: str, tensors: Mapping[str, NDArray[Any]]) -> NDArray[np.uint8]:
    return checksum(header, ((name, tensors[name].shape, [tensors[name]]) for name in sorted(tensors)))


def checksum(header: str, tensors: Iterable[tuple[str, tuple[int, ...], Iterable[NDArray[Any]]]]) -> NDArray[np.uint8]:
    """Return the SHA-256 of the header and all other tensors, `uint8[32]`.

    tensors: in the order of their names, each with its shape and in parts along the first axis.
    """
    state = hashlib.sha256(header.encode())
    for name, shape, parts in tensors:
        for number, part in enumerate(parts):
            if not number:
                state.update(f"\0{name}\0{part.dtype.name}\0{shape}\0".encode())
            state.update(np.ascontiguousarray(part).data)
    return np.frombuffer(state.digest(), dtype=np.uint8)
