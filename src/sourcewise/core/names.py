"""The names of things: a config's recipe and its hash, the study and the run that it belongs to, and their folders.

Light on purpose (no torch, no Hydra): a sweep names thousands of runs before it starts one.
"""

import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from sourcewise.core.hashing import fingerprint

RECORD = "record.safetensors"

LOG = "log.txt"

REVISION = 1
"""Raised when a change of sourcewise's own training code changes outputs, so that old and new records stay apart."""

NOT_RECIPE = frozenset({"root", "cache_dir", "obtain", "num_workers"})
"""Keys that say where the data are, how to get them or how fast to read them, at any depth: they do not decide outputs
(the fingerprints of datasets guard the data)."""

LATER: Mapping[str, Any] = {
    "source.groups": "class",
    "source.outputs": False,
    "target.*.transfer.weighted": False,
}
"""Settings that came after the first studies, each with its default; `*` is any target.

A setting at its default is left out of the recipe, so that studies from before it keep their names. A new setting of
the source, of targets or of models needs a row here.
"""

_OURS = ("sourcewise.", "lightning_modules.", "hydra_plugins.")
_UNSET = object()

Config = Mapping[str, Any]


def recipe(config: Config) -> dict[str, Any]:
    """Return all settings of a resolved run config that decide outputs, apart from the subset and the seeds.

    Objects of ours are named without their module, so that code may move; those of others by their full path.
    """
    trainer = config["trainer"]
    return {
        "revision": REVISION,
        "source": _decisive(config["source"], "source"),
        "target": {name: _decisive(target, "target.*") for name, target in config["target"].items()},
        "model": _decisive(config["model"], "model"),
        "precision": trainer["precision"],
        # Each device normalises its own part of a batch, unless the devices share their statistics.
        "batchnorm_parts": 1 if trainer["sync_batchnorm"] else trainer["devices"],
    }


def study_name(config: Config) -> str:
    """Return the name of the study's folder: a readable part and the recipe's hash."""
    transfers = "+".join(sorted({_transfer_name(target["transfer"]) for target in config["target"].values()}))
    parts = (config["source"]["name"], "+".join(config["target"]), config["model"]["name"], transfers)
    readable = config.get("study") or "-".join(map(str, parts))
    return f"{_slug(str(readable))}-{fingerprint(recipe(config))}"


def _transfer_name(transfer: Mapping[str, Any]) -> str:
    """Return the readable name of a transfer: its class, in lower case; in older configs, its mode."""
    return str(transfer.get("mode") or str(transfer["_target_"]).rpartition(".")[2].lower())


def run_name(config: Config) -> str:
    """Return the name of the run's folder within its study: the same for equal subset settings and training seed."""
    subset = config["subset"]
    seed = f"-{subset['seed']}" if "seed" in subset else ""
    key = fingerprint({"subset": subset, "seed": config["seed"]}, length=8)
    return _slug(f"{subset['design']}{seed}-seed{config['seed']}-{key}")


def run_dir(config: Config) -> Path:
    """Return the folder where the run's record is or will be."""
    return Path(config["runs_dir"]) / study_name(config) / run_name(config)


def is_done(folder: Path) -> bool:
    """Return whether the run in this folder is complete: its record is there."""
    with suppress(OSError):  # such as a folder that is another user's
        return (folder / RECORD).is_file()
    return False


def _decisive(value: Any, setting: str) -> Any:
    """Return what counts of a setting's value; setting: its dotted name as in LATER."""
    if isinstance(value, Mapping):
        return {
            key: _short(item) if key == "_target_" else _decisive(item, f"{setting}.{key}")
            for key, item in value.items()
            if key not in NOT_RECIPE and item != LATER.get(f"{setting}.{key}", _UNSET)
        }
    if isinstance(value, list | tuple):
        return [_decisive(item, setting) for item in value]
    return value


def _short(path: Any) -> Any:
    """Return the name that a `_target_` counts by: its last part if it is ours."""
    return path.rpartition(".")[2] if isinstance(path, str) and path.startswith(_OURS) else path


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9.+_-]+", "_", text)[:150]
