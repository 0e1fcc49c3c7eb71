"""Worker processes that live across runs, are forked from a process that has paid for the imports, and may die.

The launching process imports the heavy libraries once, without using them, and forks a worker per slot within
milliseconds. Every worker leads a process group of its own, so that what a run started dies with it, and ends at once
when the launching process does, however that happens: its end of a socket closes. Messages are JSON, never pickles.

    worker  <- {"config", "log"} for each run, then null    -> [status, cause, value] for each run
"""

import atexit
import contextlib
import ctypes
import faulthandler
import gc
import importlib
import importlib.util
import json
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from multiprocessing import Pipe, connection
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any, Literal

from sourcewise.core.errors import EXIT_LEASED, WORKER, SourcewiseError
from sourcewise.sweep import leases as claims

Function = Callable[[Mapping[str, Any]], Any]
Status = Literal["returned", "raised", "killed", "timeout", "claimed", "stopped"]
Ending = tuple[Status, str, Any]
"""How a run ended, the cause in words, and the function's value."""

Channel = connection.Connection

STOPS = (signal.SIGINT, signal.SIGTERM)


@dataclass(frozen=True)
class Job:
    """One run for a worker: the function's argument and the file that takes its output."""

    id: int
    config: Mapping[str, Any]
    log: Path


@dataclass(frozen=True)
class Outcome:
    """How a job ended: `returned` with a value, or not, with a cause in words."""

    job: Job
    status: Status
    cause: str = ""
    value: Any = None


