"""Filters: what records must have to be used."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Filters:
    """What records must have; None admits all.

    group: the study. tags, sweep, state: of W&B runs. config: settings by dotted name.
    """

    group: str | None = None
    tags: str | Sequence[str] | None = None
    sweep: str | None = None
    state: str | Sequence[str] | None = None
    config: Mapping[str, Any] | None = None

    def admit(self, group: str, config: Mapping[str, Any]) -> bool:
        """Return whether a record of this study and config passes, apart from what only W&B knows."""
        wanted = (self.config or {}).items()
        return group == (self.group or group) and all(_setting(config, key) == value for key, value in wanted)


def as_list(value: str | Sequence[str] | None) -> list[str]:
    """Return a setting that may be one text, several or none as a list."""
    return [value] if isinstance(value, str) else list(value or ())


def _setting(config: Any, name: str) -> Any:
    """Return the setting of a dotted name; None when there is none."""
    for part in name.split("."):
        config = config.get(part) if isinstance(config, Mapping) else None
    return config
