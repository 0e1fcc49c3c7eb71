"""Results as JSON: frozen dataclasses between modules, plain containers at the edge only."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import Field, field, fields, is_dataclass
from typing import Any

import numpy as np


def json_name(name: str | None) -> Any:
    """Return a dataclass field whose key in JSON is `name`, such as a word that Python keeps for itself.

    None: JSON does not hold it.
    """
    return field(metadata={"json": name})


def to_json(value: Any) -> Any:
    """Return dataclasses, mappings and sequences as what `json.dumps` takes; numbers that are not finite as null.

    A field whose default is None or False is left out where it holds that.

    >>> to_json({"lds": float("nan"), "curve": (1, 2.5)})
    {'lds': None, 'curve': [1, 2.5]}
    """
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if is_dataclass(value):
        return {
            _key(item): to_json(getattr(value, item.name))
            for item in fields(value)
            if _key(item) is not None and not _is_empty(item, getattr(value, item.name))
        }
    if isinstance(value, Mapping):
        return {str(key): to_json(item) for key, item in value.items()}
    return [to_json(item) for item in (value.tolist() if isinstance(value, np.ndarray) else value)]


def _key(item: Field[Any]) -> Any:
    return item.metadata.get("json", item.name)


def _is_empty(item: Field[Any], value: Any) -> bool:
    """Return whether a field holds its default, where that is None or False."""
    return value is item.default and (value is None or value is False)
