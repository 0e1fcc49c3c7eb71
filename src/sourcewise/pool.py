"""Worker processes that live across runs, are forked from one process that has paid for the imports, and may die.

The launching process stays light and single-threaded. It starts one *zygote*, which imports the heavy libraries once
and then forks a worker whenever it is asked to, within milliseconds. Every worker leads a process group of its own, so
that what a run started dies with it, and every process ends at once when the launching process does, however that
happens: its end of a socket closes. Messages are lines of JSON; nothing is pickled.

    zygote  <- worker's number and socket    -> (READY|FORKED|EXITED, number, pid or exit code)
    worker  <- {"env"}, then {"job", "config", "log"} for each run, then {"exit"}    -> {"started"}, {"ended", ...}
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
import selectors
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import IO, Any, Literal

from sourcewise import claims
from sourcewise.errors import SourcewiseError

Function = Callable[[dict[str, Any]], Any]
Status = Literal["returned", "raised", "killed", "timeout", "claimed", "stopped"]

STARTUP = 300.0
"""Seconds that a worker may take from its fork to its first run; beyond, it counts as hung (if there is a timeout)."""

_READY, _FORKED, _EXITED = range(3)
_REQUEST, _REPORT = struct.Struct("=i"), struct.Struct("=iii")


class SweepFailed(SourcewiseError):  # noqa: N818
    """Some runs of a sweep failed; they have been listed already. The command exits with status 1."""

    status = 1


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


@dataclass
class _Worker:
    number: int
    slot: int
    socket: socket.socket
    pid: int = 0
    job: Job | None = None
    begun: float = 0.0
    started: bool = False
    deadline: float = float("inf")
    runs: int = 0
    stopping: Status | None = None
    leaving: bool = False
    doomed: bool = False
    closed: bool = False
    orphan: bool = False
    buffer: bytearray = field(default_factory=bytearray)


class Pool:
    """One worker per slot; a slot is the environment that its worker gets, such as CUDA_VISIBLE_DEVICES."""

    def __init__(
        self,
        function: str,
        slots: Sequence[Mapping[str, str]],
        *,
        preload: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
        recycle_after: int = 200,
        timeout: float | None = None,
        grace: float = 20.0,
    ) -> None:
        self.slots = slots
        self.recycle_after, self.timeout, self.grace = recycle_after, timeout, grace
        self._setup = json.dumps({"function": function, "preload": list(preload), "path": sys.path})
        self._env = {**os.environ, "PYTORCH_NVML_BASED_CUDA_CHECK": "1", **(env or {})}
        self._selector = selectors.DefaultSelector()
        self._wake_r, self._wake_w = os.pipe()
        os.set_blocking(self._wake_r, False)
        os.set_blocking(self._wake_w, False)
        self._selector.register(self._wake_r, selectors.EVENT_READ, self._woken)
        self._zygote: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._stderr: IO[bytes] | None = None
        self._reports = bytearray()
        self._ready = False
        self._workers: dict[int, _Worker] = {}
        self._in_slot: dict[int, _Worker] = {}
        self._count = 0
        self._outcomes: list[Outcome] = []

    def __enter__(self) -> "Pool":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    # What the launcher does with it

    def idle(self) -> list[int]:
        """Slots without a run."""
        busy = {w.slot for w in self._in_slot.values() if w.job is not None}
        return [slot for slot in range(len(self.slots)) if slot not in busy]

    def running(self) -> list[Job]:
        """Jobs that workers are busy with."""
        return [w.job for w in self._workers.values() if w.job is not None]

    def pids(self) -> dict[int, int]:
        """Process id of the worker in each slot that has one."""
        return {slot: w.pid for slot, w in self._in_slot.items() if w.pid}

    def submit(self, job: Job) -> None:
        """Start a job in an idle slot."""
        slot = self.idle()[0]
        worker = self._in_slot.get(slot) or self._spawn(slot)
        worker.job, worker.begun, worker.started = job, time.monotonic(), False
        if self.timeout is not None:
            worker.deadline = worker.begun + STARTUP + self.timeout
        self._tell(worker, {"job": job.id, "config": job.config, "log": str(job.log.absolute())})

    def wait(self, timeout: float | None = None) -> list[Outcome]:
        """Outcomes since the last call; waits for the first of them, for `wake`, or for the timeout."""
        limit = float("inf") if timeout is None else time.monotonic() + timeout
        while not self._outcomes:
            now = time.monotonic()
            self._enforce(now)
            deadline = min([limit, *(w.deadline for w in self._workers.values())])
            events = self._selector.select(None if deadline == float("inf") else max(0.0, deadline - now))
            woken = any(key.fd == self._wake_r for key, _ in events)
            for key, _ in events:
                key.data()
            if woken or time.monotonic() >= limit:
                break
        outcomes, self._outcomes = self._outcomes, []
        return outcomes

    def wake(self) -> None:
        """Make `wait` return: safe in a signal handler."""
        with contextlib.suppress(OSError):
            os.write(self._wake_w, b"!")

    def stop(self) -> None:
        """Interrupt every run, as Ctrl-C would; what has not ended after `grace` seconds is killed."""
        for worker in list(self._workers.values()):
            if worker.job is None or worker.stopping is not None:
                continue
            if worker.started:
                self._interrupt(worker, "stopped")
            else:
                worker.stopping = "stopped"
                self._kill(worker)

    def kill(self) -> None:
        """End all workers and the zygote at once."""
        for worker in list(self._workers.values()):
            worker.stopping = worker.stopping or "stopped"
            self._kill(worker)
        if self._zygote is not None:
            self._zygote.kill()

    def close(self) -> None:
        """End all processes: idle workers by request, busy ones and laggards by SIGKILL."""
        if self._zygote is not None and not self._ready:
            self._zygote.kill()  # it is importing, and has no workers yet
        for worker in list(self._workers.values()):
            if worker.job is None:
                self._dismiss(worker)
            else:
                self._kill(worker)
        limit = time.monotonic() + 5
        while self._workers and self._ready and time.monotonic() < limit:
            for key, _ in self._selector.select(max(0.0, limit - time.monotonic())):
                key.data()
        for worker in list(self._workers.values()):
            self._kill(worker)
        self._drop_zygote()
        for worker in list(self._workers.values()):
            self._gone(worker, None)
        self._selector.close()
        os.close(self._wake_r)
        os.close(self._wake_w)

    def _woken(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._wake_r, 4096)

    # The zygote

    def _start_zygote(self) -> socket.socket:
        ours, theirs = socket.socketpair()
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115
        with theirs:
            self._zygote = subprocess.Popen(
                [sys.executable, "-m", "sourcewise.pool", str(theirs.fileno()), self._setup],
                pass_fds=[theirs.fileno()],
                env=self._env,
                stdin=subprocess.DEVNULL,
                stdout=self._stderr,
                stderr=self._stderr,
                start_new_session=True,
            )
        self._control, self._ready = ours, False
        self._reports.clear()
        self._selector.register(ours, selectors.EVENT_READ, self._heard_zygote)
        return ours

    def _heard_zygote(self) -> None:
        assert self._control is not None
        try:
            data = self._control.recv(1 << 16)
        except ConnectionError:
            data = b""
        self._reports += data
        while len(self._reports) >= _REPORT.size:
            kind, number, value = _REPORT.unpack_from(self._reports)
            del self._reports[: _REPORT.size]
            if kind == _READY:
                self._ready = True
            elif number in self._workers:
                worker = self._workers[number]
                if kind == _FORKED:
                    worker.pid = value
                    if worker.doomed:
                        self._kill(worker)
                else:
                    self._gone(worker, value)
        if not data:
            ready = self._ready
            text = self._drop_zygote()
            if not ready:
                raise SourcewiseError(f"worker processes cannot start: {text}")
            for worker in list(self._workers.values()):
                worker.orphan = True
                if worker.closed or not worker.pid:
                    self._gone(worker, None)

    def _drop_zygote(self) -> str:
        """Let the zygote go; returns the last line that it wrote."""
        if self._zygote is None or self._control is None or self._stderr is None:
            return ""
        self._selector.unregister(self._control)
        self._control.close()
        try:
            self._zygote.wait(5)
        except subprocess.TimeoutExpired:
            self._zygote.kill()
            self._zygote.wait()
        self._stderr.seek(0)
        lines = self._stderr.read().decode(errors="replace").strip().splitlines()
        self._stderr.close()
        status = self._zygote.returncode
        self._zygote = self._control = self._stderr = None
        self._ready = False
        return lines[-1] if lines else f"exit status {status}"

    # Workers

    def _spawn(self, slot: int) -> _Worker:
        control = self._control or self._start_zygote()
        ours, theirs = socket.socketpair()
        self._count += 1
        worker = _Worker(self._count, slot, ours)
        with (
            theirs,
            contextlib.suppress(OSError),
        ):  # a zygote that just died is noticed when its socket is read
            socket.send_fds(control, [_REQUEST.pack(worker.number)], [theirs.fileno()])
        self._workers[worker.number] = self._in_slot[slot] = worker
        self._selector.register(ours, selectors.EVENT_READ, lambda: self._heard(worker))
        self._tell(worker, {"env": dict(self.slots[slot])})
        return worker

    def _tell(self, worker: _Worker, message: Mapping[str, Any]) -> None:
        with contextlib.suppress(OSError):  # a worker that just died is noticed when its socket is read
            worker.socket.sendall(json.dumps(message).encode() + b"\n")

    def _heard(self, worker: _Worker) -> None:
        if worker.closed:
            return
        try:
            data = worker.socket.recv(1 << 16)
        except OSError:
            data = b""
        worker.buffer += data
        while (end := worker.buffer.find(b"\n")) >= 0:
            message = json.loads(worker.buffer[:end])
            del worker.buffer[: end + 1]
            if "started" in message and worker.job is not None:
                worker.begun, worker.started = time.monotonic(), True
                if self.timeout is not None and worker.stopping is None:
                    worker.deadline = worker.begun + self.timeout
            elif "ended" in message:
                self._ended(worker, message)
        if not data:
            worker.closed = True
            self._selector.unregister(worker.socket)
            worker.socket.close()
            if worker.orphan:
                self._gone(worker, None)

    def _ended(self, worker: _Worker, message: Mapping[str, Any]) -> None:
        worker.runs += 1
        status: Status = message["status"]
        if status != "returned" and worker.stopping is not None:
            status = worker.stopping
        self._finish(worker, status, message["cause"], message["value"])
        # After an exception the process may be in any state (a broken CUDA context, say), and a new one is cheap.
        if worker.stopping or status not in ("returned", "claimed") or worker.runs >= self.recycle_after:
            self._dismiss(worker)

    def _finish(self, worker: _Worker, status: Status, cause: str, value: Any = None) -> None:
        job, worker.job = worker.job, None
        if job is None:
            return
        if status == "timeout":
            cause = f"hung: stopped after {self.timeout:g} s"
        self._outcomes.append(Outcome(job, status, cause, value))

    def _dismiss(self, worker: _Worker) -> None:
        if self._in_slot.get(worker.slot) is worker:
            del self._in_slot[worker.slot]
        if not worker.leaving:
            worker.leaving = True
            if not worker.doomed:
                worker.deadline = time.monotonic() + self.grace
            self._tell(worker, {"exit": True})

    def _interrupt(self, worker: _Worker, why: Status) -> None:
        worker.stopping, worker.deadline = why, time.monotonic() + self.grace
        if worker.pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(worker.pid, signal.SIGINT)

    def _enforce(self, now: float) -> None:
        for worker in list(self._workers.values()):
            if now >= worker.deadline:
                if worker.job is not None and worker.stopping is None:
                    self._interrupt(worker, "timeout")
                else:
                    self._kill(worker)

    def _kill(self, worker: _Worker) -> None:
        worker.deadline, worker.doomed = float("inf"), True
        if worker.pid:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(worker.pid, signal.SIGKILL)
        else:  # not forked yet; it will be killed then
            self._finish(worker, worker.stopping or "killed", "its worker did not start")
            self._dismiss(worker)

    def _gone(self, worker: _Worker, code: int | None) -> None:
        """The worker's process has ended."""
        worker.orphan = False
        if not worker.closed:
            worker.socket.setblocking(False)
        while not worker.closed:
            self._heard(worker)  # what it still said
        self._workers.pop(worker.number, None)
        if self._in_slot.get(worker.slot) is worker:
            del self._in_slot[worker.slot]
        if code is None:
            cause = "the worker process was killed"
        elif code < 0:
            cause = f"killed by {signal.Signals(-code).name}"
            if -code == signal.SIGKILL:
                cause += " (out of memory?)"
        else:
            cause = f"the worker process exited with status {code}"
        self._finish(worker, worker.stopping or "killed", cause)


