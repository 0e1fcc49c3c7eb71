"""The names of things: a config's recipe and its hash, the study and the run that it belongs to, and their folders.

Light on purpose (no torch): a sweep names thousands of runs before it starts one.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

RECORD = "record.safetensors"

REVISION = 1
"""Raised when a change of sourcewise's own training code changes outputs, so that old and new records stay apart."""

NOT_RECIPE = frozenset({"root", "cache_dir", "obtain", "num_workers"})
"""Keys that say where, how fast or how to obtain, at any depth: they do not decide outputs (dataset fingerprints guard
the data)."""

SINCE: Mapping[str, Any] = {"groups": "class", "outputs": False}
"""Settings of the source that came after the first studies, as they were until then: left out of the recipe at this
value, so that old records and new ones are of one study."""

Config = Mapping[str, Any]


def recipe(config: Config) -> dict[str, Any]:
    """All settings of a resolved run config that decide outputs, apart from the subset and the seeds."""
    trainer = config["trainer"]
    return {
        "revision": REVISION,
        "source": _decisive({k: v for k, v in config["source"].items() if k not in SINCE or v != SINCE[k]}),
        "target": _decisive(config["target"]),
        "model": _decisive(config["model"]),
        "precision": trainer["precision"],
        # Each device normalises its own part of a batch, unless they tell each other.
        "batchnorm_parts": 1 if trainer["sync_batchnorm"] else trainer["devices"],
    }


def fingerprint(value: Any, length: int = 10) -> str:
    """Hash of a JSON-able value: SHA-256 of its canonical JSON, in hex; 1 and 1.0 are the same setting."""
    text = json.dumps(_canonical(value), sort_keys=True, separators=(",", ":"), allow_nan=True)
    return hashlib.sha256(text.encode()).hexdigest()[:length]


def study_name(config: Config) -> str:
    """The study's folder: a readable part and the recipe's hash."""
    transfers = "+".join(sorted({_transfer_name(target["transfer"]) for target in config["target"].values()}))
    parts = (config["source"]["name"], "+".join(config["target"]), config["model"]["name"], transfers)
    readable = config.get("study") or "-".join(map(str, parts))
    return f"{_slug(str(readable))}-{fingerprint(recipe(config))}"


def _transfer_name(transfer: Mapping[str, Any]) -> str:
    """Return the readable name of a transfer: its class, in lower case; in older configs, its mode."""
    return str(transfer.get("mode") or str(transfer["_target_"]).rpartition(".")[2].lower())


def run_name(config: Config) -> str:
    """The run's folder within its study: the same subset settings and training seed, the same name."""
    subset = config["subset"]
    seed = f"-{subset['seed']}" if "seed" in subset else ""
    key = fingerprint({"subset": subset, "seed": config["seed"]}, length=8)
    return _slug(f"{subset['design']}{seed}-seed{config['seed']}-{key}")


def run_dir(config: Config) -> Path:
    """Where the run's record is or will be."""
    return Path(config["runs_dir"]) / study_name(config) / run_name(config)


def is_done(folder: Path) -> bool:
    """Whether the run in this folder is complete: its record is there."""
    with suppress(OSError):  # such as a folder that is another user's
        return (folder / RECORD).is_file()
    return False


def _decisive(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _decisive(item) for key, item in value.items() if key not in NOT_RECIPE}
    if isinstance(value, list | tuple):
        return [_decisive(item) for item in value]
    return value


def _canonical(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _canonical(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_canonical(item) for item in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9.+_-]+", "_", text)[:150]
