"""Which process works on a run: a lease in its folder, so that many processes and machines can share a study.

A lease is a file: a token, who holds it, and a counter that its holder raises every `HEARTBEAT` seconds. Nothing but
exclusive creation and deletion of files is asked of the file system, and no two clocks are ever compared.

* `lease` is the first lease. Whoever succeeds a dead holder with token T creates `lease-T`, and exclusive creation
  lets one taker win. The holder is the end of the chain that starts at `lease`; deleting `lease` frees the run at one
  stroke.
* A holder on this machine is dead when its process is gone. Any other one is dead when a watcher has seen the same
  counter for `EXPIRY` seconds of the watcher's own clock.
* A holder that was taken for dead but only slept finds out before it writes: `Lease.check`.
"""

import contextlib
import itertools
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

from sourcewise.core import names
from sourcewise.core.errors import EXIT_LEASED, WORKER, SourcewiseError

HEARTBEAT = 10.0
EXPIRY = 90.0

_ROOT = "lease"


class Leased(SourcewiseError):  # noqa: N818
    """Another process is doing this run, or may be."""

    status = EXIT_LEASED


@dataclass(frozen=True)
class Holder:
    """The process that holds a lease. `since` is its wall clock, for people to read: nothing depends on it."""

    token: str
    host: str = "an unknown host"
    pid: int = 0
    place: str = ""
    birth: str = ""
    since: float = 0.0
    beat: str = ""

    @property
    def dead(self) -> bool:
        """Return whether the holder's process has surely ended; on another machine this cannot be known."""
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
    _ended: threading.Event = field(default_factory=threading.Event)

    def check(self) -> None:
        """Raise Leased if the run was taken over while this process slept: it must not write any more."""
        _, last = _chain(self.folder)
        if last is None or last.token != self.holder.token:
            raise Leased(f"{self.folder} was taken over by {last or 'another process'} while this process slept")

    def release(self) -> None:
        """Free the run, and if it is complete, clear up after all who ever held it."""
        if self._ended.is_set() or os.getpid() != self.holder.pid:
            return
        self._ended.set()
        os.close(self.file)
        with contextlib.suppress(OSError):
            files, last = _chain(self.folder)
            if last is not None and last.token == self.holder.token:
                for name in files:  # once the first is gone, the run is free and the rest means nothing
                    (self.folder / name).unlink(missing_ok=True)
            if names.is_done(self.folder):
                tidy(self.folder)

    def beat(self, count: int) -> None:
        """Write the holder and a count. The text always has the same length, so that a heartbeat overwrites it."""
        text = json.dumps({**vars(self.holder), "beat": f"{count:012d}"}) + "\n"
        os.pwrite(self.file, text.encode(), 0)
        os.fsync(self.file)

    def keep(self) -> "Lease":
        """Start the heartbeat."""
        threading.Thread(target=self._beats, daemon=True, name="heartbeat").start()
        return self

    def _beats(self) -> None:
        # Signals are the main thread's: one taken here would not wake it from a system call.
        signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
        for count in itertools.count(1):
            if self._ended.wait(HEARTBEAT):
                return
            with contextlib.suppress(OSError):
                self.beat(count)


@contextlib.contextmanager
def lease(folder: Path, patience: float | None = None) -> Iterator[Lease]:
    """Hold a run's folder. Check whether the run is done only inside: it may have been finished a moment ago.

    patience: seconds to watch a holder on another machine for a sign of life; by default long enough to find it dead,
    except in a launcher's worker. Raises Leased as soon as another process is known, or must be assumed, to hold it.
    """
    if patience is None:
        patience = 0.0 if WORKER in os.environ else EXPIRY + 1
    watch, limit, first = Watch(), time.monotonic() + patience, None
    while (holder := watch.holder(folder)) is not None:
        if holder != (first or holder) or holder.place == _place() or time.monotonic() >= limit:
            raise Leased(f"{folder} is leased by {holder}")
        if first is None:
            print(f"{folder} is leased by {holder}; watching for a sign of life", file=sys.stderr, flush=True)
        first = holder
        time.sleep(min(1.0, EXPIRY / 10))
    held = _acquire(folder).keep()
    try:
        yield held
    finally:
        held.release()


