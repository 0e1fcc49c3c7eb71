"""A command's config: where ours lie, and how a composed one is checked and resolved."""

from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from sourcewise.core import settings

CONFIGS = str(Path(__file__).parents[1] / "conf")
"""The folder of our configs: in a checkout a link to conf/."""


def resolve(config: DictConfig, kind: type) -> dict[str, Any]:
    """Return the config as plain containers, all interpolations resolved, its top level checked by a dataclass.

    Raises SourcewiseError for a key that `kind` does not have, or a value of another type; OmegaConf raises for a
    missing (`???`) value.
    """
    container = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    assert isinstance(container, dict)
    resolved = {str(key): value for key, value in container.items()}
    settings.top(kind, resolved)
    return resolved