@dataclass(eq=False)
class _Worker:
    slot: int
    pid: int
    channel: Channel
    job: Job | None = None
    runs: int = 0
    deadline: float = float("inf")
    stopping: Status | None = None
    leaving: bool = False

    def tell(self, message: Mapping[str, Any] | None) -> None:
        """Send a message."""
        with contextlib.suppress(OSError):  # a worker that just died is noticed when its channel is read
            self.channel.send_bytes(json.dumps(message).encode())

    def kill(self) -> None:
        """End the process and what it has started."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)


class Pool:
    """One worker per slot; a slot is the environment that its worker gets, such as CUDA_VISIBLE_DEVICES.

    Imports `preload` and the function's module at once. Raises SourcewiseError when the function cannot be imported.
    """

    def __init__(
        self,
        function: str,
        slots: Sequence[Mapping[str, str]],
        *,
        preload: Sequence[str] = (),
        recycle_after: int = 200,
        timeout: float | None = None,
        grace: float = 20.0,
    ) -> None:
        self.slots = slots
        self.recycle_after, self.timeout, self.grace = recycle_after, timeout, grace
        os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")  # a process that has used CUDA cannot be forked
        for name in preload:
            with contextlib.suppress(ModuleNotFoundError):  # only saves time: a run that needs it will say so
                importlib.import_module(name)
        self._function = load(function)
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
            self._dismiss(worker) if worker.job is None else worker.kill()
        while self._workers and time.monotonic() < limit:
            self._listen(limit)
        self.kill()
        while self._workers:
            self._listen()
        self._wake_r.close()
        self._wake_w.close()
        gc.unfreeze()

    def idle(self) -> list[int]:
        """Slots without a run."""
        busy = {worker.slot for worker in self._workers if worker.job is not None}
        return [slot for slot in range(len(self.slots)) if slot not in busy]

    def running(self) -> list[Job]:
        """Jobs that workers are busy with."""
        return [worker.job for worker in self._workers if worker.job is not None]

    def submit(self, job: Job) -> None:
        """Start a job in an idle slot."""
        slot = self.idle()[0]
        worker = next((w for w in self._workers if w.slot == slot and not w.leaving), None) or self._fork(slot)
        worker.job = job
        if self.timeout is not None:
            worker.deadline = time.monotonic() + self.timeout
        worker.tell({"config": job.config, "log": str(job.log.absolute())})

    def wait(self, timeout: float | None = None) -> list[Outcome]:
        """Outcomes since the last call; waits for the first of them, for `wake`, or for the timeout."""
        limit = float("inf") if timeout is None else time.monotonic() + timeout
        while not self._outcomes:
            now = time.monotonic()
            for worker in self._workers:
                if now >= worker.deadline:
                    if worker.job is not None and worker.stopping is None:
                        self._interrupt(worker, "timeout")
                    else:
                        worker.kill()
                        worker.deadline = float("inf")
            if self._listen(min([limit, *(worker.deadline for worker in self._workers)])) or time.monotonic() >= limit:
                break
        outcomes, self._outcomes = self._outcomes, []
        return outcomes

    def wake(self) -> None:
        """Make `wait` return: safe in a signal handler."""
        with contextlib.suppress(OSError):
            self._wake_w.send(b"!")

    def stop(self) -> None:
        """Interrupt every run, as Ctrl-C would; what has not ended after `grace` seconds is killed."""
        for worker in self._workers:
            if worker.job is not None and worker.stopping is None:
                self._interrupt(worker, "stopped")

    def kill(self) -> None:
        """End all workers at once."""
        for worker in self._workers:
            worker.stopping = worker.stopping or "stopped"
            worker.kill()

    def _fork(self, slot: int) -> _Worker:
        ours, theirs = Pipe()
        _flush()
        signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)  # a worker unblocks them within its runs
        pid = os.fork()
        if pid == 0:
            others = [ours, self._wake_r, self._wake_w, *(worker.channel for worker in self._workers)]
            _worker(theirs, others, self._function, self.slots[slot])
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)
        with contextlib.suppress(OSError):
            os.setpgid(pid, pid)  # here as well as in the child: it holds before anyone uses the pid
        theirs.close()
        self._workers.append(_Worker(slot, pid, ours))
        return self._workers[-1]

    def _listen(self, limit: float = float("inf")) -> bool:
        """Take in what workers say, until the time `limit` at most. Whether `wake` was called."""
        workers = {worker.channel: worker for worker in self._workers}
        left = None if limit == float("inf") else max(0.0, limit - time.monotonic())
        ready = connection.wait([self._wake_r, *workers], left)
        for channel, worker in workers.items():
            if channel in ready:
                self._heard(worker)
        return self._wake_r in ready and bool(self._wake_r.recv(4096))

    def _heard(self, worker: _Worker) -> None:
        try:
            status, cause, value = json.loads(worker.channel.recv_bytes())
        except (EOFError, OSError):
            self._gone(worker)
            return
        if status != "returned" and worker.stopping is not None:
            status = worker.stopping
        worker.runs += 1
        self._finish(worker, status, cause, value)
        # After an exception the process may be in any state (a broken CUDA context, say); a new one is cheap.
        if worker.stopping or status not in ("returned", "claimed") or worker.runs >= self.recycle_after:
            self._dismiss(worker)

    def _gone(self, worker: _Worker) -> None:
        """The worker's process has ended, or is about to."""
        self._workers.remove(worker)
        worker.channel.close()
        worker.kill()  # what it has started; its number cannot be someone else's before it is waited for
        code = os.waitstatus_to_exitcode(os.waitpid(worker.pid, 0)[1])
        cause = f"the worker process exited with status {code}"
        if code < 0:
            cause = f"killed by {signal.Signals(-code).name}{' (out of memory?)' * (-code == signal.SIGKILL)}"
        self._finish(worker, worker.stopping or "killed", cause)

    def _finish(self, worker: _Worker, status: Status, cause: str, value: Any = None) -> None:
        job, worker.job, worker.deadline = worker.job, None, float("inf")
        if job is not None:
            cause = f"hung: stopped after {self.timeout:g} s" if status == "timeout" else cause
            self._outcomes.append(Outcome(job, status, cause, value))

    def _dismiss(self, worker: _Worker) -> None:
        worker.leaving, worker.deadline = True, time.monotonic() + self.grace
        worker.tell(None)

    def _interrupt(self, worker: _Worker, why: Status) -> None:
        worker.stopping, worker.deadline = why, time.monotonic() + self.grace
        os.kill(worker.pid, signal.SIGINT)


@contextlib.contextmanager
def noted(wake: Callable[[], None], *numbers: signal.Signals) -> Iterator[list[int]]:
    """Puts signals that come into a list, and wakes who waits; those that are ignored, as under nohup, remain so."""
    caught: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        caught.append(number)
        wake()

    before = {n: signal.signal(n, note) for n in numbers if signal.getsignal(n) is not signal.SIG_IGN}
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def load(task: str) -> Function:
    """Import the function that `package.module:name` or `path/to/file.py:name` means.

    Raises SourcewiseError when it cannot be imported.
    """
    place, _, name = task.rpartition(":")
    try:
        module = _from_file(Path(place)) if place.endswith(".py") else importlib.import_module(place)
        function: Function = getattr(module, name)
    except Exception as error:
        raise SourcewiseError(f"worker processes cannot start: {type(error).__name__}: {error}") from error
    return function


def settings_of(task: str) -> type | None:
    """Return the class `Settings` in the task's module, which says what a run's config holds at its top, if any."""
    return getattr(sys.modules[load(task).__module__], "Settings", None)


