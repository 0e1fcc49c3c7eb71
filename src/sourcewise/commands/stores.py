"""The stores of images in the cache: list them with their sizes and what they are from, and remove them.

python -m sourcewise.commands.stores                      list the stores, the largest first
python -m sourcewise.commands.stores --clear all          remove all
python -m sourcewise.commands.stores --clear NAME ...     remove some

A store that is removed is made again when a run needs it. Reports show pictures of examples while their store is there.
"""

import argparse
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from sourcewise.core import exits
from sourcewise.core.errors import SourcewiseError, did_you_mean
from sourcewise.core.files import cache_folder
from sourcewise.core.messages import printable


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command: `python -m sourcewise.commands.stores`, `sourcewise-stores`."""
    with exits.errors():
        usage, _, rest = (__doc__ or "").partition("\n\n")
        parser = argparse.ArgumentParser(
            "sourcewise-stores", description=usage, epilog=rest, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        parser.add_argument("--clear", nargs="*", metavar="NAME", help="remove these stores, or all")
        parser.add_argument("--folder", type=Path, help="where stores lie (cache_dir); else the cache of this user")
        chosen = parser.parse_args(arguments)
        folder = chosen.folder or cache_folder()
        print(table(folder) if chosen.clear is None else clear(folder, chosen.clear))


def table(folder: Path) -> str:
    """Return a line for every store in a folder, the largest first: size, when it was made, name and origin."""
    files = sorted(_stores(folder), key=_size, reverse=True)
    lines = [f"{_megabytes(_size(file))}  {_made(file)}  {file.name}  {_description(file)}" for file in files]
    return "\n".join([*lines, f"{_megabytes(sum(map(_size, files)))} in {len(files)} stores in {folder}"])


def clear(folder: Path, names: Sequence[str]) -> str:
    """Remove stores by name, or `all`, and say what was freed. Raises SourcewiseError for a name that is not there."""
    from sourcewise.data import store  # torch is slow to import

    if not names:
        raise SourcewiseError("--clear: give the names of stores, or all")
    files = {file.name: file for file in _stores(folder)}
    if unknown := [name for name in names if name not in files and name != "all"]:
        raise SourcewiseError(f"{folder}: no store {unknown[0]}{did_you_mean(unknown[0], files)}")
    chosen = list(files.values()) if "all" in names else [files[name] for name in dict.fromkeys(names)]
    freed = sum(map(_size, chosen))
    for file in chosen:
        store.remove(file)
    return f"{_megabytes(freed).strip()} freed; {len(chosen)} stores removed from {folder}"


def _stores(folder: Path) -> list[Path]:
    """Return the stores in a folder, those that were never finished too."""
    unfinished = (folder / file.name[1:].rsplit(".", 2)[0] for file in folder.glob(".*.arrow.*.tmp"))
    return sorted({*folder.glob("*.arrow"), *unfinished})


def _size(file: Path) -> int:
    return sum(path.stat().st_size for path in (file, *file.parent.glob(f".{file.name}.*")) if path.exists())


def _made(file: Path) -> str:
    return f"{datetime.fromtimestamp(file.stat().st_mtime):%Y-%m-%d}" if file.exists() else "unfinished"


def _description(file: Path) -> str:
    from sourcewise.data import store  # torch is slow to import

    try:
        batches, header = store.content(file)
    except SourcewiseError:
        return "not a whole store"
    size = f"{sum(map(len, batches))} images, {header.get('side')} pixels, {header.get('format')}"
    return printable(f"{size}, from {header.get('origin') or 'data that are not known'}")


def _megabytes(size: int) -> str:
    return f"{size / 1e6:9.1f} MB"


if __name__ == "__main__":
    main()
