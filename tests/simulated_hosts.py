"""Simulated machines that share a folder whose changes they see late, on a clock of the simulation's own.

Each machine is a thread that runs the product's own policy and leases (`Sweep._drive`, `leases.lease`); one thread runs
at a time, chosen by the queue of events, so that a seed decides everything. Only files, clock and training are not real.
"""

import errno
import heapq
import itertools
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from simulated_work import Findings, Work, findings

from sourcewise.core import names
from sourcewise.sweep import leases, policy
from sourcewise.sweep.lease_files import LeaseFiles
from sourcewise.sweep.pool import Outcome
from sourcewise.sweep.runs import Run

WHOLE, HALF = b"whole", b"half"

READS = 0.02
"""Part of the reads between which other machines act."""


class Killed(BaseException):
    """A machine was taken away."""


@dataclass
class Shared:
    """What the machines share, and how late they see it.

    delay: seconds that a machine's view of a file, or of its absence, may be old. listings: whether a machine that
    creates or removes a file looks at the folder anew, as NFS does. copying: seconds that a rename takes where it is a
    copy, during which the file is there in part; 0 is an atomic rename. preempted, crashed, frozen: parts of the
    machines that are replaced by another one, whose processes are killed and begin again, or that stand still.
    """

    hosts: int = 200
    runs: int = 400
    seconds: tuple[float, float] = (20.0, 200.0)
    delay: float = 3.0
    listings: bool = True
    copying: float = 0.0
    latency: float = 0.01
    preempted: float = 0.0
    crashed: float = 0.0
    frozen: float = 0.0
    seed: int = 0


@dataclass(eq=False)
class Host:
    """One machine, and what it believes of each folder: name to content (None: no file), and names; until when.

    number: of its processes, which a restart changes. place: of the machine.
    """

    number: int
    place: int = -1
    cache: dict[str, dict[str, tuple[tuple[bytes, str] | None, float]]] = field(default_factory=dict)
    listing: dict[str, tuple[list[str], float]] = field(default_factory=dict)
    go: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    ticket: int = 0
    frozen_until: float = 0.0
    dead: bool = False
    interrupted: bool = False
    finished: bool = False