class Watch:
    """The holders seen so far, which finds dead ones by looking at them more than once."""

    def __init__(self) -> None:
        self._seen: dict[Path, tuple[Holder | None, float]] = {}

    def holder(self, folder: Path) -> Holder | None:
        """Return who holds the run, None when it is free. End a lease that has not changed for `EXPIRY` seconds."""
        last, now = holder(folder), time.monotonic()
        seen, when = self._seen.get(folder, (None, now))
        if last is None or last != seen:
            self._seen[folder] = last, now
        elif now - when >= EXPIRY:
            with contextlib.suppress(Leased):
                _acquire(folder, expired=last.token).release()
                return None
        return last


def holder(folder: Path) -> Holder | None:
    """Return who seems to hold the run at one look; None when it is free or its holder is known to be dead."""
    _, last = _chain(folder)
    return None if last is None or last.dead else last


def abandoned(folder: Path) -> bool:
    """Return whether a holder died without freeing the run."""
    return (folder / _ROOT).exists() and holder(folder) is None


def clear(folder: Path) -> None:
    """Remove a dead holder's files from the folder of a run that no process holds."""
    with contextlib.suppress(SourcewiseError):
        _acquire(folder).release()


def tidy(folder: Path) -> None:
    """Remove dead holders' leases, checkpoints and temporary files from the folder of a complete run."""
    with contextlib.suppress(OSError):
        for path in folder.iterdir():
            if path.name.startswith((_ROOT, "checkpoint-")) or path.suffix == ".tmp":
                path.unlink(missing_ok=True)


def _acquire(folder: Path, expired: str = "") -> Lease:
    """Lease a run that is free, or whose holder is dead or has the token `expired`. Raises Leased."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        while True:
            _, last = _chain(folder)
            if last is not None and not last.dead and last.token != expired:
                raise Leased(f"{folder} is leased by {last}")
            path = folder / (_ROOT if last is None else f"{_ROOT}-{last.token}")
            lease = _create(path)
            if lease is None:
                continue  # someone was faster
            _, last = _chain(folder)
            if last is not None and last.token == lease.holder.token:
                for left in folder.glob("*.tmp"):  # of a dead holder; if it only sleeps, it can write no more
                    left.unlink(missing_ok=True)
                return lease
            os.close(lease.file)  # the chain that this one continues has ended meanwhile
            path.unlink(missing_ok=True)
    except OSError as error:
        raise SourcewiseError(f"{folder}: cannot lease the run: {error.strerror or error}") from error


def _create(path: Path) -> Lease | None:
    """Create a lease of this process at this path; return None if there is one."""
    pid = os.getpid()
    holder = Holder(secrets.token_hex(8), socket.gethostname(), pid, _place(), _birth(pid), round(time.time(), 1))
    try:
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    except FileExistsError:
        return None
    lease = Lease(path.parent, holder, file)
    try:
        lease.beat(0)
    except OSError:
        os.close(file)
        path.unlink(missing_ok=True)
        raise
    return lease


def _chain(folder: Path) -> tuple[list[str], Holder | None]:
    """Return the names of the lease files in order of takeover, and the holder in the last one."""
    names: list[str] = []
    last = None
    name = _ROOT
    while (link := _read(folder / name)) is not None:
        names.append(name)
        last = link
        name = f"{_ROOT}-{link.token}"
    return names, last


def _read(path: Path) -> Holder | None:
    """Return the holder in a lease file; None without the file."""
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
    """Return a name of this boot of this machine and process namespace, within which a process id means one process.

    It is empty where the system does not show these.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""


def _birth(pid: int) -> str:
    """Return when a process of this machine started, by the kernel's clock; "gone" without it, "" if unknown."""
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return "gone" if state in "ZX" else fields[18]
    except (FileNotFoundError, ProcessLookupError):
        return "gone" if Path("/proc/self/stat").exists() else ""
