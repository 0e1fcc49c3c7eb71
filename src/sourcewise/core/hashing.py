"""The canonical hash of settings: equal settings have equal hashes, on every machine and in every version."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any


def fingerprint(value: Any, length: int = 10) -> str:
    """Return the first `length` hex digits of the SHA-256 of a value's canonical JSON.

    The order of keys does not count, and neither does whether a whole number is written as 1 or as 1.0.

    >>> fingerprint({"lr": 1, "mode": "fixed"}) == fingerprint({"mode": "fixed", "lr": 1.0})
    True
    """
    text = json.dumps(_canonical(value), sort_keys=True, separators=(",", ":"), allow_nan=True)
    return hashlib.sha256(text.encode()).hexdigest()[:length]


def _canonical(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _canonical(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_canonical(item) for item in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value
