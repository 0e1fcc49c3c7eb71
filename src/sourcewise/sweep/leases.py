"""Which process works on a run: a lease in its folder, so that many processes and machines can share a study.

A lease is a file: a token, who holds it, and a counter that its holder raises every `HEARTBEAT` seconds. What is asked
of the file system is in `lease_files.py`: exclusive creation and deletion that a server decides; what other machines
read may be `DELAY` seconds old. No two clocks are ever compared.

* `lease` is the first lease. Whoever succeeds a dead holder with token T creates `lease-T`, and exclusive creation
  lets one taker win. The holder is the end of the chain that starts at `lease`; deleting `lease` frees the run at one
  stroke.
* A holder on this machine is dead when its process is gone. Any other one is dead when a watcher has seen the same
  counter for `EXPIRY` seconds of the watcher's own clock. The watcher then bids: it creates the successor's lease, and
  frees the run `DELAY` seconds later if it is the end of the chain, as it then sees what was true when it bid.
* A holder that was taken for dead but only slept finds out at its next heartbeat, which ends the run, and again before
  it writes: `Lease.check`. So at most two processes do the same run, for `HEARTBEAT + DELAY` seconds at most:
  docs/cluster.md.
"""

import contextlib
import errno
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
from sourcewise.sweep.lease_files import LeaseFiles

HEARTBEAT = 10.0
EXPIRY = 90.0

DELAY = 60.0
"""Seconds after which every machine sees what one has changed: the longest that NFS keeps attributes by default. A
counter that is `HEARTBEAT + DELAY` seconds old must not expire, so this has to be well below `EXPIRY - HEARTBEAT`."""

FILES = LeaseFiles()

_TRIES = 5

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
    lost: bool = False
    _ended: threading.Event = field(default_factory=threading.Event)
    _ending: threading.Lock = field(default_factory=threading.Lock)

    def check(self) -> None:
        """Raise Leased if the run was taken over while this process slept: it must not write any more."""
        _, last = _chain(self.folder)
        if last is None or last.token != self.holder.token:
            raise Leased(f"{self.folder} was taken over by {last or 'another process'} while this process slept")

    def release(self) -> None:
        """Free the run, and if it is complete, clear up after all who ever held it."""
        if os.getpid() != self.holder.pid:
            return
        with self._ending:
            if self._ended.is_set():
                return
            self._ended.set()
        FILES.close(self.file)
        with contextlib.suppress(OSError):
            files, last = _chain(self.folder)
            if last is not None and last.token == self.holder.token:
                for name in files:  # once the first is gone, the run is free and the rest means nothing
                    FILES.remove(self.folder / name)
            if names.is_done(self.folder):
                tidy(self.folder)

    def beat(self, count: int) -> None:
        """Write the holder and a count. The text always has the same length, so that a heartbeat overwrites it."""
        text = json.dumps({**vars(self.holder), "beat": f"{count:012d}"}) + "\n"
        FILES.overwrite(self.file, text.encode())

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
            if not self.pulse(count):
                with self._ending:
                    if not self._ended.is_set():
                        self.lost = True
                        self._interrupt()
                return

    def pulse(self, count: int) -> bool:
        """Write a heartbeat, and return whether this process still holds the run, as far as can be seen."""
        with contextlib.suppress(OSError):
            self.beat(count)
        try:
            self.check()
        except Leased:
            return False
        except OSError:  # the file system does not answer
            pass
        return True

    def _interrupt(self) -> None:
        """Interrupt the main thread, as Ctrl-C would, so that `lease` ends the run."""
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)


@contextlib.contextmanager
def lease(folder: Path, patience: float | None = None) -> Iterator[Lease]:
    """Hold a run's folder. Check whether the run is done only inside: it may have been finished a moment ago.

    patience: seconds to watch a holder on another machine for a sign of life; by default long enough to find it dead,
    except in a launcher's worker. Raises Leased as soon as another process is known, or must be assumed, to hold it.
    """
    if patience is None:
        patience = 0.0 if WORKER in os.environ else EXPIRY + DELAY + 2
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
        try:
            yield held
        finally:
            held.release()
    except KeyboardInterrupt:
        if held.lost:
            raise Leased(f"{folder} was taken over by another process while this one slept") from None
        raise


