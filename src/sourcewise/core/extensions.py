"""Kinds of things that users can add: each has names of ours, and takes the dotted path of an object of the user's."""

import pkgutil
from collections.abc import Mapping
from typing import TypeVar

from sourcewise.core.errors import SourcewiseError, did_you_mean

Kind = TypeVar("Kind")


def find(known: Mapping[str, Kind], name: str, setting: str) -> Kind:
    """Return what a setting names: one of ours, or the object at a dotted path such as `my_package.my_module.Thing`.

    Only for settings that the user typed, never for what a record or a server says: a path is imported.

    Raises SourcewiseError when there is neither.
    """
    if isinstance(name, str) and name in known:
        return known[name]
    try:
        if not isinstance(name, str) or "." not in name:
            raise ValueError
        found: Kind = pkgutil.resolve_name(name)
    except (ImportError, AttributeError, ValueError) as error:
        choices = f"{did_you_mean(str(name), known)}; choose {', '.join(known)}, or give the path of one of yours"
        raise SourcewiseError(f"{setting}={name}: there is no such thing{choices} (package.module.name)") from error
    return found
