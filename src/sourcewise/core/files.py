"""Files written atomically, and the folder of files that can be made again."""

import contextlib
import errno
import os
import stat
import tempfile
from collections.abc import Iterable, Iterator
from io import BufferedReader
from pathlib import Path

from sourcewise.core.errors import SourcewiseError


def home_folder() -> Path:
    """Return the user's home; for a user without one, as in some containers, a path where nothing can be written."""
    try:
        return Path.home()
    except RuntimeError:
        return Path(os.devnull, "home")


def cache_folder() -> Path:
    """Return the user's folder of files that are made again when they are gone."""
    return Path(os.environ.get("XDG_CACHE_HOME") or home_folder() / ".cache") / "sourcewise"


def check_place(folder: Path) -> None:
    """Check that a folder can be made and written to. Raises SourcewiseError if not, before hours of work."""
    nearest = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not (nearest.is_dir() and os.access(nearest, os.W_OK)):
        reason = "it is read-only to you" if nearest.is_dir() else "it is not a folder"
        raise SourcewiseError(f"{nearest}: {reason}; choose another place for {folder}")


@contextlib.contextmanager
def open_regular(path: Path) -> Iterator[tuple[BufferedReader, int]]:
    """Open a regular file to read, and give its size in bytes too.

    Raises OSError when there is none, and for anything else, such as a pipe, which a reader might wait for.
    """
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        yield file, status.st_size


def write_atomically(path: Path, content: bytes | Iterable[bytes]) -> None:
    """Write a file atomically, from its bytes or from parts of them: a reader sees the old file or all of the new one.

    Raises OSError when the disk does not take it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp", delete=False) as file:
        try:
            file.writelines([content] if isinstance(content, bytes) else content)
            file.flush()
            os.fsync(file.fileno())
            Path(file.name).chmod(0o644)
            Path(file.name).replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                Path(file.name).unlink()
            raise
    # The rename must survive a power cut too. Some file systems cannot sync a folder.
    with contextlib.suppress(OSError):
        handle = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
