"""The config and the subset of a run as W&B shows them, and how they are read back from that. Pure functions."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sourcewise.core.names import NOT_RECIPE
from sourcewise.records.record import unpack_mask

NAMES_LIMIT = 20_000
"""Characters of group names that every run's summary may hold."""

TAG_LIMIT = 64
"""Characters of a tag, which W&B refuses when it is longer."""

_NOT_SHOWN = frozenset({"logger", "runs_dir", "out", "only", "retrain"})


def shown_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a config without the settings that nobody browses.

    These are the logger's, places on this machine, and the transfer of each target that has the run's.
    """
    shown = {key: _without_places(value) for key, value in config.items() if key not in _NOT_SHOWN}
    if "transfer" in shown and "target" in shown:
        transfer = shown["transfer"]
        shown["target"] = {
            name: {key: value for key, value in target.items() if (key, value) != ("transfer", transfer)}
            for name, target in shown["target"].items()
        }
    return shown


def full_config(shown: Mapping[str, Any]) -> dict[str, Any]:
    """Return a config in which every target has its transfer again. The settings of the logger and places stay out.

    Configs of older runs, which were shown whole, are returned as they are.
    """
    config, targets = dict(shown), shown.get("target")
    if "transfer" in config and isinstance(targets, Mapping):
        transfer = {"transfer": config["transfer"]}
        config["target"] = {
            name: transfer | dict(target) if isinstance(target, Mapping) else target for name, target in targets.items()
        }
    return config


def tags(config: Mapping[str, Any]) -> list[str]:
    """Return the tags of a run with this config: its design, its source and its targets."""
    sections = {"subset": "design", "source": "name"}
    named = [config[section][key] for section, key in sections.items() if key in config.get(section, {})]
    return [str(name)[:TAG_LIMIT] for name in (*named, *config.get("target", {}))]


def shown_subset(mask: NDArray[np.bool_], names: Sequence[str] | None) -> dict[str, Any]:
    """Return a subset for the summary of a run: the names of the groups kept, or bits where names are too long.

    names: of all groups; None where groups are examples.
    """
    shown: dict[str, Any] = {"subset/groups": len(mask), "subset/size": int(mask.sum())}
    if names is None or len(json.dumps(names)) > NAMES_LIMIT:
        return {**shown, "subset/mask": np.packbits(mask).tobytes().hex()}
    kept = [name for name, is_kept in zip(names, mask, strict=True) if is_kept]
    return {**shown, "subset/names": list(names), "subset/kept": kept}


def read_subset(summary: Mapping[str, Any]) -> tuple[NDArray[np.bool_], list[str] | None]:
    """Return the subset in a summary, `bool[groups]`, and the names of the groups, None where they are not there.

    Raises KeyError, TypeError or ValueError when the summary holds none.
    """
    names = summary.get("subset/names")
    if "subset/kept" not in summary:  # bits, beside which older runs have names too
        bits = np.frombuffer(bytes.fromhex(summary["subset/mask"]), np.uint8)
        return unpack_mask(bits, int(summary["subset/groups"])), names
    kept = set(summary["subset/kept"])
    if names is None or not kept <= set(names) or len(names) != int(summary["subset/groups"]):
        raise ValueError("the groups kept are not among those named")
    return np.array([name in kept for name in names], bool), names


def _without_places(value: Any) -> Any:
    """Return a setting's value without the settings that locate data."""
    if isinstance(value, Mapping):
        return {key: _without_places(item) for key, item in value.items() if key not in NOT_RECIPE}
    return value
