"""The function that does a run, by its name: a worker calls it with the run's config and overrides."""

import importlib
import importlib.util
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from sourcewise.core.errors import SourcewiseError

Function = Callable[[Mapping[str, Any], Sequence[str]], Any]
"""A run: function of the resolved config and the overrides of its command line. It returns a JSON-able value."""


def load(task: str) -> Function:
    """Import the function that `package.module:name` or `path/to/file.py:name` means.

    Raises SourcewiseError when it cannot be imported.
    """
    place, _, name = task.rpartition(":")
    try:
        module = _import_file(Path(place)) if place.endswith(".py") else importlib.import_module(place)
        function: Function = getattr(module, name)
    except Exception as error:
        raise SourcewiseError(f"worker processes cannot start: {type(error).__name__}: {error}") from error
    return function


def beside(task: str, name: str) -> Any:
    """Return what has this name in the task's module; None if nothing has.

    A task may have beside it the class `Settings`, which holds the keys and types of a config's top, and the functions
    `fingerprints` of a config to those of its datasets, and `closing` of the configs of complete runs to the
    last lines of a sweep.
    """
    return getattr(sys.modules[load(task).__module__], name, None)


@cache
def _import_file(path: Path) -> ModuleType:
    """Import a file as the module of its name without the ending."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
