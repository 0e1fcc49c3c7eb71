"""A command's config: where ours lie, and how a composed one is checked, resolved and built; its `--version`."""

import sys
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig

from sourcewise.core import settings
from sourcewise.sweep.composition import plain

CONFIGS = str(Path(__file__).parents[1] / "conf")
"""The folder of our configs: in a checkout a link to conf/."""


def answer_version() -> None:
    """Print the version and end, if the command line asks for it: Hydra would give its own."""
    if "--version" in sys.argv[1:]:
        print(f"sourcewise {version('sourcewise')}")
        sys.exit(0)


def resolve(config: DictConfig, kind: type) -> dict[str, Any]:
    """Return the config as plain containers, all interpolations resolved, its top level checked by a dataclass.

    Raises SourcewiseError for a key that `kind` does not have, or a value of another type; OmegaConf raises for a
    missing (`???`) value.
    """
    resolved = plain(config)
    settings.check_top_level(kind, resolved)
    return resolved


def build(config: Mapping[str, Any], *names: str) -> list[Any]:
    """Return the objects that the named parts of a resolved config build, in this order.

    Raises InstantiationException from what a part raises; for a broken image SourcewiseError, with the name of the
    setting that leaves it out.
    """
    from sourcewise.data.store import BrokenImageError  # torch is slow to import

    try:
        built = instantiate({name: config[name] for name in names}, _convert_="all")
    except InstantiationException as error:
        if isinstance(error.__cause__, BrokenImageError):
            raise BrokenImageError(error.__cause__.problem, str(error).rpartition("full_key: ")[2]) from error
        raise
    return [built[name] for name in names]
