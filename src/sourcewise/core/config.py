"""From a composed config to plain containers, in which every target has all of its transfer settings."""

from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf


def plain(config: DictConfig) -> dict[str, Any]:
    """Return the config as plain containers: interpolations resolved, and transfer settings inherited.

    Of a config with targets, every target's `transfer` becomes the settings of the top level's `transfer`, changed by
    those that the target sets itself. OmegaConf raises for a missing (`???`) value.
    """
    container = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    assert isinstance(container, dict)
    resolved = {str(key): value for key, value in container.items()}
    targets, transfer = resolved.get("target"), resolved.get("transfer")
    if not isinstance(targets, dict) or not isinstance(transfer, dict):
        return resolved
    inherited = {
        name: {**target, "transfer": inherit(transfer, target.get("transfer", {}))}
        if isinstance(target, dict)
        else target
        for name, target in targets.items()
    }
    return {**resolved, "target": inherited}


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
