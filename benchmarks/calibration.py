"""Whether errors, posteriors and false sign rates hold: simulated studies whose effects are known.

    python benchmarks/calibration.py               # 20 studies a row; half an hour on two cores
    python benchmarks/calibration.py --studies 5   # a first look

Every study has 48 examples of 6 classes. The first table varies truth and design at 36 groups and 64 models, the second
the numbers of groups and models. A truth is what effects on classes and examples are drawn from; noise is as large as
what 36 groups of one scale do together, and half of it is common to the examples of a class.

Columns: share of false ones among the significant influences (ridge, all false discovery rates at 5%); coverage of the
95% intervals of influences; coverage of posteriors of the hierarchy, mean within 1.96 standard deviations, on classes
and examples, for all effects and for the largest twentieth; and of the effects on examples whose local false sign rate
is below 5%, the mean of that rate, and the share whose sign is another.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit
from tqdm import tqdm

from sourcewise.designs.random_designs import hadamard
from sourcewise.estimation.collapse import Knowledge, Subsets, collapse
from sourcewise.estimation.contract import Estimate
from sourcewise.estimation.fitting import logit_slopes
from sourcewise.estimation.hierarchical import HIERARCHICAL
from sourcewise.estimation.inference import intervals
from sourcewise.estimation.ridge import RIDGE
from sourcewise.estimation.shrinkage import Posterior
from sourcewise.estimation.tables import estimate_table, posterior_table

Array = NDArray[Any]
CLASSES, EXAMPLES = 6, 48
LABELS = np.arange(EXAMPLES) % CLASSES
NOISE = 3.0
"""Standard deviation of the outputs of one subset."""
TRUTHS = ("null", "normal", "sparse", "unshared", "single", "prior", "misleading", "saturating", "interactions")
DESIGNS = ("halves", "quarters", "nine tenths", "independent", "hadamard", "replicated")
SIZES = [(groups, models) for groups in (8, 36, 200, 1000) for models in (8, 24, 64, 200, 600)]
TITLES = ("false", "interval", "class", "largest", "example", "largest", "lfsr", "wrong sign")


def draw_masks(design: str, groups: int, models: int, rng: np.random.Generator) -> Array:
    """Return the subsets of a study, bool[models, groups]."""
    if design == "independent":
        return rng.random((models, groups)) < 0.5
    if design == "hadamard":
        block = 4096 * int(rng.integers(1000))
        return np.array([hadamard(range(groups), block + run) for run in range(models)])
    share = {"quarters": 0.25, "nine tenths": 0.9}.get(design, 0.5)
    seeds = 3 if design == "replicated" else 1
    subsets = [rng.permutation(groups) < round(share * groups) for _ in range(-(-models // seeds))]
    return np.repeat(subsets, seeds, axis=0)[:models]


def draw_effects(truth: str, groups: int, rng: np.random.Generator) -> tuple[Array, dict[str, Array]]:
    """Return the effects on examples float[E, G], and priors float[classes, G] by name."""
    shared = rng.normal(size=(CLASSES, groups))
    loading = rng.uniform(0.5, 1.5, (EXAMPLES, 1))
    apart = 0.3 * rng.normal(size=(EXAMPLES, groups))
    sparse = shared * 3 * (rng.random(shared.shape) < 0.1)
    noisy = shared + 0.7 * rng.normal(size=shared.shape)
    if truth == "null":
        return 0 * apart, {}
    if truth == "sparse":
        return loading * sparse[LABELS], {}
    if truth == "unshared":
        return 3 * apart, {}
    if truth == "single":
        return 12 * apart * (rng.random(apart.shape) < 0.01), {}
    if truth == "misleading":
        return loading * sparse[LABELS] + apart, {"similarity": rng.normal(size=shared.shape)}
    return loading * shared[LABELS] + apart, {"similarity": noisy} if truth == "prior" else {}


def draw_outputs(truth: str, masks: Array, effects: Array, pairs: Array, rng: np.random.Generator | None) -> Array:
    """Return the outputs float[m, E] of models of some subsets; without a generator, without noise."""
    x = masks - 0.5
    y = x @ effects.T
    if truth == "interactions":
        y = y + 2 * (x[:, pairs[:, 0]] * x[:, pairs[:, 1]]) @ np.ones((len(pairs), EXAMPLES))
    if rng is None:
        return np.asarray(y)
    common = rng.normal(size=(len(masks), CLASSES))[:, LABELS]
    return np.asarray(y + NOISE * np.sqrt(0.5) * (common + rng.normal(size=y.shape)))


def true_influences(truth: str, design: str, masks: Array, effects: Array, pairs: Array) -> Array:
    """Return the influences that infinitely many models of this design would show, float[E, G].

    Effects that add up are known. Others are those of a regression on many models without noise.
    """
    if truth not in ("saturating", "interactions"):
        groups, one_size = masks.shape[1], np.ptp(masks.sum(1)) == 0
        others = (groups * effects - effects.sum(1, keepdims=True)) / (groups - 1)
        return np.asarray(others if one_size else effects)
    many = draw_masks("halves" if design == "replicated" else design, masks.shape[1], 8192, np.random.default_rng(9))
    mean = draw_outputs(truth, many, effects, pairs, None)
    if truth == "saturating":  # the mean of a sigmoid over normal noise, to within 0.02 (MacKay, 1992)
        mean = expit(mean / np.sqrt(1 + np.pi / 8 * NOISE**2))
    return RIDGE.estimate_subsets(collapse(many, mean)).influence


def _output(truth: str, logits: Array) -> Array:
    return np.asarray(expit(logits)) if truth == "saturating" else logits


def simulate(truth: str, design: str, groups: int, models: int, seed: int) -> list[float]:
    """Return the numbers of TITLES for one study; NaN where it has no such effects."""
    rng = np.random.default_rng([seed, groups, models, TRUTHS.index(truth), DESIGNS.index(design)])
    masks = draw_masks(design, groups, models, rng)
    effects, priors = draw_effects(truth, groups, rng)
    effects = effects * np.sqrt(36 / groups) * (0.5 if truth == "saturating" else 1)
    pairs = rng.integers(groups, size=(groups, 2))
    logits = draw_outputs(truth, masks, effects, pairs, rng)
    outputs = _output(truth, logits)
    target = true_influences(truth, design, masks, effects, pairs)
    scale = logit_slopes(outputs, logits) if truth == "saturating" else np.ones(EXAMPLES)
    members = np.eye(CLASSES)[LABELS] / np.bincount(LABELS)
    seeds = np.arange(models)

    def known(table: Array, labels: Array, units: Array, values: Array) -> Subsets:
        return collapse(masks, values, seeds, Knowledge(labels, units, priors, table))

    examples = known(logits, LABELS, scale, outputs)
    classes = outputs @ members
    of_classes = known(logits @ members, np.arange(CLASSES), members.T @ scale, classes)
    ridge, q = estimate_table(examples, RIDGE)
    posterior, class_posterior = (
        posterior_table(HIERARCHICAL.estimate_subsets(subsets)) for subsets in (examples, of_classes)
    )
    significant = q <= 0.05
    wrong = significant & ((target == 0) | (np.sign(target) != np.sign(ridge.influence)))
    row = [wrong.sum() / max(significant.sum(), 1), _interval_coverage(ridge, target)]
    for result, truths in ((class_posterior, members.T @ target), (posterior, target)):
        row += _posterior_coverage(result, truths)
    sure = posterior.lfsr < 0.05
    claimed = posterior.lfsr[sure].mean() if sure.any() else np.nan
    other_sign = (np.sign(posterior.mean) != np.sign(target))[sure].mean() if sure.any() else np.nan
    return [float(value) for value in (*row, claimed, other_sign)]


def _interval_coverage(estimate: Estimate, target: Array) -> float:
    low, high = intervals(estimate.influence, estimate.stderr, estimate.dof)
    known = np.isfinite(low)
    return float(((low <= target) & (target <= high))[known].mean())


def _posterior_coverage(posterior: Posterior, target: Array) -> list[float]:
    """Return the coverage of all effects, and of the largest twentieth; NaN for these if all effects are zero."""
    inside = np.abs(posterior.mean - target) <= 1.96 * posterior.sd + 1e-12
    large = np.abs(target) >= max(float(np.quantile(np.abs(target), 0.95)), 1e-9)
    return [float(inside.mean()), float(inside[large].mean()) if large.any() else float("nan")]


def print_table(rows: Sequence[tuple[str, str, int, int]], studies: int) -> None:
    """Print the means over studies of each row."""
    print(f"| truth | design | groups | models | {' | '.join(TITLES)} |")
    print(f"|{' --- |' * (4 + len(TITLES))}")
    for truth, design, groups, models in tqdm(rows, unit="row", leave=False, disable=None):
        values = np.array([simulate(truth, design, groups, models, seed) for seed in range(studies)])
        with np.errstate(invalid="ignore"):
            known = np.isfinite(values)
            means = np.where(known, values, 0).sum(0) / known.sum(0)
        cells = " | ".join("" if np.isnan(mean) else f"{mean:.3f}" for mean in means)
        print(f"| {truth} | {design} | {groups} | {models} | {cells} |", flush=True)


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=20, help="simulated studies a row")
    studies = parser.parse_args().studies
    print_table([(truth, design, 36, 64) for truth in TRUTHS for design in DESIGNS], studies)
    print()
    print_table([(truth, "halves", *size) for truth in ("null", "normal", "sparse") for size in SIZES], studies)


if __name__ == "__main__":
    main()