# In the zygote


def load(function: str) -> Function:
    """The function that `package.module:name` or `path/to/file.py:name` means."""
    place, _, name = function.rpartition(":")
    if place.endswith(".py"):
        module_name = Path(place).stem
        spec = importlib.util.spec_from_file_location(module_name, place)
        if spec is None or spec.loader is None:
            raise ImportError(f"cannot import {place}")
        module = importlib.util.module_from_spec(spec)
        sys.modules[module_name] = module
        spec.loader.exec_module(module)
    else:
        module = importlib.import_module(place)
    found: Function = getattr(module, name)
    return found


def _zygote(control: socket.socket, setup: Mapping[str, Any]) -> None:
    """Import, then fork a worker for every request; ends, and ends all workers, when the launching process does."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    sys.path[:] = setup["path"]
    for name in setup["preload"]:
        with contextlib.suppress(ModuleNotFoundError):  # only saves time: a run that needs it will say so
            importlib.import_module(name)
    function = load(setup["function"])
    gc.collect()
    gc.freeze()  # pages that hold only frozen objects stay shared with the workers
    wake_r, wake_w = os.pipe()
    os.set_blocking(wake_r, False)
    os.set_blocking(wake_w, False)
    signal.set_wakeup_fd(wake_w, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    numbers: dict[int, int] = {}
    selector = selectors.DefaultSelector()
    selector.register(control, selectors.EVENT_READ)
    selector.register(wake_r, selectors.EVENT_READ)
    control.sendall(_REPORT.pack(_READY, 0, 0))
    while True:
        for key, _ in selector.select():
            if key.fd == wake_r:
                with contextlib.suppress(BlockingIOError):
                    os.read(wake_r, 4096)
                for pid, code in _reap():
                    if pid in numbers:
                        control.sendall(_REPORT.pack(_EXITED, numbers.pop(pid), code))
                continue
            data, fds, _, _ = socket.recv_fds(control, _REQUEST.size, 1)
            if not data:
                for pid in numbers:
                    with contextlib.suppress(ProcessLookupError):
                        os.killpg(pid, signal.SIGKILL)
                return
            (number,) = _REQUEST.unpack(data)
            pid = os.fork()
            if pid == 0:
                signal.set_wakeup_fd(-1)
                selector.close()
                control.close()
                os.close(wake_r)
                os.close(wake_w)
                _worker(socket.socket(fileno=fds[0]), function)
            with contextlib.suppress(OSError):
                os.setpgid(pid, pid)  # here as well as in the child: it holds before anyone uses the pid
            numbers[pid] = number
            os.close(fds[0])
            control.sendall(_REPORT.pack(_FORKED, number, pid))


def _reap() -> list[tuple[int, int]]:
    """Pid and exit code of every child that has ended; what is left of its process group is killed first."""
    ended: list[tuple[int, int]] = []
    while True:
        try:
            info = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return ended
        if info is None:
            return ended
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(info.si_pid, signal.SIGKILL)  # still a zombie: its number cannot be someone else's yet
        _, status = os.waitpid(info.si_pid, 0)
        ended.append((info.si_pid, os.waitstatus_to_exitcode(status)))


# In a worker


def _worker(channel: socket.socket, function: Function) -> None:
    """Do runs until told to exit. Never returns."""
    status = 1
    try:
        with contextlib.suppress(OSError):
            os.setpgid(0, 0)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        atexit._clear()
        interrupt = _Interrupt()
        signal.signal(signal.SIGINT, interrupt)
        signal.signal(signal.SIGTERM, interrupt)
        os.register_at_fork(after_in_child=lambda: _forget(channel))
        inbox: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        threading.Thread(target=_listen, args=(channel, inbox), daemon=True, name="lifeline").start()
        os.environ[claims.WORKER] = "1"
        os.environ.update(inbox.get()["env"])
        for stream in (sys.stdout, sys.stderr):
            stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]
        faulthandler.enable()
        while "job" in (message := inbox.get()):
            channel.sendall(b'{"started": true}\n')
            reply = _run(function, message, interrupt)
            channel.sendall(json.dumps({"ended": message["job"], **reply}, default=str).encode() + b"\n")
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        _flush()
        os._exit(status)


class _Interrupt:
    """Turns a signal into KeyboardInterrupt within a run, at its start if it came before, and never between runs."""

    def __init__(self) -> None:
        self.armed = self.asked = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        self.asked = True
        if self.armed:
            self.armed = False
            raise KeyboardInterrupt

    def arm(self) -> None:
        self.armed = True
        if self.asked:
            self.armed = False
            raise KeyboardInterrupt


def _listen(channel: socket.socket, inbox: "queue.SimpleQueue[dict[str, Any]]") -> None:
    """Pass messages on; when the launching process is gone, so is this one, with all that it started."""
    # A second signal that this thread took would not wake the main one from a system call.
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
    with contextlib.suppress(OSError), channel.makefile("rb") as lines:
        for line in lines:
            inbox.put(json.loads(line))
    os.killpg(0, signal.SIGKILL)


def _forget(channel: socket.socket) -> None:
    """Close a child's copy of the socket: only the worker itself keeps it open."""
    with contextlib.suppress(OSError):
        os.close(channel.detach())


