"""What happens in a worker process: it does one run after the other, each with its output in a log of its own."""

import atexit
import contextlib
import ctypes
import faulthandler
import json
import os
import queue
import signal
import sys
import threading
import traceback
from collections.abc import Mapping, Sequence
from multiprocessing import connection
from pathlib import Path
from types import FrameType
from typing import Any, Literal

from sourcewise.core.errors import WORKER
from sourcewise.core.exits import SAVE_AND_STOP
from sourcewise.core.messages import one_line
from sourcewise.sweep.leases import Leased
from sourcewise.sweep.tasks import Function

Status = Literal["returned", "raised", "killed", "timeout", "leased", "stopped"]
Ending = tuple[Status, str, Any]
"""How a run ended, the cause in words, and the function's value."""

Channel = connection.Connection

STOPS = (signal.SIGINT, signal.SIGTERM)
"""Signals that ask a run to stop."""


def serve(channel: Channel, inherited: Sequence[Any], function: Function, environment: Mapping[str, str]) -> None:
    """Do the runs that come through the channel, until null comes. Never returns: the process exits.

    Args:
        channel: this worker's end of its channel.
        inherited: the launching process's sockets and channels, which are closed here.
        function: what a run is.
        environment: variables of this worker's slot, such as CUDA_VISIBLE_DEVICES.
    """
    status = 1
    try:
        _prepare(channel, inherited)
        os.environ[WORKER] = "1"
        os.environ.update(environment)
        inbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
        threading.Thread(target=_receive, args=(channel, inbox), daemon=True, name="lifeline").start()
        while message := inbox.get():
            ending = perform(function, **message)
            channel.send_bytes(json.dumps(ending, default=str).encode())
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        flush()
        os._exit(status)


def perform(function: Function, config: Mapping[str, Any], log: str, overrides: Sequence[str] = ()) -> Ending:
    """Do one run, with its output in its log; return how it ended. An exception becomes the outcome `raised`.

    Signals that came before the run started interrupt it at its start.
    """
    try:
        _redirect(Path(log))
    except OSError as error:
        return "raised", f"{type(error).__name__}: {error}", None
    try:
        try:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)
            value = function(config, overrides)
        finally:
            signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
        return "returned", "", value
    except Leased as error:
        return "leased", str(error), None
    except BaseException as error:
        cause = one_line(error)
        with contextlib.suppress(OSError):  # a full disk
            traceback.print_exc()
            print(cause, file=sys.stderr)  # a log ends with its cause
        return "stopped" if isinstance(error, KeyboardInterrupt) else "raised", cause, None
    finally:
        flush()


def last_line(log: Path) -> str:
    """Return the last line of a run's log; "" if there is none."""
    try:
        lines = log.read_text(errors="replace").strip().splitlines()
    except OSError:
        return ""
    return lines[-1].strip() if lines else ""


def flush() -> None:
    """Write out what Python and C hold back for stdout and stderr."""
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
        sys.stderr.flush()
        ctypes.CDLL(None).fflush(None)


def _prepare(channel: Channel, inherited: Sequence[Any]) -> None:
    """Make a forked process a worker: a process group, signals, files and priorities of its own."""
    with contextlib.suppress(OSError):
        os.setpgid(0, 0)
    for item in inherited:
        item.close()
    atexit._clear()
    for number in STOPS:
        signal.signal(number, _interrupt)
    for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):  # Slurm sends these to all processes of a task
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {SAVE_AND_STOP})
    os.register_at_fork(after_in_child=channel.close)  # only the worker itself keeps it open
    with Path(os.devnull).open() as null:
        os.dup2(null.fileno(), 0)
    sys.stdout, sys.stderr = (open(fd, "w", buffering=1, closefd=False) for fd in (1, 2))  # noqa: SIM115
    faulthandler.disable()  # enabled before the fork, it would not take its signals back
    faulthandler.enable()
    with contextlib.suppress(OSError):  # if memory runs out, this process is to go, and not the launching one
        Path("/proc/self/oom_score_adj").write_text("500")


def _interrupt(number: int, frame: FrameType | None) -> None:
    """End a run. Its clean-up is not interrupted once more."""
    signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
    raise KeyboardInterrupt


def _receive(channel: Channel, inbox: "queue.SimpleQueue[Any]") -> None:
    """Pass messages on; when the launching process is gone, end this process and all that it started."""
    with contextlib.suppress(OSError, EOFError):
        while True:
            inbox.put(json.loads(channel.recv_bytes()))
    os.killpg(0, signal.SIGKILL)


def _redirect(log: Path) -> None:
    """Send this process's output, Python's and C's, to the end of a file."""
    log.parent.mkdir(parents=True, exist_ok=True)
    flush()
    target = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
    os.dup2(target, 1)
    os.dup2(target, 2)
    os.close(target)
