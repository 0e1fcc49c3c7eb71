"""Is it predicted what removing a group does to single examples? Over the 100 that one group harms, or supports, most.

    python benchmarks/brittleness.py                  # trains 5,130 models once, about an hour on two cores
    python benchmarks/brittleness.py --no-training    # with the records that are there

Effects come from random subsets of half the groups, or of nine tenths, of the embedded default. Real changes come from
100 runs without each group against 200 of the full source; predictions start from 50 other full ones. Rows of fewer
than all models are means over as many sets of them as there are without one in common, which share the real changes.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from sourcewise.acting.brittle import BrittleExample, BrittleExamples, find_brittle
from sourcewise.records.reading import Records
from sourcewise.records.record import Record
from sourcewise.study import priors
from sourcewise.study.collect import collect
from sourcewise.study.influences import estimate

ROOT = Path(__file__).parents[1]
COUNTS, RUNS, FULL = (640, 213, 96), 100, 250
FDR = 0.05
SHARES = (0.5, 0.9)
KEYS = ("predicted", "real", "spearman", "spread", "noise")


def train(runs: Path, groups: str = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ") -> None:
    """Train what is not there yet; the same command goes on where it was stopped."""
    sweeps = [[f"subset.fraction={share}", f"subset.seed=range(0,{COUNTS[0]})"] for share in SHARES]
    sweeps.append(["subset=full", f"seed=range(0,{FULL})"])
    sweeps.append(["subset=listed", f"seed=range(0,{RUNS})", "subset.drop=" + ",".join(f'["{g}"]' for g in groups)])
    for sweep in sweeps:
        command = [sys.executable, "train.py", "-m", f"runs_dir={runs.resolve()}", "logger=none", *sweep]
        subprocess.run(command, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=True)


def brittle(items: list[Record]) -> BrittleExamples:
    """Return what the report's section says."""
    study = collect(items)
    tables = priors.values(priors.find_priors(study, "auto"))
    dataset = estimate(study, "auto", priors=tables)["digits"].dataset
    return find_brittle(study, "digits", dataset, tables["digits"])


def changes(example: BrittleExample) -> tuple[float, float]:
    """Return the predicted and the real change of one example."""
    assert example.real is not None
    return example.predicted, example.real.change


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
    columns = ["100 examples", "subsets keep", "models", "predicted", "real", "rank correlation", "real vary by, noise"]
    columns += ["significant", "predicted of these", "real of these"]
    print(f"| {' | '.join(columns)} |\n|{' --- |' * len(columns)}")
    for share in SHARES:
        models = [item for item in items if item.header.config["subset"].get("fraction") == share]
        models = [models[i] for i in np.random.default_rng(0).permutation(len(models))]
        for count in COUNTS:
            sets = [models[i : i + count] for i in range(0, len(models) - count + 1, count)]
            results = [brittle([*part, *real]) for part in sets]
            for side in ("supported", "harmed"):
                table = {key: np.array([getattr(getattr(result, side), key) for result in results]) for key in KEYS}
                mean = {key: f"{100 * values.mean():+.1f}" for key, values in table.items()}
                rank = f"{table['spearman'].mean():.2f}"
                if len(sets) > 1:
                    rank += f" ± {table['spearman'].std(ddof=1):.2f}"
                both = f"{mean['spread'][1:]}, {mean['noise'][1:]}"
                sure = [item for result in results for item in getattr(result, side).examples if item.qvalue <= FDR]
                averages = [np.mean(values) for values in zip(*(changes(item) for item in sure), strict=True)]
                cells = [side, f"{share}", f"{count}", mean["predicted"], mean["real"], rank, both]
                cells += [f"{len(sure) / len(sets):.0f}", *(f"{100 * value:+.1f}" for value in averages)]
                print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
