"""All that leases ask of a file system, in one class, so that a simulation can be put in its place.

What must hold where several machines share a folder:

* `create` succeeds on one machine only: the server decides, not a cache;
* `remove` and `overwrite` change what the server has before they return;
* a machine sees its own changes at once, and `names` after a creation of its own shows the folder as it is;
* a machine sees changes of others after `leases.DELAY` seconds at the latest.

NFS, Lustre, GPFS and the clouds' shared volumes do this; folders that show a bucket of objects do not.
"""

import os
from pathlib import Path


class LeaseFiles:
    """The files of leases on a mounted file system. All raise OSError."""

    def make(self, folder: Path) -> None:
        """Make a folder, if it is missing."""
        folder.mkdir(parents=True, exist_ok=True)

    def names(self, folder: Path) -> list[str]:
        """Return the names of the files in a folder."""
        return [path.name for path in folder.iterdir()]

    def create(self, path: Path) -> int | None:
        """Create a file, and open it to write; return None if there is one."""
        try:
            return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        except FileExistsError:
            return None

    def overwrite(self, file: int, content: bytes) -> None:
        """Write at the start of an open file, wherever its name leads by now."""
        os.pwrite(file, content, 0)
        os.fsync(file)

    def close(self, file: int) -> None:
        """Close a file."""
        os.close(file)

    def remove(self, path: Path) -> None:
        """Remove a file, if there is one."""
        path.unlink(missing_ok=True)

    def read(self, path: Path) -> tuple[bytes, str] | None:
        """Return a file's content, and a name for the file and its last change; None without the file."""
        try:
            with path.open("rb") as file:
                content, status = file.read(), os.fstat(file.fileno())
        except (FileNotFoundError, NotADirectoryError):
            return None
        return content, f"{status.st_ino:x}-{status.st_mtime_ns:x}"