class Watch:
    """The holders seen so far, which finds dead ones by looking at them more than once."""

    def __init__(self) -> None:
        self._seen: dict[Path, tuple[Holder | None, float]] = {}
        self._bids: dict[Path, tuple[Lease, Holder, float]] = {}
        """The leases by which this process succeeds dead holders, these, and when it saw that they are the next."""

    def holder(self, folder: Path) -> Holder | None:
        """Return who holds the run, None when it is free. End a lease that has not changed for `EXPIRY` seconds."""
        if folder in self._bids:
            return self._bidden(folder)
        last, now = holder(folder), time.monotonic()
        seen, when = self._seen.get(folder, (None, now))
        if last is None or last != seen:
            self._seen[folder] = last, now
        elif now - when >= EXPIRY:
            with contextlib.suppress(Leased):
                self._bids[folder] = _acquire(folder, expired=last.token), last, time.monotonic()
                return self._bidden(folder)
        return last

    def _bidden(self, folder: Path) -> Holder | None:
        """Return the dead holder until all machines see the bid; then free the run, unless others were faster."""
        bid, dead, when = self._bids[folder]
        if time.monotonic() - when < DELAY:
            return dead
        del self._bids[folder], self._seen[folder]
        bid.release()
        return holder(folder)


def holder(folder: Path) -> Holder | None:
    """Return who seems to hold the run at one look; None when it is free or its holder is known to be dead."""
    _, last = _chain(folder)
    return None if last is None or last.dead else last


def abandoned(folder: Path) -> bool:
    """Return whether a holder died without freeing the run."""
    return _read(folder / _ROOT) is not None and holder(folder) is None


def clear(folder: Path) -> None:
    """Remove a dead holder's files from the folder of a run that no process holds."""
    with contextlib.suppress(SourcewiseError):
        _acquire(folder).release()


def tidy(folder: Path) -> None:
    """Remove dead holders' leases, checkpoints and temporary files from the folder of a complete run."""
    with contextlib.suppress(OSError):
        for name in FILES.names(folder):
            if name.startswith((_ROOT, "checkpoint-")) or name.endswith(".tmp"):
                FILES.remove(folder / name)


def _acquire(folder: Path, expired: str = "") -> Lease:
    """Lease a run that is free, or whose holder is dead or has the token `expired`. Raises Leased."""
    try:
        FILES.make(folder)
        for _ in range(_TRIES):
            _, last = _chain(folder)
            if last is not None and not last.dead and last.token != expired:
                raise Leased(f"{folder} is leased by {last}")
            path = folder / (_ROOT if last is None else f"{_ROOT}-{last.token}")
            lease = _create(path)
            if lease is None:  # someone was faster, whom this machine may not see yet
                time.sleep(0.02)
                continue
            # After its creation a machine lists the folder as it is, and then sees a record that was written before.
            left = [name for name in FILES.names(folder) if name.endswith(".tmp")]
            _, last = _chain(folder)
            if last is not None and last.token == lease.holder.token:
                for name in left:  # of a dead holder; if it only sleeps, it can write no more
                    FILES.remove(folder / name)
                return lease
            FILES.close(lease.file)  # the chain that this one continues has ended meanwhile
            FILES.remove(path)
        raise Leased(f"{folder} was leased by another process a moment ago")
    except OSError as error:
        raise SourcewiseError(f"{folder}: cannot lease the run: {error.strerror or error}") from error


def _create(path: Path) -> Lease | None:
    """Create a lease of this process at this path; return None if there is one."""
    pid = os.getpid()
    holder = Holder(secrets.token_hex(8), socket.gethostname(), pid, _place(), _birth(pid), round(time.time(), 1))
    file = FILES.create(path)
    if file is None:
        return None
    lease = Lease(path.parent, holder, file)
    try:
        lease.beat(0)
    except OSError as error:
        FILES.close(file)
        if error.errno == errno.ESTALE:  # removed already, by one who saw the run complete
            return None
        FILES.remove(path)
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
    file = FILES.read(path)
    if file is None:
        return None
    text, version = file
    try:
        return Holder(**json.loads(text))
    except (ValueError, TypeError):  # its holder has just created it, or died doing so
        return Holder(version)


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
