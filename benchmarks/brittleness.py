"""Is it predicted what removing a group does to single examples? Over the 100 that one group harms, or supports, most.

    python benchmarks/brittleness.py                  # trains 5,130 models once, about an hour on two cores
    python benchmarks/brittleness.py --no-training    # with whatever records there are

Influences come from 640 random subsets of half the groups, or of nine tenths, of the embedded default. Real changes
come from 100 runs without each group against 200 of the full source; predictions start from 50 other full ones. The
last column is the rank correlation from 400 of the 640 models, mean and standard deviation over ten draws.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from sourcewise.analyses import examine
from sourcewise.influences import collect, estimate
from sourcewise.record import Record
from sourcewise.records import Records

ROOT = Path(__file__).parents[1]
MODELS, FEWER, RUNS, FULL = 640, 400, 100, 250
SHARES = (0.5, 0.9)


def train(runs: Path, groups: str = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ") -> None:
    """Train what is not there yet; the same command goes on where it was stopped."""
    sweeps = [[f"subset.fraction={share}", f"subset.seed=range(0,{MODELS})"] for share in SHARES]
    sweeps.append(["subset=full", f"seed=range(0,{FULL})"])
    sweeps.append(["subset=listed", f"seed=range(0,{RUNS})", "subset.drop=" + ",".join(f'["{g}"]' for g in groups)])
    for sweep in sweeps:
        command = [sys.executable, "train.py", "-m", f"runs_dir={runs.resolve()}", "logger=none", *sweep]
        subprocess.run(command, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=True)


def brittle(items: list[Record]) -> dict[str, Any]:
    """What the report's section says."""
    study = collect(items)
    found: dict[str, Any] = examine(study, "digits", estimate(study, "auto")["digits"], 0.05)["brittle"]
    return found


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=ROOT / "outputs/brittleness", help="where records are kept")
    parser.add_argument("--no-training", action="store_true", help="use the records that are there")
    options = parser.parse_args()
    if not options.no_training:
        train(options.runs)
    items = list(Records(str(options.runs)))
    real = [item for item in items if item.header.design in ("full", "listed")]
    rng = np.random.default_rng(0)
    columns = ["examples", "subsets keep", "predicted", "real", "rank correlation", "real changes vary by", "noise"]
    print(f"| {' | '.join([*columns, f'{FEWER} models'])} |\n|{' --- |' * 8}")
    for share in SHARES:
        models = [item for item in items if item.header.config["subset"].get("fraction") == share]
        whole = brittle([*models, *real])
        draws = [brittle([*(models[i] for i in rng.permutation(len(models))[:FEWER]), *real]) for _ in range(10)]
        for side in ("supported", "harmed"):
            part = whole[side]
            ranks = np.array([draw[side]["spearman"] for draw in draws])
            points = [f"{100 * part[key]:+.1f}" for key in ("predicted", "real")]
            spread = [f"{100 * part[key]:.1f}" for key in ("spread", "noise")]
            fewer = f"{ranks.mean():.2f} ± {ranks.std(ddof=1):.2f}"
            cells = [f"{part['compared']} {side}", f"{share}", *points, f"{part['spearman']:.2f}", *spread, fewer]
            print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
