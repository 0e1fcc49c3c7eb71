"""Who works on a run: a lease in the run's folder, so that any number of processes and machines can share a study.

A lease is a file: a token, who holds it, and a counter that its holder raises every `HEARTBEAT` seconds. Nothing but
exclusive creation and deletion of files is asked of the file system, and no two clocks are ever compared.

* `lease` is the first claim. Whoever succeeds a dead holder with token T creates `lease-T`, and exclusive creation
  lets one taker win. The holder is the end of the chain that starts at `lease`; deleting `lease` frees the run at one
  stroke.
* A holder on this machine is dead when its process is gone. Any other one is dead when a watcher has seen the same
  counter for `EXPIRY` seconds of the watcher's own clock.
* A holder that was taken for dead but only slept finds out before it writes: `Lease.check`.
"""

import contextlib
import json
import os
import secrets
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from sourcewise import study
from sourcewise.errors import SourcewiseError

HEARTBEAT = 10.0
EXPIRY = 90.0

EXIT_CLAIMED = 75
"""Exit status of a command whose run someone else is doing (EX_TEMPFAIL: try again later)."""

WORKER = "SOURCEWISE_WORKER"
"""Set in the processes of a launcher, which comes back to claimed runs itself instead of waiting for them."""

_ROOT = "lease"


class Claimed(SourcewiseError):  # noqa: N818
    """Someone else is doing this run, or may be."""

    status = EXIT_CLAIMED


@dataclass(frozen=True)
class Holder:
    """What a lease says of who holds it. `since` is the holder's wall clock, for people: nothing hangs on it."""

    token: str
    host: str = "an unknown host"
    pid: int = 0
    place: str = ""
    birth: str = ""
    since: float = 0.0
    beat: str = ""

    @property
    def dead(self) -> bool:
        """Whether the holder's process is gone for sure: known at once on the same machine, never of another one."""
        if self.place != _place() or "" in (self.place, self.birth):
            return False
        return _birth(self.pid) not in ("", self.birth)

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


@dataclass
class Lease:
    """A run that this process holds."""

    folder: Path
    holder: Holder
    file: int
    pid: int = field(default_factory=os.getpid)
    _ended: threading.Event = field(default_factory=threading.Event)

    def check(self) -> None:
        """Raise Claimed if the run was taken over while this process slept: it must not write any more."""
        _, last = _chain(self.folder)
        if last is None or last.token != self.holder.token:
            raise Claimed(f"{self.folder} was taken over by {last or 'another process'} while this process slept")

    def release(self) -> None:
        """Free the run, and if it is complete, clear up after all who ever held it."""
        if self._ended.is_set() or os.getpid() != self.pid:
            return
        self._ended.set()
        os.close(self.file)
        with contextlib.suppress(OSError):
            names, last = _chain(self.folder)
            if last is not None and last.token == self.holder.token:
                for name in names:  # once the first is gone, the run is free and the rest means nothing
                    (self.folder / name).unlink(missing_ok=True)
            if study.is_done(self.folder):
                tidy(self.folder)

    def keep(self) -> "Lease":
        """Start the heartbeat."""
        threading.Thread(target=self._beat, daemon=True, name="heartbeat").start()
        return self

    def _beat(self) -> None:
        # Signals are the main thread's: one taken here would not wake it from a system call.
        signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
        count = 0
        while not self._ended.wait(HEARTBEAT):
            count += 1
            with contextlib.suppress(OSError):
                os.pwrite(self.file, _content(self.holder, count), 0)
                os.fsync(self.file)


@contextlib.contextmanager
def claim(folder: Path, patience: float | None = None) -> Iterator[Lease]:
    """Hold a run's folder. Look whether the run is done only inside: it may have been finished a moment ago.

    patience: seconds to watch a holder on another machine for a sign of life; by default long enough to find it dead,
    except in a launcher's worker. Raises Claimed as soon as someone else is known, or may be assumed, to hold it.
    """
    if patience is None:
        patience = 0.0 if WORKER in os.environ else EXPIRY + 1
    watch, limit = Watch(), time.monotonic() + patience
    first = watch.holder(folder)
    if first is not None and patience:
        print(f"{folder} is claimed by {first}; watching for a sign of life", file=sys.stderr, flush=True)
    while (holder := watch.holder(folder)) is not None:
        if first is None or holder.token != first.token or holder.beat != first.beat or time.monotonic() >= limit:
            raise Claimed(f"{folder} is claimed by {holder}")
        if holder.place == _place():
            raise Claimed(f"{folder} is being done by {holder}")
        time.sleep(min(1.0, EXPIRY / 10))
    lease = _acquire(folder).keep()
    try:
        yield lease
    finally:
        lease.release()


