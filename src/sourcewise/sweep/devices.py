"""A run on several devices: a command of its own, within a worker's process group.

Lightning starts the other processes of such a run by repeating its command, which must not be the sweep's.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sourcewise.core import exits, names
from sourcewise.core.errors import EXIT_LEASED
from sourcewise.sweep.leases import Leased
from sourcewise.sweep.tasks import load
from sourcewise.sweep.worker import last_line


def run_command(task: str, config: Mapping[str, Any], overrides: Sequence[str] = ()) -> None:
    """Do a run of the task as a command, and end as it does.

    Raises ChildProcessError with the last line of the run's log, or Leased.
    """
    arguments = json.dumps({"config": config, "overrides": list(overrides)})
    process = subprocess.Popen([sys.executable, "-m", __name__, Path(sys.argv[0]).name, task, arguments])
    try:
        code = process.wait()
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        os.killpg(0, signal.SIGINT)
        process.wait()
        raise
    if code == EXIT_LEASED:
        raise Leased("leased by another process")
    if code < 0:  # its end is this worker's, too
        with contextlib.suppress(OSError):
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    if code:
        raise ChildProcessError(f"exit status {code}: {last_line(names.run_dir(config) / names.LOG)}")


def main() -> None:
    """Do the one run of the command line: a program's name for messages, the task, and its arguments as JSON."""
    sys.argv[0], task, arguments = sys.argv[1:4]
    with exits.errors():
        message = json.loads(arguments)
        load(task)(message["config"], message["overrides"])


if __name__ == "__main__":
    main()
