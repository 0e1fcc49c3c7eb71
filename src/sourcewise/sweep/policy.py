"""The policy of a sweep: which run is next, what is tried again, and when the sweep ends.

Whether a run is complete is decided by its record alone, whatever its worker reported. A run that another process holds
(`leases.py`) is looked at again when the others are done.
"""

import signal
import sys
import time
from collections import Counter, deque
from contextlib import AbstractContextManager, suppress
from functools import partial
from typing import Any, Protocol

from tqdm import tqdm

from sourcewise.core import identity, names
from sourcewise.core.errors import RunFailed
from sourcewise.core.files import check_place
from sourcewise.sweep import leases
from sourcewise.sweep.belonging import changed_data, look, other_studies, set_aside
from sourcewise.sweep.kept import kept_lines
from sourcewise.sweep.pool import Outcome
from sourcewise.sweep.runs import INTERRUPTED, Run
from sourcewise.sweep.signals import caught
from sourcewise.sweep.slots import Shape

GOLDEN = 0.618
"""Part of a sweep between two runs that are taken from all over it: their places are spread evenly, however many."""

POLL = 2.0
"""Seconds between two looks at a run that another process is doing."""


class Workers(AbstractContextManager["Workers"], Protocol):
    """What does runs: a pool of processes, or Slurm's job arrays."""

    def idle(self) -> list[int]:
        """Return the slots that can take a run."""

    def running(self) -> list[Run]:
        """Return the runs that have not ended."""

    def submit(self, run: Run) -> None:
        """Start a run in an idle slot."""

    def wait(self, timeout: float) -> list[Outcome]:
        """Return the outcomes since the last call, after waiting for `timeout` seconds at most without any."""

    def wake(self) -> None:
        """Make `wait` return. May be called in a signal handler."""

    def finish(self) -> None:
        """Begin no further run; runs that save checkpoints save one as soon as they can, and stop."""

    def stop(self) -> None:
        """Interrupt all runs."""

    def kill(self) -> None:
        """End all runs at once."""


class Backend(Protocol):
    """What a sweep asks of its launcher. The settings: conf/hydra/launcher/local.yaml."""

    task: str
    retries: int
    retries_on_error: int
    fail_fast: bool
    finish_within: float
    give_up_after: int | None

    def fingerprints(self, config: names.Config) -> identity.Fingerprints | None:
        """Return the fingerprints of a config's datasets; None where the task has no function for them."""

    def model_bytes(self, config: names.Config) -> int | None:
        """Return the bytes of a kept model of a config; None where the task has no function for it."""

    def pool(self, shape: Shape) -> AbstractContextManager[Workers]:
        """Return what does runs of this shape."""