class Simulation(LeaseFiles):
    """A folder, and the machines that do the same sweep in it."""

    def __init__(self, shared: Shared) -> None:
        self.shared, self.now, self.random = shared, 0.0, random.Random(shared.seed)
        self.queue: list[tuple[float, int, Callable[[], None]]] = []
        self.order = itertools.count()
        self.back = threading.Semaphore(0)
        self.current = Host(-1)
        self.instant = True
        self.files: dict[str, tuple[bytes, int]] = {}
        self.open: dict[int, str] = {}
        self.numbers = itertools.count(1)
        self.tokens = itertools.count(1)
        self.work: list[Work] = []
        self.hosts: list[Host] = []
        self.durations = [self.random.uniform(*shared.seconds) for _ in range(shared.runs)]
        self.events = 0

    # The clock, and which machine's turn it is

    def at(self, when: float, deed: Callable[[], None]) -> None:
        heapq.heappush(self.queue, (when, next(self.order), deed))

    def sleep(self, seconds: float) -> None:
        """Let the others go on until the current machine's clock has advanced."""
        if self.instant:
            return
        host = self.current
        host.ticket += 1
        self.at(self.now + seconds, lambda ticket=host.ticket: self.wake(host, ticket))
        self.back.release()
        host.go.acquire()
        if host.dead:
            raise Killed
        if host.interrupted:
            host.interrupted = False
            raise KeyboardInterrupt

    def wake(self, host: Host, ticket: int) -> None:
        if ticket != host.ticket or host.finished:
            return
        if self.now < host.frozen_until and not host.dead:
            self.at(host.frozen_until, lambda: self.wake(host, ticket))
            return
        host.ticket += 1
        self.current, self.instant = host, False
        host.go.release()
        self.back.acquire()
        self.instant = True

    def run(self, until: float = 1e6) -> None:
        """Go on until all machines have ended."""
        while self.queue and any(not host.finished for host in self.hosts):
            self.now, _, deed = heapq.heappop(self.queue)
            self.events += 1
            if self.now > until:
                raise AssertionError("the machines do not come to an end")
            deed()

    def start(self, program: Callable[[], None], before: Host | None = None) -> Host:
        """Add a machine that runs a program, or let one begin again whose processes were killed."""
        host = Host(len(self.hosts), len(self.hosts))
        if before:
            host = Host(len(self.hosts), before.place, before.cache, before.listing)
        self.hosts.append(host)

        def body() -> None:
            host.go.acquire()
            with suppress(Killed):
                if not host.dead:
                    program()
            host.finished = True
            self.back.release()

        threading.Thread(target=body, daemon=True).start()
        self.at(self.now + self.random.uniform(0, 5), lambda: self.wake(host, host.ticket))
        return host

    def kill(self, host: Host) -> None:
        """Take a machine away."""
        if not host.finished:
            host.dead = True
            self.wake(host, host.ticket)

    def freeze(self, host: Host, seconds: float) -> None:
        """Stop a machine for some time: it neither trains nor beats."""
        if host.finished:
            return
        host.frozen_until = self.now + seconds
        for item in self.work:
            if item.host == host.number and item.end == float("inf"):
                item.end = self.now
                self.at(host.frozen_until, lambda run=item.run: self.thaw(host, run))

    def thaw(self, host: Host, run: int) -> None:
        if not host.dead:
            self.work.append(Work(run, host.number, self.now))

    # The folder as the current machine sees it

    def take_time(self, often: float = 1.0) -> None:
        """Let others act before the folder answers; of reads only some do, since each costs a switch of threads."""
        if self.current.dead:
            raise Killed
        if self.random.random() < often:
            self.sleep(self.random.expovariate(1 / self.shared.latency))

    def changed(self, path: str) -> None:
        """Note a change of the current machine's own: it sees it at once, and with `listings` the rest of the folder."""
        host, (folder, _, name) = self.current, path.rpartition("/")
        if self.shared.listings:
            host.cache.pop(folder, None)
            host.listing.pop(folder, None)
        elif folder in host.listing:
            seen, until = host.listing[folder]
            host.listing[folder] = [*(other for other in seen if other != name), *[name] * (path in self.files)], until
        self.see(path)

    def see(self, path: str) -> tuple[bytes, str] | None:
        """Give the current machine a view of a file as it is."""
        folder, _, name = path.rpartition("/")
        found = self.files.get(path)
        view = None if found is None else (found[0], str(found[1]))
        self.current.cache.setdefault(folder, {})[name] = view, self.now + self.shared.delay
        return view

    def make(self, folder: Path) -> None:
        pass

    def names(self, folder: Path) -> list[str]:
        host, place = self.current, str(folder)
        if place not in host.listing or host.listing[place][1] <= self.now:
            self.take_time()
            parts = [path.rpartition("/") for path in self.files if path.startswith(place + "/")]
            host.listing[place] = sorted(name for _, _, name in parts), self.now + self.shared.delay
        return host.listing[place][0]

    def create(self, path: Path) -> int | None:
        self.take_time()
        if str(path) in self.files:
            return None
        number = next(self.numbers)
        self.files[str(path)] = b"", number
        self.open[number] = str(path)
        self.changed(str(path))
        return number

    def overwrite(self, file: int, content: bytes) -> None:
        self.take_time()
        path = self.open[file]
        if self.files.get(path, (b"", 0))[1] != file:
            raise OSError(errno.ESTALE, "Stale file handle")
        self.files[path] = content, file
        self.see(path)

    def close(self, file: int) -> None:
        pass

    def remove(self, path: Path) -> None:
        self.take_time()
        self.files.pop(str(path), None)
        self.changed(str(path))

    def read(self, path: Path) -> tuple[bytes, str] | None:
        place = str(path)
        folder, _, name = place.rpartition("/")
        known = self.current.cache.get(folder, {}).get(name)
        if known is not None and known[1] > self.now:
            return known[0]
        self.take_time(READS)
        return self.see(place)

    def is_done(self, folder: Path) -> bool:
        return self.read(folder / names.RECORD) is not None

    def write_record(self, folder: Path) -> None:
        """Rename a whole file to the record, or where that is a copy, show a part of it first."""
        path, number = str(folder / names.RECORD), next(self.numbers)
        self.take_time()
        if self.shared.copying:
            self.files[path] = HALF, number
            self.changed(path)
            self.sleep(self.shared.copying)
        self.files[path] = WHOLE, number
        self.changed(path)

    # What a machine does

    def program(self) -> None:
        """Do a sweep, as a launcher with one worker does."""
        runs = [Run(number, {}, Path(f"/runs/study/{number}/log.txt")) for number in range(self.shared.runs)]
        for run in runs:  # as Sweep._look_at_record
            if self.is_damaged(run.folder):
                with suppress(leases.Leased), leases.lease(run.folder, patience=0.0):
                    if self.is_damaged(run.folder):
                        self.remove(run.folder / names.RECORD)
        settings = {"retries": 1, "retries_on_error": 0, "fail_fast": False, "give_up_after": None}
        sweep = policy.Sweep(SimpleNamespace(**settings, finish_within=120.0), runs)  # type: ignore[arg-type]
        bar: Any = SimpleNamespace(n=0, set_postfix=lambda *_, **__: None, update=lambda _: None, refresh=lambda: None)
        bar.write = lambda *_, **__: None
        sweep._drive(_Worker(self), runs, bar)  # type: ignore[arg-type]

    def is_damaged(self, folder: Path) -> bool:
        found = self.read(folder / names.RECORD)
        return found is not None and found[0] == HALF

    def train(self, run: Run) -> Outcome:
        """Do a run as `commands.train.train` does."""
        host = self.current
        try:
            with leases.lease(run.folder, patience=0.0) as lease:
                if self.is_done(run.folder):
                    return Outcome(run, "returned", "")
                redone = self.files.get(str(run.folder / names.RECORD), (b"",))[0] == WHOLE
                self.work.append(Work(run.index, host.number, self.now, redone=redone))
                try:
                    self.sleep(self.durations[run.index])
                finally:
                    for item in self.work:
                        if item.host == host.number:
                            item.end = min(item.end, self.now)
                lease.check()
                self.write_record(run.folder)
        except leases.Leased as error:
            return Outcome(run, "leased", str(error))
        return Outcome(run, "returned", "")

    def keep(self, lease: leases.Lease) -> leases.Lease:
        """Beat for a lease as its thread does."""
        host = self.current

        def beat(count: int) -> None:
            if lease._ended.is_set() or host.dead or host.finished:
                return
            if self.now < host.frozen_until:  # the clock of the wait may have stood still, too
                self.at(host.frozen_until + self.random.uniform(0, leases.HEARTBEAT), lambda: beat(count))
                return
            self.current = host
            if lease.pulse(count):
                self.at(self.now + leases.HEARTBEAT, lambda: beat(count + 1))
            else:
                lease.lost = host.interrupted = True
                self.wake(host, host.ticket)

        self.at(self.now + leases.HEARTBEAT, lambda: beat(1))
        return lease


