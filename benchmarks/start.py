"""How long a single run takes until it trains, beside what importing Lightning alone takes.

    OMP_NUM_THREADS=1 python benchmarks/start.py

Prints the medians over several turns, in seconds of wall time, and their ratio. What the stages of training took stands
in the run's record, and is left out.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from sourcewise.core import names
from sourcewise.records import record

ROOT = Path(__file__).parents[1]


def seconds(*command: str) -> float:
    """Return how long a command of Python takes."""
    begin = time.perf_counter()
    subprocess.run([sys.executable, *command], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - begin


def seconds_to_training() -> float:
    """Return how long a run takes but for the stages of its training."""
    with TemporaryDirectory() as folder:
        taken = seconds("train.py", "logger=none", f"runs_dir={folder}")
        (path,) = Path(folder).glob(f"*/*/{names.RECORD}")
        return taken - sum(record.read(path).header.seconds.values())


def main() -> None:
    """Print both medians and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=5)
    options = parser.parse_args()
    turns = [(seconds("-c", "import pytorch_lightning"), seconds_to_training()) for _ in range(options.turns)]
    lightning, run = (median(column) for column in zip(*turns, strict=True))
    print(f"import pytorch_lightning {lightning:.2f} s; a run but for its training {run:.2f} s: {run / lightning:.2f}")


if __name__ == "__main__":
    main()
