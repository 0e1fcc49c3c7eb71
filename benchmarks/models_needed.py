"""How many models influences need: held-out LDS by design, estimator and number of models.

    python benchmarks/models_needed.py                  # trains about 1,150 models once, then prints the tables
    python benchmarks/models_needed.py --no-training    # with whatever records there are
    python benchmarks/models_needed.py --no-training --runs <study> --held 64 --counts 32 64 112   # of another study

LDS is the Spearman correlation of predicted and actual `prob` over held-out random subsets, averaged over columns (the
target classes' means, or single examples), and over disjoint blocks of as many models as there are. 95% intervals, and
those of differences (paired), are a bootstrap over the held-out subsets. Each number of models is held against what the
difference of means reaches on twice as many random subsets. Rows "with priors" use label and feature mapping of the
full runs among the records. The last table is about sizes: the ten worst and the ten best effects on classes, and what
other models say of them.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from sourcewise.core.errors import SourcewiseError
from sourcewise.estimation.arrays import PackedMasks
from sourcewise.estimation.collapse import Knowledge, collapse
from sourcewise.estimation.estimators import ESTIMATORS, ridge
from sourcewise.estimation.fitting import fit, logit_slopes
from sourcewise.estimation.scoring import correlation
from sourcewise.records.reading import Records

ROOT = Path(__file__).parents[1]
Array = NDArray[Any]
TRAINED = 512
"""Random subsets that are learnt from, after those that are held out; as many of the Hadamard design."""
DRAWS = 1000
LEVELS = ("class means", "examples")


@dataclass(frozen=True)
class Models:
    """Models of some subsets. Attributes: masks bool[m, G], prob and logit float[m, E]."""

    masks: Array
    prob: Array
    logit: Array

    def means(self, labels: Array) -> Models:
        """Return the means of the outputs by class."""
        prob, logit = (
            np.stack([table[:, labels == label].mean(1) for label in np.unique(labels)], axis=1)
            for table in (self.prob, self.logit)
        )
        return Models(self.masks, prob, logit)


@dataclass(frozen=True)
class Study:
    """Records of a study: models by design and subset seed, labels int[E], and priors float[classes, G] by name."""

    models: dict[str, dict[int, tuple[Array, Array, Array]]]
    labels: Array
    priors: dict[str, Array]

    def chosen(self, design: str, seeds: range) -> Models:
        """Return the models of some subset seeds."""
        return Models(*map(np.array, zip(*(self.models[design][seed] for seed in seeds), strict=True)))


def train(runs: Path, held: int) -> None:
    """Train what is not there yet; the same command goes on where it was stopped."""
    sweeps = [["subset=full", "seed=range(0,2)"], ["subset=random", f"subset.seed=range(0,{held + TRAINED})"]]
    for sweep in [*sweeps, ["subset=hadamard", f"subset.seed=range(0,{TRAINED})"]]:
        command = [sys.executable, "train.py", "-m", *sweep, f"runs_dir={runs.resolve()}", "logger=none"]
        subprocess.run(command, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=True)


def load(runs: Path) -> Study:
    """Read the records of a study with one target."""
    models: dict[str, dict[int, tuple[Array, Array, Array]]] = {"random": {}, "hadamard": {}}
    mappings: dict[str, list[Array]] = {}
    for item in Records(str(runs)):
        (outputs,) = item.targets.values()
        labels = np.unique(outputs.labels, return_inverse=True)[1]
        if item.header.design in models and item.header.subset_seed is not None and item.header.seed == 0:
            row = item.mask, outputs.prob.astype(np.float64), outputs.margin.astype(np.float64)
            models[item.header.design][item.header.subset_seed] = row
        elif item.mask.all() and outputs.label_mapping is not None and outputs.feature_mapping is not None:
            mappings.setdefault("label", []).append(outputs.label_mapping[np.unique(outputs.labels)])
            mappings.setdefault("feature", []).append(outputs.feature_mapping[np.unique(outputs.labels)])
    priors = {name: np.mean(tables, axis=0, dtype=np.float64) for name, tables in mappings.items()}
    return Study(models, labels, priors)


def blocks(study: Study, design: str, first: int, count: int) -> list[Models]:
    """Disjoint blocks of `count` models with seeds from `first` on; they start where a Hadamard design does."""
    last = max(study.models[design], default=-1)
    starts = range(first, last - count + 2, max(count, 128))
    seeds = [range(start, start + count) for start in starts]
    return [study.chosen(design, block) for block in seeds if all(seed in study.models[design] for seed in block)]


def knowledge(models: Models, labels: Array, level: str, priors: dict[str, Array], logit: bool) -> Knowledge:
    """Return what an estimator with a hierarchy gets beside the outputs."""
    part = models if level == "examples" else models.means(labels)
    classes = labels if level == "examples" else np.unique(labels)
    if not logit:
        return Knowledge(classes, np.ones(len(classes)), priors)
    return Knowledge(classes, logit_slopes(part.prob, part.logit), priors, part.logit)


def predict(name: str, level: str, models: Models, study: Study, held: Array) -> Array | None:
    """Return the outputs float[held, columns] that an estimator predicts; None when it needs more models."""
    estimator, logit = name.split()[0], "prob" not in name
    priors = study.priors if "priors" in name else {}
    outputs = (models if level == "examples" else models.means(study.labels)).prob
    subsets = collapse(models.masks, outputs, None, knowledge(models, study.labels, level, priors, logit))
    try:
        estimate = ESTIMATORS[estimator].estimate_subsets(subsets, held_out=np.arange(0, subsets.units, 5))
    except SourcewiseError:
        return None
    return estimate.predict(PackedMasks.pack(held))


def sizes(study: Study, first: int, count: int, priors: dict[str, Array]) -> Array:
    """Return the mean of the ten worst and best effects on classes, and what other models say of them, float[2, 2]."""
    parts, rows = blocks(study, "random", first, count), []
    for part, other in zip(parts, parts[1:] + parts[:1], strict=True):
        means, known = part.means(study.labels), knowledge(part, study.labels, "class means", priors, True)
        result = fit(part.masks, means.prob, "hierarchical", labels=known.labels, logits=known.logits, priors=priors)
        effects = result.posterior.mean.ravel()
        check = ridge(collapse(other.masks, other.means(study.labels).prob).moments()).influence.ravel()
        order = np.argsort(effects)
        rows.append([[effects[side].mean(), check[side].mean()] for side in (order[:10], order[-10:])])
    return np.mean(rows, axis=0)


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
    parser.add_argument("--held", type=int, default=128, help="random subsets, from seed 0 on, that are held out")
    parser.add_argument("--counts", type=int, nargs="+", default=[32, 64, 128, 256, 512], help="numbers of models")
    options = parser.parse_args()
    if not options.no_training:
        train(options.runs, options.held)
    study, counts = load(options.runs), options.counts
    held = study.chosen("random", range(options.held))
    actual = {"class means": held.means(study.labels).prob, "examples": held.prob}
    rng = np.random.default_rng(0)
    draws = rng.multinomial(options.held, np.full(options.held, 1 / options.held), size=DRAWS)
    weights = np.vstack([np.ones(options.held), draws])
    names = [*ESTIMATORS, "hierarchical on prob", *(["hierarchical with priors"] if study.priors else [])]
    scores: dict[str, dict[tuple[str, str, int], Array]] = {level: {} for level in LEVELS}
    for design, first in (("random", options.held), ("hadamard", 0)):
        for count in counts:
            parts = blocks(study, design, first, count)
            for name in names if parts else ():
                for level in LEVELS:
                    predicted = [predict(name, level, part, study, held.masks) for part in parts]
                    drawn = [lds(table, actual[level], weights) for table in predicted if table is not None]
                    if drawn:
                        scores[level][design, name, count] = np.mean(drawn, axis=0)
    for level, table in scores.items():
        print(f"\nHeld-out LDS, {level} of prob, {options.held} held-out random subsets\n")
        print("| design | estimator | " + " | ".join(f"{count} models" for count in counts) + " |")
        print("| --- | --- |" + " --- |" * len(counts))
        for design in study.models:
            for name in names:
                cells = [table.get((design, name, count)) for count in counts]
                texts = ["" if cell is None else f"{cell[0]:.3f} +- {1.96 * cell[1:].std():.3f}" for cell in cells]
                if any(texts):
                    print(f"| {design} | {name} | " + " | ".join(texts) + " |")
        print()
        for count in counts[:-1]:
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
    half = min(96, (len(study.models["random"]) - options.held) // 2)
    print(f"\nEffects on classes, by {half} random subsets: posterior mean, what {half} others say (ridge), ratio\n")
    for name, priors in (("hierarchical", {}), *([("hierarchical with priors", study.priors)] if study.priors else [])):
        for side, (stated, real) in zip(
            ("ten worst", "ten best"), sizes(study, options.held, half, priors), strict=True
        ):
            print(f"{name}, {side}: {100 * stated:+.2f}, {100 * real:+.2f} points, {stated / real:.2f}")


if __name__ == "__main__":
    main()
