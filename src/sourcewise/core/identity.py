"""The data that a run's config means, by content: fingerprints of its datasets, in place of their paths.

A source or target with the setting `data` is named by its datasets: before runs are named, the fingerprints of what the
run trains and tests on are put there, as files of a subset are replaced by their content. For all others that lie on
disk, fingerprints are compared with those in records.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from sourcewise.core.hashing import fingerprint
from sourcewise.core.names import DATA, Config, data, recipe

Fingerprints = Mapping[str, str]
"""The fingerprint of each dataset by its name in records: the source's name, and those of `dataset_names`."""


def dataset_names(target: str) -> dict[str, str]:
    """Return the names that records have for the datasets of a target, by the setting that each comes from.

    >>> dataset_names("digits")
    {'train': 'digits/train', 'test': 'digits/test'}
    """
    return {part: f"{target}/{part}" for part in ("train", "test")}


def is_named_by_data(config: Config) -> bool:
    """Return whether the name of a run's study depends on what its datasets hold."""
    return any(DATA in section for section in (config["source"], *config["target"].values()))


def lies_on_disk(config: Config) -> bool:
    """Return whether a run reads data that may change: below a `root`, or groups in a file."""
    sections = config["source"], *config["target"].values()
    has_file = bool(Path(str(config["source"].get("groups", ""))).suffix)
    return has_file or any(DATA in section or section.get("root") is not None for section in sections)


def datasets(config: Config) -> dict[str, Any]:
    """Return all that decides what the datasets of a run hold, apart from what lies on disk."""
    source = {key: config["source"].get(key) for key in ("name", "train", "groups")}
    return {
        "source": source,
        "target": {
            name: {key: target[key] for key in dataset_names(name)} for name, target in config["target"].items()
        },
    }


def with_data(config: Config, fingerprints: Fingerprints) -> dict[str, Any]:
    """Return a resolved config whose `data` say what the datasets hold; sections without that setting stay the same."""
    return _replaced(config, lambda *names: fingerprint([fingerprints[name] for name in names]))


def without_data(config: Config) -> dict[str, Any]:
    """Return a config whose `data` are not known, as before they are resolved."""
    return _replaced(config, lambda *names: None)


def changed_sections(config: Config, fingerprints: Fingerprints) -> list[str]:
    """Return the source and targets whose datasets are not what their `data` in the config say."""
    current = data(with_data(config, fingerprints))
    return [name for name, value in data(config).items() if current[name] != value]


def differing(recorded: Fingerprints, current: Fingerprints, source: str) -> list[str]:
    """Return the datasets whose fingerprints differ, for a message; source: the name that becomes `source`."""
    names = [name for name, value in current.items() if recorded.get(name) != value]
    return ["source" if name == source else name for name in names]


def recorded_recipe(config: Config) -> str:
    """Return the hash of the recipe of a config that a record holds, which may be anything; "" if it is not a run's."""
    try:
        return fingerprint(recipe(config))
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError):
        return ""


def is_same_run(recorded: Config, config: Config) -> bool:
    """Return whether two configs have the same recipe, subset and training seed, wherever their data lie."""
    same_recipe = recorded_recipe(recorded) == fingerprint(recipe(config))
    return same_recipe and all(fingerprint(recorded.get(key)) == fingerprint(config[key]) for key in ("subset", "seed"))


def _replaced(config: Config, value: Callable[..., str | None]) -> dict[str, Any]:
    """Return the config with `data`, where there is that setting, set to a function of the names of the datasets."""

    def section(node: Config, *names: str) -> Config:
        return {**node, DATA: value(*names)} if DATA in node else node

    source = config["source"]
    targets = {name: section(target, *dataset_names(name).values()) for name, target in config["target"].items()}
    return {**config, "source": section(source, source["name"]), "target": targets}
