"""Worker processes that live across runs: forked after the imports; one may die alone.

The launching process imports the heavy libraries once, without using them, and forks a worker per slot within
milliseconds. Every worker leads a process group of its own, so that what a run started dies with it, and ends at once
when the launching process does, however that happens: its end of a socket closes. Messages are JSON, never pickles.

    worker  <- {"config", "overrides", "log"} for each run, then null    -> [status, cause, value] for each run
"""

import contextlib
import gc
import importlib
import json
import os
import signal
import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from multiprocessing import Pipe, connection
from typing import Any

from sourcewise.core.exits import SAVE_AND_STOP
from sourcewise.sweep.runs import Run
from sourcewise.sweep.tasks import Function
from sourcewise.sweep.worker import STOPS, Channel, Status, flush, serve


@dataclass(frozen=True)
class Outcome:
    """The end of a run: its status, the cause in words if it is not `returned`, and the function's value if it is."""

    run: Run
    status: Status
    cause: str = ""
    value: Any = None


@dataclass(eq=False)
class _Worker:
    """A worker process, as the launching process sees it."""

    slot: int
    pid: int
    channel: Channel
    run: Run | None = None
    done: int = 0
    deadline: float = float("inf")
    stopping: Status | None = None
    leaving: bool = False

    def send(self, message: Mapping[str, Any] | None) -> None:
        """Send a message: a run, or None as the last one."""
        with contextlib.suppress(OSError):  # a worker that just died is noticed when its channel is read
            self.channel.send_bytes(json.dumps(message).encode())

    def kill(self) -> None:
        """End the process and what it has started, at once; `_reap` then notes how its run ended."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)


class Pool:
    """A worker process per slot.

    Args:
        function: what a run is.
        slots: for each slot the environment of its worker, such as CUDA_VISIBLE_DEVICES.
        preload: modules that are imported before workers are forked.
        recycle_after: runs that a worker does before a new one takes its place.
        timeout: seconds after which a run counts as hung and is interrupted.
        grace: seconds that an interrupted run has before it is killed.
    """

    def __init__(
        self,
        function: Function,
        slots: Sequence[Mapping[str, str]],
        *,
        preload: Sequence[str] = (),
        recycle_after: int = 200,
        timeout: float | None = None,
        grace: float = 20.0,
    ) -> None:
        self._function, self.slots = function, slots
        self.recycle_after, self.timeout, self.grace = recycle_after, timeout, grace
        os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")  # a process that has used CUDA cannot be forked
        for name in preload:
            with contextlib.suppress(ModuleNotFoundError):  # only saves time: a run that needs it raises
                importlib.import_module(name)
        gc.collect()
        gc.freeze()  # pages that hold only frozen objects stay shared with the workers
        self._wake_r, self._wake_w = socket.socketpair()
        self._wake_w.setblocking(False)
        self._workers: list[_Worker] = []
        self._outcomes: list[Outcome] = []

    def __enter__(self) -> "Pool":
        return self

    def __exit__(self, *exc: object) -> None:
        """End all workers: idle ones by request, busy ones and laggards by SIGKILL."""
        limit = time.monotonic() + 5
        for worker in self._workers:
            self._dismiss(worker) if worker.run is None else worker.kill()
        while self._workers and time.monotonic() < limit:
            self._listen(limit)
        self.kill()
        while self._workers:
            self._listen()
        self._wake_r.close()
        self._wake_w.close()
        gc.unfreeze()

    def idle(self) -> list[int]:
        """Return the slots without a run."""
        busy = {worker.slot for worker in self._workers if worker.run is not None}
        return [slot for slot in range(len(self.slots)) if slot not in busy]

    def running(self) -> list[Run]:
        """Return the runs that workers are busy with."""
        return [worker.run for worker in self._workers if worker.run is not None]

    def submit(self, run: Run) -> None:
        """Start a run in an idle slot."""
        slot = self.idle()[0]
        worker = next((w for w in self._workers if w.slot == slot and not w.leaving), None) or self._fork(slot)
        worker.run = run
        if self.timeout is not None:
            worker.deadline = time.monotonic() + self.timeout
        worker.send({"config": run.config, "overrides": list(run.overrides), "log": str(run.log.absolute())})

    def wait(self, timeout: float | None = None) -> list[Outcome]:
        """Return outcomes since the last call; wait for the first of them, for `wake`, or for `timeout` seconds."""
        limit = float("inf") if timeout is None else time.monotonic() + timeout
        while not self._outcomes:
            now = time.monotonic()
            for worker in self._workers:
                if now >= worker.deadline:
                    if worker.run is not None and worker.stopping is None:
                        self._interrupt(worker, "timeout")
                    else:
                        worker.kill()
                        worker.deadline = float("inf")
            if self._listen(min([limit, *(worker.deadline for worker in self._workers)])) or time.monotonic() >= limit:
                break
        outcomes, self._outcomes = self._outcomes, []
        return outcomes

    def wake(self) -> None:
        """Make `wait` return. May be called in a signal handler."""
        with contextlib.suppress(OSError):
            self._wake_w.send(b"!")

    def finish(self) -> None:
        """Ask every run that saves checkpoints to save one after the epoch, and to stop."""
        for worker in self._workers:
            if worker.run is not None:
                os.kill(worker.pid, SAVE_AND_STOP)

    def stop(self) -> None:
        """Interrupt every run, as Ctrl-C would; what has not ended after `grace` seconds is killed."""
        for worker in self._workers:
            if worker.run is not None and worker.stopping is None:
                self._interrupt(worker, "stopped")

    def kill(self) -> None:
        """End all workers at once."""
        for worker in self._workers:
            worker.stopping = worker.stopping or "stopped"
            worker.kill()

    def _fork(self, slot: int) -> _Worker:
        """Start a worker for a slot."""
        ours, theirs = Pipe()
        flush()
        signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)  # a worker unblocks them within its runs
        pid = os.fork()
        if pid == 0:
            inherited = [ours, self._wake_r, self._wake_w, *(worker.channel for worker in self._workers)]
            serve(theirs, inherited, self._function, self.slots[slot])
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)
        with contextlib.suppress(OSError):
            os.setpgid(pid, pid)  # here as well as in the child: it holds before anyone uses the pid
        theirs.close()
        self._workers.append(_Worker(slot, pid, ours))
        return self._workers[-1]

    def _listen(self, limit: float = float("inf")) -> bool:
        """Receive what workers send, until the time `limit` at most. Return whether `wake` was called."""
        workers = {worker.channel: worker for worker in self._workers}
        left = None if limit == float("inf") else max(0.0, limit - time.monotonic())
        ready = connection.wait([self._wake_r, *workers], left)
        for channel, worker in workers.items():
            if channel in ready:
                self._receive(worker)
        return self._wake_r in ready and bool(self._wake_r.recv(4096))

    def _receive(self, worker: _Worker) -> None:
        """Read a worker's message, note the outcome, and dismiss the worker after an exception or its last run."""
        try:
            status, cause, value = json.loads(worker.channel.recv_bytes())
        except (EOFError, OSError):
            self._reap(worker)
            return
        if status != "returned" and worker.stopping is not None:
            status = worker.stopping
        worker.done += 1
        self._note(worker, status, cause, value)
        # After an exception the process may be in any state (a broken CUDA context, say); a new one is cheap.
        if worker.stopping or status not in ("returned", "leased") or worker.done >= self.recycle_after:
            self._dismiss(worker)

    def _reap(self, worker: _Worker) -> None:
        """Wait for a process that has ended, or is about to, note how its run ended, and forget the worker."""
        self._workers.remove(worker)
        worker.channel.close()
        worker.kill()  # what it has started; its number cannot be someone else's before it is waited for
        code = os.waitstatus_to_exitcode(os.waitpid(worker.pid, 0)[1])
        cause = f"the worker process exited with status {code}"
        if code < 0:
            cause = f"killed by {signal.Signals(-code).name}{' (out of memory?)' * (-code == signal.SIGKILL)}"
        self._note(worker, worker.stopping or "killed", cause)

    def _note(self, worker: _Worker, status: Status, cause: str, value: Any = None) -> None:
        """Note the outcome of the worker's run, after which it is idle."""
        run, worker.run, worker.deadline = worker.run, None, float("inf")
        if run is not None:
            cause = f"hung: stopped after {self.timeout:g} s" if status == "timeout" else cause
            self._outcomes.append(Outcome(run, status, cause, value))

    def _dismiss(self, worker: _Worker) -> None:
        """Ask an idle worker to exit, and kill it after `grace` seconds; a new one takes its slot."""
        worker.leaving, worker.deadline = True, time.monotonic() + self.grace
        worker.send(None)

    def _interrupt(self, worker: _Worker, reason: Status) -> None:
        """Interrupt a worker's run, which is killed after `grace` seconds."""
        worker.stopping, worker.deadline = reason, time.monotonic() + self.grace
        os.kill(worker.pid, signal.SIGINT)
