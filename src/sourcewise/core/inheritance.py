"""Transfer settings that targets inherit: those of the top level count for every target that does not set its own."""

from collections.abc import Mapping
from typing import Any


def inherit_transfers(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a resolved config in which every target has all of its transfer settings.

    A target's `transfer` becomes the settings of the top level's `transfer`, changed by those that the target sets
    itself. A config without targets stays as it is, and so does one that has been through this before.
    """
    targets, transfer = config.get("target"), config.get("transfer")
    if not isinstance(targets, Mapping) or not isinstance(transfer, Mapping):
        return dict(config)
    inherited = {
        name: {**target, "transfer": inherit(transfer, target.get("transfer", {}))}
        if isinstance(target, Mapping)
        else target
        for name, target in targets.items()
    }
    return {**config, "target": inherited}


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
