"""Files on disk: the files below a folder, without junk and circles of links, when they changed, and lists of them."""

import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sourcewise.core.errors import SourcewiseError

JUNK = frozenset({"__MACOSX", "@eaDir", "#recycle", "$RECYCLE.BIN", "System Volume Information", "lost+found"})
"""Folders that archives and storage boxes leave, beside those whose names begin with a dot."""
JUNK_FILES = frozenset({"Thumbs.db", "ehthumbs.db", "desktop.ini"})


@dataclass(frozen=True)
class Tree:
    """What lies below a folder.

    files: names of files by the folder that they are in, as seen from the top, which is "."; folders without files are
    in it too. junk: how many were passed over, by name. loops: links to a folder that they lie in, which are not
    entered. duplicates: other links whose folder was listed under another name too, each with that name.
    """

    files: Mapping[str, Sequence[str]]
    junk: Counter[str]
    loops: Sequence[str]
    duplicates: Mapping[str, str]

    @property
    def paths(self) -> list[str]:
        """The paths of all files, sorted, as seen from the top."""
        return sorted(f"{folder}/{name}" for folder, names in self.files.items() for name in names)


def walk(top: str | Path) -> Tree:
    """List the files below a folder, also through links to other folders.

    Raises SourcewiseError for a folder that cannot be read.
    """
    files, junk, loops, links = dict[str, list[str]](), Counter[str](), list[str](), list[str]()
    waiting: list[tuple[str, str, tuple[str, ...]]] = [(".", str(top), (os.path.realpath(top),))]
    real: dict[str, str] = {}
    while waiting:
        place, folder, ancestors = waiting.pop()
        names = files[place] = []
        real[place] = ancestors[-1]
        for entry in _entries(folder):
            below = entry.name if place == "." else f"{place}/{entry.name}"
            if entry.name in JUNK or entry.name in JUNK_FILES or entry.name.startswith("."):
                junk["._*" if entry.name.startswith("._") else entry.name] += 1
            elif not entry.is_dir():
                if entry.is_file() or entry.is_symlink():  # a link that leads nowhere is an error when it is opened
                    names.append(entry.name)
            elif not entry.is_symlink():
                waiting.append((below, entry.path, (*ancestors, os.path.join(ancestors[-1], entry.name))))  # noqa: PTH118
            elif any(_is_within(ancestor, destination := os.path.realpath(entry.path)) for ancestor in ancestors):
                loops.append(below)
            else:
                links.append(below)
                waiting.append((below, entry.path, (*ancestors, destination)))
    first: dict[str, str] = {}
    for place in sorted(real, key=lambda place: (place in links, place)):
        first.setdefault(real[place], place)
    duplicates = {link: first[real[link]] for link in sorted(links) if first[real[link]] != link}
    return Tree(files, junk, sorted(loops), duplicates)


def stamp(paths: Iterable[str], *texts: str) -> str:
    """Return a hash of paths, sizes and times of change of files, and of further texts.

    A file that is not there has neither size nor time.
    """
    state = hashlib.sha256("\0".join(texts).encode(errors="surrogateescape"))
    for path in paths:
        try:
            status = os.stat(path)  # noqa: PTH116  # twice as fast as Path, and there may be millions
            line = f"{path}\0{status.st_size}\0{status.st_mtime_ns}\n"
        except OSError:
            line = f"{path}\n"
        state.update(line.encode(errors="surrogateescape"))
    return state.hexdigest()


def stamp_below(root: str) -> str:
    """Return the stamp of all files below a folder."""
    top = os.path.abspath(root)  # noqa: PTH100
    return stamp(os.path.join(top, path) for path in walk(top).paths)  # noqa: PTH118


def required(path: str | Path, obtain: str) -> str:
    """Return the absolute path of what must be there. Raises SourcewiseError, with how to get it, when it is not."""
    try:
        Path(path).stat()
    except OSError as error:
        raise SourcewiseError(f"{error.filename}: {error.strerror}. {obtain}".strip()) from error
    return str(Path(path).absolute())


def read_lines(root: str, name: str | None) -> list[str]:
    """Return the lines of a text file below `root`, or none without a name."""
    if not name:
        return []
    path = Path(root, name)
    try:
        return [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise SourcewiseError(f"{path}: cannot be read ({error})") from error


def listed_rows(root: str, name: str | None, keys: Sequence[str]) -> NDArray[np.intp]:
    """Return the rows whose key a text file lists, or all without a file.

    Raises SourcewiseError for a key that no row has.
    """
    if not name:
        return np.arange(len(keys))
    place = {key: row for row, key in enumerate(keys)}
    wanted = [line.lstrip("/") for line in read_lines(root, name)]
    if missing := [key for key in wanted if key not in place]:
        raise SourcewiseError(
            f"{Path(root, name)}: {len(missing)} of its {len(wanted)} images are not there, such as {missing[0]}"
        )
    return np.array(sorted(place[key] for key in wanted), dtype=np.intp)


def _entries(folder: str) -> list["os.DirEntry[str]"]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise SourcewiseError(f"{folder}: cannot be read ({error.strerror})") from error


def _is_within(folder: str, top: str) -> bool:
    """Return whether a folder is `top` or lies in it; both are real paths."""
    return folder == top or folder.startswith(top.rstrip("/") + "/")