def _run(function: Function, message: Mapping[str, Any], interrupt: _Interrupt) -> dict[str, Any]:
    """One run, its output in its log. Returns the status, the cause, and the function's value."""
    try:
        try:
            _redirect(Path(message["log"]))
            interrupt.arm()
            value = function(message["config"])
        finally:
            interrupt.armed = False
        return {"status": "returned", "cause": "", "value": value}
    except claims.Claimed as error:
        return {"status": "claimed", "cause": str(error), "value": None}
    except BaseException as error:
        with contextlib.suppress(OSError):  # a full disk
            traceback.print_exc()
        first, *_ = [*str(error).strip().splitlines(), ""]
        kind = "" if isinstance(error, SourcewiseError) else type(error).__name__
        return {"status": "raised", "cause": ": ".join(filter(None, (kind, first))), "value": None}
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


def _flush() -> None:
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
        sys.stderr.flush()
        ctypes.CDLL(None).fflush(None)


def command(config: dict[str, Any]) -> None:
    """Run `config["argv"]` within the worker's process group: for runs on several devices, which start processes."""
    process = subprocess.Popen(config["argv"])
    try:
        code = process.wait()
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        os.killpg(0, signal.SIGINT)
        process.wait()
        raise
    if code == claims.EXIT_CLAIMED:
        raise claims.Claimed("claimed by another process")
    if code < 0:
        signal.signal(-code, signal.SIG_DFL) if -code != signal.SIGKILL else None
        os.kill(os.getpid(), -code)
        time.sleep(60)
    if code:
        lines = [line for line in Path(config["log"]).read_text(errors="replace").splitlines() if line.strip()]
        raise ChildProcessError(f"exit status {code}: {lines[-1].strip() if lines else 'no output'}")


if __name__ == "__main__":
    _zygote(socket.socket(fileno=int(sys.argv[1])), json.loads(sys.argv[2]))