class Sweep:
    """The runs of a sweep, each in a folder of its own, done by a launcher's workers.

    label: what they are for, where they are a part of something larger; its progress shows it.
    """

    def __init__(self, launcher: Backend, runs: list[Run], label: str = "") -> None:
        self.launcher, self.runs, self.label = launcher, runs, label
        self.signals: list[int] = []
        self.watch = leases.Watch()
        self.halted = False
        self.deadline = float("inf")
        """When runs that are still going are interrupted, by this process's clock."""
        self.alike: Counter[str] = Counter()
        """Failures by cause: of the first run that failed, and of those that began after it did."""
        self.succeeded = False
        self.hopeless = ""

    def run(self) -> None:
        """Do all runs that are not done. Raises RunFailed if some failed, SystemExit after a signal."""
        for run in self.runs:
            self._look_at_record(run)
        if changed := [run for run in self.runs if run.state == "changed"]:
            raise changed_data(len(changed), len(self.runs), changed[0].folder, changed[0].cause)
        self._name_other_studies()
        shapes: dict[Shape, list[Run]] = {}
        for run in self.runs:
            if run.state == "missing":
                shapes.setdefault(Shape.from_config(run.config), []).append(run)
        for folder in {run.folder.parent for run in self.runs if run.state == "missing"}:
            check_place(folder)
        if (done := self._count("done")) and not self.label:
            print(f"{done} of {len(self.runs)} runs are done already", file=sys.stderr, flush=True)
        for line in kept_lines([run.config for runs in shapes.values() for run in runs], self.launcher.model_bytes):
            print(line, file=sys.stderr, flush=True)
        for shape, runs in shapes.items():
            if not self.halted:
                with (
                    self.launcher.pool(shape) as pool,
                    caught(pool.wake, signal.SIGINT, signal.SIGTERM, signal.SIGHUP) as self.signals,
                    _progress(len(self.runs), self._count("done"), self.label) as bar,
                ):
                    self._drive(pool, runs, bar)
        self._report()

    def _count(self, state: str) -> int:
        """Return how many runs are in a state."""
        return sum(run.state == state for run in self.runs)

    def _look_at_record(self, run: Run) -> None:
        """Set the state of a run that has a record. One that does not count leaves, held by this process meanwhile."""
        existing = look(run.folder, run.config, self.launcher.fingerprints)
        again = existing.state in ("damaged", "foreign") or (existing.state == "changed" and run.config.get("retrain"))
        if existing.state == "done":
            run.state = "done"
            leases.tidy(run.folder)
        elif again:
            with suppress(leases.Leased), leases.lease(run.folder):
                # Another process may have repaired it meanwhile.
                if look(run.folder, run.config, self.launcher.fingerprints).state == existing.state:
                    set_aside(run.folder, existing)
        elif existing.state != "missing":
            run.state, run.cause = "changed" if existing.state == "changed" else "failed", existing.detail

    def _name_other_studies(self) -> None:
        """Print, for each study that begins, which studies of its recipe have other data."""
        begun = {run.folder.parent for run in self.runs if run.state == "done"}
        for run in self.runs:
            if run.folder.parent not in begun and identity.is_named_by_data(run.config):
                begun.add(run.folder.parent)
                current = self.launcher.fingerprints(run.config)
                if current and (line := other_studies(run.config, current)):
                    print(line, file=sys.stderr, flush=True)

    def _drive(self, pool: Workers, runs: list[Run], bar: "tqdm[Any]") -> None:
        """Keep the workers busy until these runs have ended, or the sweep is halted."""
        todo = deque(runs)
        write = partial(bar.write if sys.stderr.isatty() else print, file=sys.stderr)
        while True:
            while not self.halted and pool.idle() and (free := self._next(todo)) is not None:
                free.state, free.is_probe = "running", bool(self.alike)
                pool.submit(free)
            bar.set_postfix({s: n for s in ("failed", "leased") if (n := self._count(s))}, refresh=False)
            bar.update(self._count("done") - bar.n)
            if not pool.running() and (self.halted or not todo):
                bar.refresh()
                return
            for outcome in pool.wait(min(POLL, max(0.0, self.deadline - time.monotonic()))):
                run = outcome.run
                self._judge(run, outcome)
                if run.state in ("missing", "leased"):
                    todo.append(run)
                elif run.state == "failed":
                    write(f"failed: {run.name}: {run.cause} (see {run.log})")
                    if not self.halted and (self.launcher.fail_fast or self._all_fail(run, todo)):
                        self.halted = True
                        pool.stop()
            if self.signals and not self.halted:
                self.halted = True
                self.deadline = time.monotonic() + self.launcher.finish_within
                write(self._farewell(len(pool.running())))
                pool.finish()
            if time.monotonic() >= self.deadline:
                self.deadline = float("inf")
                pool.stop()
            if len(self.signals) > 1:
                pool.kill()
                return

    def _farewell(self, running: int) -> str:
        """Return what the first signal changes."""
        seconds = self.launcher.finish_within
        until = time.strftime("%H:%M:%S", time.localtime(time.time() + seconds))
        return (
            f"{signal.Signals(self.signals[0]).name}: no further run begins, and the {running} running ones have until"
            f" {until} to end ({seconds:g} s, hydra.launcher.finish_within); once more to stop at once"
        )

    def _all_fail(self, run: Run, todo: deque[Run]) -> bool:
        """Return whether a failed run is one of a few that failed alike, none has succeeded, and others are left."""
        cause = run.cause.replace(str(run.folder), "its folder")
        if run.is_probe or not self.alike:
            self.alike[cause] += 1
        few = self.launcher.give_up_after
        if todo and few is not None and self.alike[cause] >= few and not self.succeeded:
            self.hopeless = cause
        return bool(self.hopeless)

    def _next(self, todo: deque[Run]) -> Run | None:
        """Return the next run that no process holds. One that is held comes last, and is looked at again.

        After a failure, runs are taken from all over the sweep until one succeeds: one value of a setting may be wrong,
        and all others right.
        """
        if self.alike and not self.succeeded:
            todo.rotate(-round(GOLDEN * len(todo)))
        for _ in range(len(todo)):
            run = todo.popleft()
            if time.monotonic() < run.next_look:
                todo.append(run)
            elif names.is_done(run.folder):  # another process was faster
                run.state = "done"
            elif (holder := self.watch.holder(run.folder)) is None:
                return run
            else:
                run.state, run.cause, run.next_look = "leased", str(holder), time.monotonic() + POLL
                todo.append(run)
        return None

    def _judge(self, run: Run, outcome: Outcome) -> None:
        """Set a run's state after an attempt: done, failed, leased, missing (to be done again) or stopped."""
        launcher = self.launcher
        if names.is_done(run.folder):
            run.state, run.value, self.succeeded = "done", outcome.value, True
            leases.tidy(run.folder)
            return
        run.state, run.cause = "failed", outcome.cause or "it ended without a record"
        if outcome.status == "stopped":
            run.cause = INTERRUPTED
        if outcome.status in ("leased", "stopped"):
            run.state = outcome.status
            run.next_look = time.monotonic() + POLL
        elif outcome.status != "timeout":
            retries = launcher.retries if outcome.status == "killed" else launcher.retries_on_error
            run.failures[outcome.status] += 1
            run.state = "missing" if run.failures[outcome.status] <= retries else "failed"
        if run.state == "failed":
            leases.clear(run.folder)
        if outcome.status in ("killed", "timeout", "stopped"):  # the run could not write this itself
            with suppress(OSError), run.log.open("a") as log:
                log.write(f"{run.cause}\n")

    def _report(self) -> None:
        """List the failed runs. Raises RunFailed if any run is not done, SystemExit after a signal."""
        failed = [run for run in self.runs if run.state == "failed"]
        left = [run for run in self.runs if run.state not in ("done", "failed")]
        for run in left:
            if run.folder.is_dir():  # its process may have ended with its lease held
                leases.clear(run.folder)
        for run in [] if self.hopeless else failed:
            print(f"\nfailed: {run.name}\n  cause: {run.cause}\n  log:   {run.log}", file=sys.stderr)
        if left or failed:
            done = len(self.runs) - len(failed) - len(left)
            text = f"{done} of {len(self.runs)} runs are done, {len(failed)} failed, {len(left)} are left"
            if self.hopeless:
                text += f"; no other is tried, since those that were tried failed alike: {self.hopeless}"
                text += " (hydra.launcher.give_up_after=null tries all)"
            elif left:
                text += "; the same command goes on where this one stopped"
            if self.signals:
                print(text, file=sys.stderr, flush=True)
                raise SystemExit(128 + self.signals[0])
            raise RunFailed(text)


def _progress(total: int, done: int, label: str = "") -> "tqdm[Any]":
    """Return a progress bar on a terminal, and otherwise one that prints a line every ten seconds."""
    tqdm.monitor_interval = 0  # no thread: this process forks workers
    terminal = sys.stderr.isatty()
    return tqdm(
        total=total,
        initial=done,
        desc=label or None,
        unit=" runs",
        miniters=1,
        dynamic_ncols=True,
        mininterval=0.1 if terminal else 10.0,
        leave=terminal,
        bar_format="{l_bar}{bar}{r_bar}" if terminal else "{desc}{n_fmt}/{total_fmt} runs, {remaining} left{postfix}\n",
    )
