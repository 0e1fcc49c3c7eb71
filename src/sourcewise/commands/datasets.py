"""The datasets of a config: where their settings are, whether their data are there, and what they hold."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sourcewise.core import settings
from sourcewise.core.identity import Fingerprints, dataset_names, is_named_by_data, with_data
from sourcewise.core.messages import print_once
from sourcewise.core.names import Config, kept_dtype

LOAD = "sourcewise.data.load.load"


def require_data(config: Config) -> None:
    """Raise SourcewiseError if data of a resolved config are missing, before hours go into stores of the others."""
    from hydra.utils import instantiate

    for setting, node in parts(config).values():
        settings.check_config(node, setting)
        if node.get("_target_") == LOAD:
            instantiate(node["dataset"], _convert_="all").stamp()


def parts(config: Config) -> dict[str, tuple[str, Config]]:
    """Return the full name and the settings of each dataset of a resolved config, by its name in records."""
    source = config["source"]
    nodes = {source["name"]: ("source.train", source["train"])}
    for target, section in config["target"].items():
        names = dataset_names(target).items()
        nodes |= {name: (f"target.{target}.{part}", section[part]) for part, name in names}
    return nodes


def build(node: Config, setting: str = "") -> Any:
    """Return what a node of a resolved config builds. setting: the node's full name.

    Raises InstantiationException from what a part raises; for a broken image SourcewiseError, with the full name of the
    setting that leaves it out.
    """
    from hydra.errors import InstantiationException
    from hydra.utils import instantiate

    from sourcewise.data.store import BrokenImageError

    try:
        return instantiate(node, _convert_="all")
    except InstantiationException as error:
        if isinstance(error.__cause__, BrokenImageError):
            below = str(error).partition("\nfull_key: ")[2]
            raise BrokenImageError(error.__cause__.problem, ".".join(filter(None, (setting, below)))) from error
        raise


def fingerprints(config: Config, overrides: Sequence[str] = ()) -> Fingerprints:
    """Return the fingerprints of a config's datasets, by their names in a record's header. Missing stores are made.

    What a user should know of the data is printed, once in a process: of a sweep, on the terminal.
    """
    from sourcewise.data import checks, regroup  # torch is slow to import

    require_data(config)
    source, datasets = config["source"], {}
    for name, (setting, node) in parts(config).items():
        dataset = build(node, setting)
        datasets[name] = regroup(dataset, source["groups"]) if name == source["name"] else dataset
    targets = {target: [datasets[name] for name in dataset_names(target).values()] for target in config["target"]}
    for note in checks.notes(datasets[source["name"]], targets):
        print_once(note)
    return {name: dataset.fingerprint for name, dataset in datasets.items()}


def model_bytes(config: Config, overrides: Sequence[str] = ()) -> int:
    """Return the bytes of the tensors of a source model, as `keep_model` of a resolved config would keep it."""
    require_data(config)
    dataset, factory = build(config["source"]["train"], "source.train"), build(config["model"], "model")
    state = factory(channels=dataset.channels, classes=len(dataset.class_names)).state_dict()
    rounded = 2 if kept_dtype(config) == "bfloat16" else 4
    return sum(value.numel() * (rounded if value.is_floating_point() else value.itemsize) for value in state.values())


def resolve_data(config: Config) -> dict[str, object]:
    """Return a resolved config whose `data` are replaced by what the datasets hold now; see `core.identity`."""
    return with_data(config, fingerprints(config)) if is_named_by_data(config) else dict(config)
