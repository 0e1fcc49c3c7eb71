"""A composed config as plain containers, in which targets inherit transfer settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from omegaconf import DictConfig


def plain(config: DictConfig) -> dict[str, Any]:
    """Return a composed config with its interpolations resolved.

    A target's `transfer` becomes the settings of the top level's `transfer`, changed by those that the target sets
    itself. Raises what OmegaConf raises, for a missing (`???`) value for one.
    """
    from omegaconf import OmegaConf  # slow to import

    resolved: Any = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    targets, transfer = resolved.get("target"), resolved.get("transfer")
    if isinstance(targets, Mapping) and isinstance(transfer, Mapping):
        for target in targets.values():
            if isinstance(target, dict):
                target["transfer"] = inherit(transfer, target.get("transfer", {}))
    return {str(key): value for key, value in resolved.items()}


def inherit(general: Any, special: Any) -> Any:
    """Return general settings, changed by special ones; neither is changed itself.

    Mappings are merged key by key, except that one with a `_target_` of its own takes nothing from another.

    >>> inherit({"_target_": "a.Step", "every": 5, "factor": 0.1}, {"every": 3})
    {'_target_': 'a.Step', 'every': 3, 'factor': 0.1}
    >>> inherit({"_target_": "a.Step", "every": 5}, {"_target_": "a.Constant"})
    {'_target_': 'a.Constant'}
    """
    if not isinstance(general, Mapping) or not isinstance(special, Mapping) or "_target_" in special:
        return special
    return {**general, **{key: inherit(general.get(key), value) for key, value in special.items()}}
