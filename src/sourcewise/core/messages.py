"""Exceptions in words: which exception of a chain is for the user, and its one line, for single runs and sweeps.

Hydra and OmegaConf are slow to import and raise nothing unless they are used, so their exceptions are known by name.
"""

import functools
import re
import shlex
import sys
from collections.abc import Callable, Sequence
from errno import EACCES, EDQUOT, EEXIST, EISDIR, ENAMETOOLONG, ENOENT, ENOMEM, ENOSPC, ENOTDIR, EPERM, EROFS
from pathlib import Path
from typing import Any

from sourcewise.core.errors import RunFailed, SourcewiseError, did_you_mean
from sourcewise.core.overrides import quote

_DISK = frozenset((ENOSPC, EDQUOT, EACCES, EPERM, EROFS, ENAMETOOLONG, ENOENT, EEXIST, ENOTDIR, EISDIR))
"""Errors of a disk that a user can do something about."""

_VALUE_ERRORS = ("Config group override must be", "range() arg")
"""How a ValueError begins that Hydra lets through for a wrong override."""

_MEMORY = re.compile(
    r"out of memory|can(no|')t allocate memory|failed to map segment|can't start new thread|failed to launch .*thread",
    re.IGNORECASE,
)
"""How libraries say that memory does not suffice, where they raise no MemoryError."""

_HYDRA = "hydra.errors.HydraException"
_OMEGACONF = "omegaconf.errors.OmegaConfBaseException"


def users_error(error: BaseException) -> SourcewiseError | None:
    """Return an exception as the user's: what is wrong, where, and what to do, in one line; None for a bug of ours.

    Of a chain, want of memory comes before a SourcewiseError, which may have taken it for something else, that before
    an exception of Hydra or OmegaConf, and that before one of the disk.
    """
    chain = _chain(error)
    for item in chain:
        if lacks_memory(item):
            text = f" ({_joined(item)[:200]})" if str(item) else ""
            return RunFailed(
                f"memory does not suffice{text}; smaller batches, images or models need less, and so do fewer runs at a"
                " time; a limit of this machine (ulimit -v, a container, Slurm) may be too low"
            )
    for item in chain:
        if isinstance(item, SourcewiseError):
            return item
    for base in (_HYDRA, _OMEGACONF):
        for item in chain:
            if _is(item, base):
                return SourcewiseError(next(filter(None, map(_config_line, chain)), _joined(item)))
    for item in chain:
        if isinstance(item, FileNotFoundError) and str(item.strerror).startswith("No usable temporary directory"):
            return SourcewiseError("no folder for temporary files can be written to; name one in TMPDIR")
        if isinstance(item, OSError) and item.errno in _DISK and item.filename is not None:
            return SourcewiseError(f"{item.filename}: {item.strerror}")
        if isinstance(item, ValueError) and str(item).startswith(_VALUE_ERRORS):
            return SourcewiseError(_joined(item))
    return None


def one_line(error: BaseException) -> str:
    """Return one line for any exception: the user's, or the type and the first line of a bug of ours."""
    if (known := users_error(error)) is not None:
        return printable(_joined(known))
    return printable(": ".join([type(error).__name__, *str(error).strip().splitlines()[:1]]))


@functools.cache
def print_once(line: str) -> None:
    """Print a line on stderr, once in a process."""
    print(printable(line), file=sys.stderr, flush=True)


def first_names(names: Sequence[str], limit: int = 5, show: Callable[[str], str] = str) -> str:
    """Return the first names, as `show` gives them, and how many more there are.

    >>> first_names(["cat", "dog", "ape"], 2)
    'cat, dog and 1 more'
    """
    more = f" and {len(names) - limit:,} more" if len(names) > limit else ""
    return ", ".join(map(show, names[:limit])) + more


def printable(text: str) -> str:
    """Return the text without characters that a terminal would obey: names come from others' records and servers."""
    return "".join(character if character.isprintable() else "?" for character in text)


def lacks_memory(error: BaseException) -> bool:
    """Return whether an exception says that this process, or its GPU, has no memory left."""
    in_words = not isinstance(error, SourcewiseError) and _MEMORY.search(str(error)) is not None
    return isinstance(error, MemoryError) or in_words or (isinstance(error, OSError) and error.errno == ENOMEM)


def _joined(error: BaseException) -> str:
    """Return an exception's text as one line, without Hydra's advice."""
    return " ".join(str(error).replace("Set the environment variable HYDRA_FULL_ERROR=1", "").split())


def _config_line(error: Any) -> str:
    """Word what the user can set right in a config or an override; "" for other exceptions."""
    if _is(error, "hydra.errors.MissingConfigException") and error.missing_cfg_file:
        group, _, name = error.missing_cfg_file.rpartition("/")
        folders = re.findall(r"path=file://(.+)", str(error))
        files = (path for folder in folders for path in Path(folder, group).glob("*.yaml"))
        options = sorted({path.stem for path in files if not path.stem.startswith("base")})
        return f"{group}={name}: there is no such option{did_you_mean(name, options)} (there are {', '.join(options)})"
    if _is(error, "hydra.errors.OverrideParseException"):
        key, _, value = error.override.partition("=")
        quoted = shlex.quote(f"{key}={quote(value)}")
        return f"{error.override}: this cannot be read; as text, its value needs quotes: {quoted}"
    if _is(error, "omegaconf.errors.MissingMandatoryValue"):
        return f"{error.full_key}: this has no default; give it a value"
    unknown = _is(error, "omegaconf.errors.ConfigKeyError") or _is(error, "omegaconf.errors.ConfigAttributeError")
    if unknown and error.parent_node is not None:
        known = [str(key) for key in error.parent_node if key != "hydra"]
        holds = f"there are {', '.join(known)}" if known else f"{error.full_key.rpartition('.')[0]} holds none"
        hint = did_you_mean(str(error.key), known) or f"; {holds}"
        return f"{error.full_key}: there is no such setting{hint}"
    return ""


def _is(error: BaseException, name: str) -> bool:
    """Return whether the exception is of the class with this dotted name, or of a subclass."""
    return any(f"{kind.__module__}.{kind.__qualname__}" == name for kind in type(error).__mro__)


def _chain(error: BaseException) -> list[BaseException]:
    """Return an exception and those that it was raised from."""
    chain: list[BaseException] = []
    current: BaseException | None = error
    while current is not None and current not in chain:
        chain.append(current)
        current = current.__cause__ or current.__context__
    return chain
