"""A command's config: where ours lie, and how a composed one is checked and resolved; its `--version`."""

import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

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
