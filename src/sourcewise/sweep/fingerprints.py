"""Fingerprints of the datasets of a sweep's runs, and sizes of models, by a process apart: no torch here."""

import contextlib
import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from typing import Any

from sourcewise.core import exits
from sourcewise.core.errors import SourcewiseError
from sourcewise.core.hashing import fingerprint
from sourcewise.core.identity import Fingerprints, datasets
from sourcewise.core.messages import one_line, users_error
from sourcewise.core.names import Config
from sourcewise.sweep.tasks import beside, load

FUNCTION = "fingerprints"
"""The name, beside a task, of the function that reads the datasets of a config."""


@dataclass
class Reader:
    """The fingerprints of a config's datasets, read once for all configs of the same datasets. task: what a run is."""

    task: str
    _known: dict[str, Fingerprints | SourcewiseError] = field(default_factory=dict)

    def __call__(self, config: Config) -> Fingerprints | None:
        """Return the fingerprints of a run's datasets; None if the task has no function for them.

        Stores that are missing are made. Raises SourcewiseError when data are missing or broken.
        """
        if beside(self.task, FUNCTION) is None:
            return None
        parts = datasets(config)
        key = fingerprint(parts, length=64)
        if key not in self._known:
            try:
                self._known[key] = ask(self.task, FUNCTION, parts)
            except SourcewiseError as error:
                self._known[key] = error
        result = self._known[key]
        if isinstance(result, SourcewiseError):
            raise result
        return result


def ask(task: str, function: str, config: Config) -> Any:
    """Return what a function beside the task says of a config, in a process that may import torch; its value is JSON.

    What it prints for the user goes to stderr. Raises SourcewiseError as the function does.
    """
    name = f"{task.rpartition(':')[0]}:{function}"
    argv = [sys.executable, "-m", __name__, sys.argv[0], name]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            answer, _ = process.communicate(json.dumps(config))
        except BaseException:
            process.terminate()  # as Ctrl-C: it removes what is half made
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)
            process.kill()
            raise
    if process.returncode or not answer:
        raise SourcewiseError(f"the data could not be read: the process that did ended with {process.returncode}")
    values: dict[str, Any] = json.loads(answer.splitlines()[-1])
    if "error" in values:
        raise SourcewiseError(values["error"])
    return values["value"]


def main() -> None:
    """Print what the function says of the config on stdin, or what is wrong with it."""
    sys.argv[0], name = sys.argv[1:3]
    with exits.errors():
        try:
            print(json.dumps({"value": load(name)(json.load(sys.stdin), ())}))
        except Exception as error:
            cause = users_error(error)
            if cause is None:
                raise
            print(json.dumps({"error": one_line(cause)}))


if __name__ == "__main__":
    main()
