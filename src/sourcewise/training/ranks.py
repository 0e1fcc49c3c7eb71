"""The other processes of a run on several devices, which Lightning starts and the first process watches."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.strategies.launchers.subprocess_script import _SubprocessScriptLauncher

from sourcewise.core.errors import RunFailed, SourcewiseError

DYING = 5.0
"""Seconds in which a process that made an exchange between processes fail has ended."""

PATIENCE = 90.0
"""Seconds that the first process has to end well after another one is lost: it may wait for that one for ever."""


@dataclass(frozen=True)
class Ranks:
    """The processes of a run besides the first, by rank from 1 on; none where Lightning does not start them.

    Lightning alone would kill the first process when another one ends, without a word and with its lease held.
    """

    processes: list[subprocess.Popen[Any]] = field(default_factory=list)
    clean_ups: list[Callable[[], None]] = field(default_factory=list)
    """What this process does before it ends without ending well."""

    def adopt(self, trainer: pl.Trainer) -> None:
        """Give the trainer a launcher of ours, if it has the one of Lightning's that starts processes."""
        launcher, strategy = trainer.strategy.launcher, trainer.strategy
        if isinstance(launcher, _SubprocessScriptLauncher):
            settings = launcher.cluster_environment, launcher.num_processes, launcher.num_nodes
            strategy._launcher = _WatchedLauncher(self, *settings)

    @contextmanager
    def watched(self, clean_up: Callable[[], None] | None = None) -> Iterator[None]:
        """Raise RunFailed in place of an error that follows from the loss of another process.

        clean_up: called, in another thread, where this process waits for ever for the lost one and has to be ended.
        """
        self.clean_ups[:] = [clean_up] if clean_up else []
        try:
            yield
        except SourcewiseError:
            raise
        except Exception as error:
            limit = time.monotonic() + DYING * bool(self.processes)
            while not (loss := self.loss()) and time.monotonic() < limit:
                time.sleep(0.1)
            for process in self.processes:
                process.kill()
            if loss:
                raise RunFailed(loss) from error
            raise

    def loss(self) -> str:
        """Return how one of the processes was lost; "" as long as none is."""
        for rank, process in enumerate(self.processes, start=1):
            if code := process.poll():
                name = signal.Signals(-code).name if code < 0 else ""
                hint = " (out of memory?)" * (name == "SIGKILL")
                end = f"was killed by {name}{hint}" if name else f"ended with status {code}; its error is above"
                return f"process {rank} of those on {len(self.processes) + 1} devices {end}"
        return ""

    def watch(self) -> None:
        """End this process, with a line, if it has not ended some time after another one was lost."""
        while not (loss := self.loss()):
            time.sleep(1.0)
        time.sleep(PATIENCE)
        for clean_up in self.clean_ups:
            with suppress(Exception):
                clean_up()
        with suppress(OSError):
            print(loss, file=sys.stderr, flush=True)
        os._exit(1)


class _WatchedLauncher(_SubprocessScriptLauncher):
    """Lightning's launcher, whose processes a `Ranks` watches."""

    def __init__(self, ranks: Ranks, *settings: Any) -> None:
        super().__init__(*settings)
        self.ranks = ranks

    def _call_children_scripts(self) -> None:
        super()._call_children_scripts()
        self.ranks.processes[:], self.procs = self.procs, []  # Lightning has none left to watch
        threading.Thread(target=self.ranks.watch, daemon=True, name="ranks").start()

    def kill(self, signum: Any) -> None:
        """Send a signal to the processes."""
        for process in self.ranks.processes:
            process.send_signal(signum)