@cache
def _from_file(path: Path) -> ModuleType:
    """Import a file under its name without the ending."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# In a worker


def _worker(channel: Channel, others: Sequence[Any], function: Function, environment: Mapping[str, str]) -> None:
    """Do runs until told to exit. Never returns."""
    status = 1
    try:
        with contextlib.suppress(OSError):
            os.setpgid(0, 0)
        for item in others:
            item.close()
        atexit._clear()
        for number in STOPS:
            signal.signal(number, _interrupt)
        for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):  # Slurm tells all processes of a task
            signal.signal(number, signal.SIG_IGN)
        os.register_at_fork(after_in_child=channel.close)  # only the worker itself keeps it open
        with Path(os.devnull).open() as null:
            os.dup2(null.fileno(), 0)
        sys.stdout, sys.stderr = (open(fd, "w", buffering=1, closefd=False) for fd in (1, 2))  # noqa: SIM115
        faulthandler.disable()  # enabled before, it would not take its signals back from whoever has them now
        faulthandler.enable()
        with contextlib.suppress(OSError):  # if memory runs out, this process is to go, and not the launching one
            Path("/proc/self/oom_score_adj").write_text("500")
        os.environ[WORKER] = "1"
        os.environ.update(environment)
        inbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
        threading.Thread(target=_lifeline, args=(channel, inbox), daemon=True, name="lifeline").start()
        while message := inbox.get():
            ending = perform(function, **message)
            channel.send_bytes(json.dumps(ending, default=str).encode())
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        _flush()
        os._exit(status)


def _interrupt(number: int, frame: FrameType | None) -> None:
    """End a run. What it then does to end well is not interrupted once more."""
    signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
    raise KeyboardInterrupt


def _lifeline(channel: Channel, inbox: "queue.SimpleQueue[Any]") -> None:
    """Pass messages on; when the launching process is gone, so is this one, with all that it started."""
    with contextlib.suppress(OSError, EOFError):
        while True:
            inbox.put(json.loads(channel.recv_bytes()))
    os.killpg(0, signal.SIGKILL)


def perform(function: Function, config: Mapping[str, Any], log: str) -> Ending:
    """One run, its output in its log. Signals that ask it to stop interrupt it, at its start if they came before."""
    try:
        _redirect(Path(log))
    except OSError as error:
        return "raised", f"{type(error).__name__}: {error}", None
    try:
        try:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)
            value = function(config)
        finally:
            signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
        return "returned", "", value
    except claims.Claimed as error:
        return "claimed", str(error), None
    except BaseException as error:
        with contextlib.suppress(OSError):  # a full disk
            traceback.print_exc()
        from sourcewise.commands.cli import (
            users_error,  # Hydra is slow to import, and runs that go well need none of it
        )

        told = users_error(error) or error
        first, *_ = [*str(told).strip().splitlines(), ""]
        cause = ": ".join(filter(None, ("" if isinstance(told, SourcewiseError) else type(told).__name__, first)))
        with contextlib.suppress(OSError):
            print(cause, file=sys.stderr)  # a log ends with its cause
        return "raised", cause, None
    finally:
        _flush()


def _redirect(log: Path) -> None:
    """Send this process's output, Python's and C's, to the end of a file."""
    log.parent.mkdir(parents=True, exist_ok=True)
    _flush()
    target = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
    os.dup2(target, 1)
    os.dup2(target, 2)
    os.close(target)


def last_line(log: Path) -> str:
    """The last thing that a run said; "" if there is none."""
    try:
        lines = log.read_text(errors="replace").strip().splitlines()
    except OSError:
        return ""
    return lines[-1].strip() if lines else ""


def _flush() -> None:
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
        sys.stderr.flush()
        ctypes.CDLL(None).fflush(None)


def command(config: Mapping[str, Any]) -> None:
    """Run `config["argv"]` within the worker's process group: for runs on several devices, which start processes."""
    process = subprocess.Popen(config["argv"])
    try:
        code = process.wait()
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        os.killpg(0, signal.SIGINT)
        process.wait()
        raise
    if code == EXIT_LEASED:
        raise claims.Claimed("claimed by another process")
    if code < 0:  # its end is this worker's, too
        with contextlib.suppress(OSError):
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    if code:
        raise ChildProcessError(f"exit status {code}: {last_line(Path(config['log']))}")


if __name__ == "__main__":  # one run: its function and its config
    from sourcewise.commands import cli

    sys.argv[0] = sys.argv[1].rpartition(":")[0]  # errors name the script
    with cli.errors():
        load(sys.argv[1])(json.loads(sys.argv[2]))
