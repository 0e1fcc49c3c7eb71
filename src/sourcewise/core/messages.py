"""Exceptions in words: which exception of a chain speaks to the user, and its one line.

Single runs and sweeps word exceptions here. Hydra and OmegaConf are slow to import and raise nothing unless they are
used, so their exceptions are known by name.
"""

import functools
import re
import shlex
import sys
from errno import EACCES, EDQUOT, EEXIST, EISDIR, ENAMETOOLONG, ENOENT, ENOSPC, ENOTDIR, EPERM, EROFS
from pathlib import Path
from typing import Any

from sourcewise.core.errors import SourcewiseError, did_you_mean
from sourcewise.core.overrides import quote

_DISK = frozenset((ENOSPC, EDQUOT, EACCES, EPERM, EROFS, ENAMETOOLONG, ENOENT, EEXIST, ENOTDIR, EISDIR))
"""Errors of a disk that a user can do something about."""

_VALUE_ERRORS = ("Config group override must be", "range() arg")
"""How a ValueError begins that Hydra lets through for a wrong override."""

_HYDRA = "hydra.errors.HydraException"
_OMEGACONF = "omegaconf.errors.OmegaConfBaseException"


def users_error(error: BaseException) -> Exception | None:
    """Return the exception in the chain that speaks to the user, or None for a bug of ours.

    A SourcewiseError comes before one of Hydra or OmegaConf, and that before one of the disk.
    """
    chain = _chain(error)
    for name in (_name(SourcewiseError), _HYDRA, _OMEGACONF):
        for item in chain:
            if isinstance(item, Exception) and _is(item, name):
                return item
    for item in chain:
        if isinstance(item, OSError) and item.errno in _DISK and item.filename is not None:
            return item
        if isinstance(item, ValueError) and str(item).startswith(_VALUE_ERRORS):
            return item
    return None


def describe(error: BaseException) -> str:
    """Return one line for any exception: the user's, or the type and the first line of a bug of ours."""
    cause = users_error(error)
    if cause is not None:
        return one_line(cause)
    lines = str(error).strip().splitlines()
    return printable(": ".join([type(error).__name__, *lines[:1]]))


def one_line(error: Exception) -> str:
    """Return the line for an exception that `users_error` returned: what is wrong, where, and what to do."""
    if _is(error, "hydra.errors.MissingConfigException") and error.missing_cfg_file:  # type: ignore[attr-defined]
        return _missing_option(error)
    if isinstance(error, OSError):
        return printable(f"{error.filename}: {error.strerror}")
    for cause in _chain(error):
        text = _omegaconf_line(cause)
        if text:
            return text
    return printable(" ".join(str(error).replace("Set the environment variable HYDRA_FULL_ERROR=1", "").split()))


@functools.cache
def print_once(line: str) -> None:
    """Print a line on stderr, once in a process."""
    print(printable(line), file=sys.stderr, flush=True)


def printable(text: str) -> str:
    """Return the text without characters that a terminal would obey: names come from others' records and servers."""
    return "".join(character if character.isprintable() else "?" for character in text)


def _missing_option(error: Any) -> str:
    """Word a config group's option that does not exist, with the options that do."""
    group, _, name = error.missing_cfg_file.rpartition("/")
    folders = re.findall(r"path=file://(.+)", str(error))
    files = (path for folder in folders for path in Path(folder, group).glob("*.yaml"))
    options = sorted({path.stem for path in files if not path.stem.startswith("base")})
    return f"{group}={name}: there is no such option{did_you_mean(name, options)} (there are {', '.join(options)})"


def _omegaconf_line(error: Any) -> str:
    """Word an override that cannot be read, a value that is missing or a key that does not exist; else return ""."""
    if _is(error, "hydra.errors.OverrideParseException"):
        key, _, value = error.override.partition("=")
        quoted = shlex.quote(f"{key}={quote(value)}")
        return printable(f"{error.override}: this cannot be read; as text, its value needs quotes: {quoted}")
    if _is(error, "omegaconf.errors.MissingMandatoryValue"):
        return f"{error.full_key}: this has no default; give it a value"
    unknown = _is(error, "omegaconf.errors.ConfigKeyError") or _is(error, "omegaconf.errors.ConfigAttributeError")
    if unknown and error.parent_node is not None:
        known = [str(key) for key in error.parent_node if key != "hydra"]
        hint = did_you_mean(str(error.key), known) or f"; there are {', '.join(known)}"
        return f"{error.full_key}: there is no such setting{hint}"
    return ""


def _is(error: BaseException, name: str) -> bool:
    """Return whether the exception is of the class with this dotted name, or of a subclass."""
    return any(_name(kind) == name for kind in type(error).__mro__)


def _name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _chain(error: BaseException) -> list[BaseException]:
    """Return an exception and those that it was raised from."""
    chain: list[BaseException] = []
    current: BaseException | None = error
    while current is not None and current not in chain:
        chain.append(current)
        current = current.__cause__ or current.__context__
    return chain
