"""Files that are whole or not there."""

import contextlib
import os
import tempfile
from pathlib import Path

from sourcewise.core.errors import SourcewiseError


def check_place(folder: Path) -> None:
    """Raise SourcewiseError, before hours of work, if the folder is not one or cannot be written to or made."""
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not (there.is_dir() and os.access(there, os.W_OK)):
        reason = "it is read-only to you" if there.is_dir() else "it is not a folder"
        raise SourcewiseError(f"{there}: {reason}; choose another place for {folder}")


def write_whole(path: Path, content: bytes) -> None:
    """Write atomically: a reader sees the old file or all of the new. Raises OSError when the disk does not take it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp", delete=False) as file:
        try:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
            Path(file.name).chmod(0o644)
            Path(file.name).replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                Path(file.name).unlink()
            raise
    # The rename itself shall survive a power cut; file systems that cannot sync a folder keep their own promise.
    with contextlib.suppress(OSError):
        handle = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
