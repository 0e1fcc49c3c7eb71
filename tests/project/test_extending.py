"""docs/extending.md: its files, written to a folder, and its commands, run there on tiny models."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

from conftest import ROOT, TINY

PAGE = (ROOT / "docs/extending.md").read_text(encoding="utf-8")
KINDS = ("A design", "An estimator", "A transfer mode", "A dataset", "A metric", "A logger")


def boxes(text: str) -> list[tuple[str, str]]:
    return re.findall(r"```(\w+)\n(.*?)```", text, flags=re.DOTALL)


def run(line: str, folder: Path) -> str:
    """What a command of the page prints, run on tiny models from another folder than the checkout."""
    _, script, *arguments = shlex.split(line)
    if script == "train.py":
        arguments += [word for word in TINY if not (word.startswith(("logger", "transfer")) and "=" in line)]
    environment = {**os.environ, "PYTHONPATH": f"{folder}:{os.environ.get('PYTHONPATH', '')}", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(ROOT / script), *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def tiny(arguments: list[str]) -> list[str]:
    """Overrides that make a command of train.py small; not those of parts that it replaces."""
    replaced = [part for part in ("transfer", "logger") if any(word.startswith(f"{part}=") for word in arguments)]
    return [word for word in TINY if not word.startswith(tuple(replaced or ["none"]))]