@dataclass
class _Worker:
    """A pool of one worker, which trains while its launcher waits."""

    simulation: Simulation
    outcomes: list[Outcome] = field(default_factory=list)

    def idle(self) -> list[int]:
        return [] if self.outcomes else [0]

    def running(self) -> list[Run]:
        return [outcome.run for outcome in self.outcomes]

    def submit(self, run: Run) -> None:
        self.outcomes.append(self.simulation.train(run))

    def wait(self, timeout: float) -> list[Outcome]:
        if not self.outcomes:
            self.simulation.sleep(timeout)
        outcomes, self.outcomes = self.outcomes, []
        return outcomes


def simulate(shared: Shared, patch: pytest.MonkeyPatch) -> Findings:
    """Let all machines do the sweep, and count."""
    simulation = Simulation(shared)
    with installed(simulation, patch):
        for _ in range(shared.hosts):
            begin(simulation, shared)
        simulation.run()
        if shared.copying:  # the same command once more, on one machine
            simulation.start(simulation.program)
            simulation.run()
    lost = [
        run
        for run in range(shared.runs)
        if simulation.files.get(f"/runs/study/{run}/{names.RECORD}", (b"",))[0] != WHOLE
    ]
    return findings(simulation.work, lost, simulation.now)


def begin(simulation: Simulation, shared: Shared, before: Host | None = None) -> None:
    """Start a machine, with its fate."""
    host, chance = simulation.start(simulation.program, before), simulation.random
    fate, when = chance.random(), simulation.now + chance.uniform(5, 2 * shared.seconds[1])
    if fate < shared.preempted:
        simulation.at(when, lambda: simulation.kill(host))
        simulation.at(when + 60, lambda: begin(simulation, shared))
    elif fate < shared.preempted + shared.crashed:
        simulation.at(when, lambda: simulation.kill(host))
        simulation.at(when + chance.uniform(1, 300), lambda: begin(simulation, shared, host))
    elif fate < shared.preempted + shared.crashed + shared.frozen:
        simulation.at(when, lambda: simulation.freeze(host, chance.uniform(60, 400)))


@contextmanager
def installed(simulation: Simulation, patch: pytest.MonkeyPatch) -> Iterator[None]:
    """Put the simulation in the place of files, clock and processes."""
    clock = SimpleNamespace(
        monotonic=lambda: simulation.now, time=lambda: simulation.now, sleep=simulation.sleep, strftime=str
    )
    with patch.context() as context:
        context.setattr(leases, "FILES", simulation)
        context.setattr(leases, "time", clock)
        context.setattr(policy, "time", clock)
        context.setattr(policy, "POLL", 30.0)  # seconds between two looks at a run of others: fewer events
        context.setattr(leases, "secrets", SimpleNamespace(token_hex=lambda _: f"t{next(simulation.tokens)}"))
        context.setattr(leases, "_place", lambda: f"host {simulation.current.place}")
        context.setattr(leases, "_birth", lambda _: str(simulation.current.number))
        context.setattr(leases.Lease, "keep", lambda lease: simulation.keep(lease))
        context.setattr(names, "is_done", simulation.is_done)
        yield
