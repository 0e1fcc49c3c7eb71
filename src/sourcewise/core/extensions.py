"""Kinds of objects that users can add: each has names of ours, and takes the dotted path of an object of the user's."""

import pkgutil
import re
from collections.abc import Mapping
from typing import TypeVar

from sourcewise.core.errors import SourcewiseError, did_you_mean

Kind = TypeVar("Kind")


def find(known: Mapping[str, Kind], name: str, setting: str) -> Kind:
    """Return what a setting names: one of ours, or the object at a dotted path such as `my_package.my_module.Thing`.

    setting: what errors call it; its last word says the kind. Only for settings that the user typed, never for a name
    that a record or a server gives: the path is imported.

    Raises SourcewiseError when there is neither.
    """
    if isinstance(name, str) and name in known:
        return known[name]
    cause: Exception | None = None
    if isinstance(name, str) and "." in name:
        try:
            return pkgutil.resolve_name(name)  # type: ignore[no-any-return]
        except (ImportError, AttributeError, ValueError) as error:
            cause = error
    kind = re.split("[ .]", setting)[-1]
    raise SourcewiseError(
        f"{setting}={name}: there is no such {kind}{f' ({cause})' if cause else did_you_mean(str(name), known)};"
        f" choose {', '.join(known)}, or give the path of one of yours (package.module.name)"
    ) from cause