class Watch:
    """Finds out which holders are dead, by looking at them more than once."""

    def __init__(self) -> None:
        self._seen: dict[Path, tuple[Holder, float]] = {}

    def holder(self, folder: Path) -> Holder | None:
        """Who holds the run; None when it can be claimed. Ends a lease that has not changed for `EXPIRY` seconds."""
        _, last = _chain(folder)
        if last is None or last.dead:
            self._seen.pop(folder, None)
            return None
        seen, when = self._seen.get(folder, (None, 0.0))
        now = time.monotonic()
        if seen != last:
            self._seen[folder] = (last, now)
        elif now - when >= EXPIRY:
            with contextlib.suppress(Claimed):
                _acquire(folder, expired=last.token).release()
                return None
        return last


def holder(folder: Path) -> Holder | None:
    """Who seems to hold the run, at one look; None when it is free or its holder is known to be dead."""
    _, last = _chain(folder)
    return None if last is None or last.dead else last


def abandoned(folder: Path) -> bool:
    """Whether a holder died without freeing the run."""
    return (folder / _ROOT).exists() and holder(folder) is None


def clear(folder: Path) -> None:
    """Remove what a dead holder left in the folder of a run that nobody holds."""
    with contextlib.suppress(SourcewiseError):
        _acquire(folder).release()


def tidy(folder: Path) -> None:
    """Remove what dead holders left in the folder of a complete run: leases and temporary files."""
    with contextlib.suppress(OSError):
        for entry in os.scandir(folder):
            if entry.name == _ROOT or entry.name.startswith(f"{_ROOT}-") or entry.name.endswith(".tmp"):
                Path(entry.path).unlink(missing_ok=True)


def _acquire(folder: Path, expired: str = "") -> Lease:
    """Claim a run that is free, or whose holder is dead or has the token `expired`. Raises Claimed."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        while True:
            _, last = _chain(folder)
            if last is not None and not last.dead and last.token != expired:
                raise Claimed(f"{folder} is claimed by {last}")
            name = _ROOT if last is None else f"{_ROOT}-{last.token}"
            lease = _create(folder, name)
            if lease is None:
                continue  # someone was faster
            _, last = _chain(folder)
            if last is not None and last.token == lease.holder.token:
                for path in folder.glob("*.tmp"):  # of a dead holder; if it only sleeps, it can write no more
                    path.unlink(missing_ok=True)
                return lease
            os.close(lease.file)  # the chain that this one continues has ended meanwhile
            (folder / name).unlink(missing_ok=True)
    except OSError as error:
        raise SourcewiseError(f"{folder}: cannot claim the run: {error.strerror or error}") from error


def _create(folder: Path, name: str) -> Lease | None:
    """A lease of this process under this name; None if there is one. Complete from the moment it can be seen."""
    pid = os.getpid()
    mine = Holder(secrets.token_hex(8), socket.gethostname(), pid, _place(), _birth(pid), round(time.time(), 1))
    temporary = folder / f".{name}.{mine.token}.tmp"
    file = _write_new(temporary, mine)
    try:
        os.link(temporary, folder / name)
        return Lease(folder, mine, file)
    except OSError as error:
        if isinstance(error, FileExistsError) and os.fstat(file).st_nlink > 1:
            return Lease(folder, mine, file)  # NFS may repeat a request that has already succeeded
        os.close(file)
        if isinstance(error, FileExistsError | FileNotFoundError):
            return None
        with contextlib.suppress(FileExistsError):  # a file system without hard links
            return Lease(folder, mine, _write_new(folder / name, mine))
        return None
    finally:
        temporary.unlink(missing_ok=True)


def _write_new(path: Path, holder: Holder) -> int:
    """A new file that says who holds it, open for writing."""
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        os.write(file, _content(holder, 0))
        os.fsync(file)
    except OSError:
        os.close(file)
        path.unlink(missing_ok=True)
        raise
    return file


def _chain(folder: Path) -> tuple[list[str], Holder | None]:
    """The lease files from the first claim to the last takeover, and who holds the run: the last one."""
    names: list[str] = []
    last = None
    name = _ROOT
    while (found := _read(folder / name)) is not None:
        names.append(name)
        last = found
        name = f"{_ROOT}-{found.token}"
    return names, last


def _content(holder: Holder, count: int) -> bytes:
    """Always of the same length for the same holder, so that a heartbeat overwrites it in place."""
    return json.dumps({**vars(holder), "beat": f"{count:012d}"}).encode() + b"\n"


def _read(path: Path) -> Holder | None:
    try:
        with path.open("rb") as file:
            text, stat = file.read(), os.fstat(file.fileno())
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        return Holder(**json.loads(text))
    except (ValueError, TypeError):  # its holder has just created it, or died doing so
        return Holder(f"{stat.st_ino:x}-{stat.st_mtime_ns:x}")


@cache
def _place() -> str:
    """Where process ids mean what they mean here: this boot of this machine, this process namespace. "" if unknown."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""


def _birth(pid: int) -> str:
    """When a process of this machine started, by the kernel's clock; "gone" without such a process, "" if unknown."""
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return "gone" if state in "ZX" else fields[18]
    except (OSError, ValueError):
        pass
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return "gone"
    except OSError:
        pass
    return ""
