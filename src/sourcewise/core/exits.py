"""How a command ends: a user's error in one line, signals as Ctrl-C, and the exit status."""

import logging
import os
import signal
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import NoReturn

from sourcewise.core.errors import VERBOSE
from sourcewise.core.messages import one_line, users_error

SAVE_AND_STOP = signal.SIGUSR1
"""Blocked in a worker process: while it is pending, a run that saves checkpoints saves one and stops."""


@contextmanager
def errors() -> Iterator[None]:
    """End the process with one line on stderr and its exit status when a user's error is raised within.

    Any other exception passes with its traceback. SIGTERM and SIGHUP end the process as Ctrl-C does. It goes around a
    command, and again inside its Hydra main, before Hydra adds lines of its own. With `-v`, which Hydra does not know,
    every error has its traceback, and libraries may log.
    """
    if "-v" in sys.argv[1:]:
        sys.argv.remove("-v")
        os.environ[VERBOSE] = "1"
    if VERBOSE in os.environ:
        logging.basicConfig(level=logging.INFO)
    else:  # they complain where no home, or no shared memory, can be written to, and do without
        logging.getLogger("matplotlib").setLevel(logging.ERROR)
        warnings.filterwarnings("ignore", ".*joblib will operate in serial mode")
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # Hydra then lets exceptions through to us
    caught = [signal.SIGINT]

    def interrupt(number: int, frame: FrameType | None) -> NoReturn:
        caught[0] = signal.Signals(number)
        raise KeyboardInterrupt

    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as under nohup
            signal.signal(number, interrupt)
    try:
        try:
            yield
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()
    except BrokenPipeError:  # the reader of our output, such as head, has closed it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the interpreter's own flush at its end
        sys.exit(1)
    except KeyboardInterrupt:
        print("interrupted; the same command goes on where this one stopped", file=sys.stderr)
        sys.exit(128 + caught[0])
    except Exception as error:
        cause = users_error(error)
        if cause is None or VERBOSE in os.environ:
            raise
        print(f"{Path(sys.argv[0]).name}: {one_line(cause)}", file=sys.stderr)
        sys.exit(cause.status)
