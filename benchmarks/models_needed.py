"""How many models influences need: held-out LDS by design, estimator and number of models, on the embedded default.

    python benchmarks/models_needed.py                  # trains about 1,150 models once, then prints the tables
    python benchmarks/models_needed.py --no-training    # with whatever records there are

LDS is the Spearman correlation of predicted and actual `prob` over held-out random subsets, averaged over columns (the
target classes' means, or single examples), and over disjoint blocks of as many models as there are. 95% intervals, and
those of differences (paired), are a bootstrap over the held-out subsets. Each number of models is held against what the
difference of means reaches on twice as many random subsets.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from sourcewise.core.errors import SourcewiseError
from sourcewise.estimation.arrays import PackedMasks
from sourcewise.estimation.collapse import collapse
from sourcewise.estimation.estimators import ESTIMATORS
from sourcewise.estimation.scoring import correlation
from sourcewise.records.reading import Records

ROOT = Path(__file__).parents[1]
Array = NDArray[Any]
HELD, TRAINED = 128, 512
"""Random subsets 0 to 127 are held out; the next 512 are learnt from, as are 512 of the Hadamard design."""
COUNTS = (32, 64, 128, 256, 512)
DRAWS = 1000


def train(runs: Path) -> None:
    """Train what is not there yet; the same command goes on where it was stopped."""
    for design, count in (("random", HELD + TRAINED), ("hadamard", TRAINED)):
        sweep = [f"subset={design}", f"subset.seed=range(0,{count})", f"runs_dir={runs.resolve()}", "logger=none"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        subprocess.run([sys.executable, "train.py", "-m", *sweep], cwd=ROOT, env=environment, check=True)


def load(runs: Path) -> dict[str, dict[int, tuple[Array, Array]]]:
    """Mask and outputs of every model by design and subset seed; outputs are class means, then examples."""
    models: dict[str, dict[int, tuple[Array, Array]]] = {"random": {}, "hadamard": {}}
    for item in Records(str(runs)):
        if item.header.design in models and item.header.subset_seed is not None:
            outputs = item.targets["digits"]
            prob = outputs.prob.astype(np.float64)
            means = [prob[outputs.labels == label].mean() for label in range(10)]
            models[item.header.design][item.header.subset_seed] = item.mask, np.concatenate([means, prob])
    return models


def blocks(models: dict[int, tuple[Array, Array]], first: int, count: int) -> list[tuple[Array, Array]]:
    """Disjoint blocks of `count` models with seeds from `first` on; they start where a Hadamard design does."""
    starts = range(first, first + TRAINED - count + 1, max(count, 128))
    seeds = [range(start, start + count) for start in starts]
    chosen = [[models[seed] for seed in block] for block in seeds if all(seed in models for seed in block)]
    return [(np.array([m for m, _ in block]), np.array([y for _, y in block])) for block in chosen]


def predict(name: str, masks: Array, outputs: Array, held: Array) -> Array | None:
    """Return the outputs float[held, columns] that an estimator predicts; None when it needs more models."""
    subsets = collapse(masks, outputs)
    try:
        estimate = ESTIMATORS[name].estimate_subsets(subsets, held_out=np.arange(0, subsets.units, 5))
    except SourcewiseError:
        return None
    return estimate.predict(PackedMasks.pack(held))


def lds(predicted: Array, actual: Array, weights: Array) -> Array:
    """LDS under each row of weights over the held-out subsets, float[draws]; ranks are those of all of them."""
    left, right = (stats.rankdata(table, axis=0) for table in (predicted, actual))
    scores: Array = np.nanmean(correlation(left - left.mean(0), right - right.mean(0), weights), axis=1)
    return scores


def show(draws: Array) -> str:
    """Format a value with its 95% interval; the first draw is that of all subsets."""
    low, high = np.quantile(draws[1:], (0.025, 0.975))
    return f"{draws[0]:+.3f} ({low:+.3f} to {high:+.3f})"


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=ROOT / "outputs/models_needed", help="where records are kept")
    parser.add_argument("--no-training", action="store_true", help="use the records that are there")
    options = parser.parse_args()
    if not options.no_training:
        train(options.runs)
    models = load(options.runs)
    held = [models["random"][seed] for seed in range(HELD)]
    masks, actual = np.array([mask for mask, _ in held]), np.array([output for _, output in held])
    rng = np.random.default_rng(0)
    weights = np.vstack([np.ones(HELD), rng.multinomial(HELD, np.full(HELD, 1 / HELD), size=DRAWS)])
    scores: dict[str, dict[tuple[str, str, int], Array]] = {"class means": {}, "examples": {}}
    for design, first in (("random", HELD), ("hadamard", 0)):
        for count in COUNTS:
            parts = blocks(models[design], first, count)
            for name in ESTIMATORS if parts else ():
                predicted = [predict(name, *part, masks) for part in parts]
                for level, columns in (("class means", slice(10)), ("examples", slice(10, None))):
                    drawn = [
                        lds(table[:, columns], actual[:, columns], weights) for table in predicted if table is not None
                    ]
                    if drawn:
                        scores[level][design, name, count] = np.mean(drawn, axis=0)
    for level, table in scores.items():
        print(f"\nHeld-out LDS, {level} of prob, {HELD} held-out random subsets\n")
        print("| design | estimator | " + " | ".join(f"{count} models" for count in COUNTS) + " |")
        print("| --- | --- |" + " --- |" * len(COUNTS))
        for design in models:
            for name in ESTIMATORS:
                cells = [table.get((design, name, count)) for count in COUNTS]
                texts = ["" if cell is None else f"{cell[0]:.3f} +- {1.96 * cell[1:].std():.3f}" for cell in cells]
                print(f"| {design} | {name} | " + " | ".join(texts) + " |")
        print()
        for count in COUNTS[:-1]:
            goal = table.get(("random", "difference", 2 * count))
            tried = {key: drawn for key, drawn in table.items() if key[2] == count}
            if goal is None or not tried:
                continue
            best = max(tried, key=lambda key: tried[key][0])
            gap = tried[best] - goal
            verdict = "reached" if gap[0] >= 0 else "not reached"
            print(
                f"{count} models, {best[0]} with {best[1]}: {tried[best][0]:.3f}; difference of means on {2 * count}"
                f" random: {goal[0]:.3f}. {verdict}: {show(gap)}"
            )


if __name__ == "__main__":
    main()
