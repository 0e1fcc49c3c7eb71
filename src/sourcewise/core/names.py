"""The names of things: a config's recipe and its hash, the study and the run that it belongs to, and their folders.

Light on purpose (no torch, no Hydra): a sweep names thousands of runs before it starts one.
"""

import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from sourcewise.core.errors import SourcewiseError
from sourcewise.core.hashing import fingerprint

RECORD = "record.safetensors"

MODEL = "model.safetensors"

LOG = "log.txt"

REVISION = 2
"""Raised when a change of sourcewise's own training code changes outputs, so that old and new records stay apart."""

NOT_RECIPE = frozenset({"root", "cache_dir", "obtain", "num_workers"})
"""Keys that say where the data are, how to get them or how fast to read them, at any depth: they do not decide outputs
(the fingerprints of datasets guard the data)."""

KEEPING = ("keep_model", "models")
"""Settings at the top that say which source models are kept and used: the record of a run is the same without them."""

LATER: Mapping[str, Any] = {
    "source.groups": "class",
    "source.outputs": False,
    "source.pretraining.length": 1.0,
    "target.*.transfer.length": 1.0,
    "target.*.transfer.weighted": False,
    "model.weights": None,
}
"""Settings that came after the first studies, each with its default; `*` is any target.

A setting at its default is left out of the recipe, so that studies from before it keep their names. A new setting of
the source or its pretraining, of a target or its transfer, or of the model needs a row here.
"""

DATA = "data"
"""The setting of a source or target that holds what its datasets are, by content (see `core.identity`): where its file
names no dataset. It is no part of the recipe, and it names the study beside the recipe."""

_OURS = ("sourcewise.", "lightning_modules.", "hydra_plugins.")
_UNSET = object()

Config = Mapping[str, Any]


def recipe(config: Config) -> dict[str, Any]:
    """Return all settings of a resolved run config that decide outputs, apart from the subset, the seeds and the data.

    The choice of a proxy is part of it, though one may change the share of the groups alone: models of quarters and
    of halves do not share a study.
    Objects of ours are named without their module, so that code may move; those of others by their full path.
    """
    targets = {name: _decisive(_without_data(target), "target.*") for name, target in config["target"].items()}
    rounded = rounding(config)
    return {
        **_pretraining(config),
        "target": targets,
        **({"proxy": config["proxy"]} if config.get("proxy") else {}),
        **({"models": rounded} if rounded else {}),
    }


def source_recipe(config: Config) -> dict[str, Any]:
    """Return all settings of a resolved run config that decide the source model, as `recipe` does for outputs.

    Runs that differ in targets, in transfer or in what else a record holds share source models.
    """
    settings = _pretraining(config)
    return {**settings, "source": {key: value for key, value in settings["source"].items() if key != "outputs"}}


def kept_dtype(config: Config) -> str | None:
    """Return the type of the numbers in which a run keeps its source model; None: it keeps none."""
    choice = config.get("keep_model")
    return "float32" if choice is True else choice or None


def rounding(config: Config) -> str | None:
    """Return the type of the numbers of the kept source model that a run uses, if it was rounded to this type."""
    models = config.get("models")
    dtype = models.get("dtype") if isinstance(models, Mapping) else None
    return None if dtype == "float32" else dtype


def study_name(config: Config) -> str:
    """Return the name of the study's folder: a readable part, the recipe's hash, and one of the data where resolved.

    So studies of one recipe on other data lie apart, and the same data at another place are the same study.

    Raises SourcewiseError for a target of which only some settings are there.
    """
    if stray := [name for name, target in config["target"].items() if "_target_" not in target]:
        raise SourcewiseError(
            f"target.{stray[0]}: it has settings, but target=[...] does not choose it; add {stray[0]} there, or take"
            f" its settings back by ~target.{stray[0]}"
        )
    transfers = "+".join(sorted({_transfer_name(target["transfer"]) for target in config["target"].values()}))
    parts = (config["source"]["name"], "+".join(config["target"]), config["model"]["name"], transfers)
    readable = config.get("study") or "-".join(map(str, parts))
    readable = "-".join([str(readable), *([str(proxy["name"])] if (proxy := config.get("proxy")) else [])])
    hashes = [fingerprint(recipe(config)), *([fingerprint(known, length=8)] if (known := data(config)) else [])]
    return "-".join([_slug(str(readable)), *hashes])


def data(config: Config) -> dict[str, Any]:
    """Return the `data` of the source and targets that have it, by `source` and `target.<name>`."""
    sections = {"source": config["source"], **{f"target.{name}": target for name, target in config["target"].items()}}
    return {name: section[DATA] for name, section in sections.items() if section.get(DATA) is not None}


def _pretraining(config: Config) -> dict[str, Any]:
    """Return the part of the recipe that all stages of a run share."""
    trainer = config["trainer"]
    return {
        "revision": REVISION,
        "source": _decisive(_without_data(config["source"]), "source"),
        "model": _decisive(config["model"], "model"),
        "precision": trainer["precision"],
        **({"decoding": "gpu"} if trainer.get("decoding") == "gpu" else {}),
        # Each device normalises its own part of a batch, unless the devices share their statistics.
        "batchnorm_parts": 1 if trainer["sync_batchnorm"] else trainer["devices"],
    }


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


def _without_data(section: Config) -> Config:
    """Return a section without its `data`, and without the folder of a file of groups, whose content `data` holds."""
    if DATA not in section:
        return section
    kept = {key: value for key, value in section.items() if key != DATA}
    return {**kept, "groups": Path(str(kept["groups"])).name} if "groups" in kept else kept


def _decisive(value: Any, setting: str) -> Any:
    """Return the part of a setting's value that enters the recipe; setting: its dotted name as in LATER."""
    if isinstance(value, Mapping):
        return {
            key: _target_name(item) if key == "_target_" else _decisive(item, f"{setting}.{key}")
            for key, item in value.items()
            if key not in NOT_RECIPE and item != LATER.get(f"{setting}.{key}", _UNSET)
        }
    if isinstance(value, list | tuple):
        return [_decisive(item, setting) for item in value]
    return value


def _target_name(path: Any) -> Any:
    """Return the name by which a `_target_` enters the recipe: its last part if it is ours."""
    return path.rpartition(".")[2] if isinstance(path, str) and path.startswith(_OURS) else path


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9.+_-]+", "_", text)[:150]
