"""Are leaked target images found? Precision and recall against the number of models, on 20 planted copies.

    # 600 models; about 5 minutes on two cores; then about a minute
    python train.py --config-dir benchmarks/conf -m experiment=planted_leaks logger=none
    python benchmarks/leakage.py

Flagged at a false discovery rate of 5%: by influence alone, any pair of a source and a target example; by similarity
alone (`copies.nearest_images`), every source image with its nearest target image; by both, Fisher's combination of the
p-value of similarity and that of the pair's influence among all such nearest pairs (normal, by median and MAD), since
what is merely similar helps too. Similarity needs no models, so it is also tried on further plantings.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
import planted
from numpy.typing import NDArray
from scipy import stats

from sourcewise.acting.copies import nearest_images
from sourcewise.data import embedded
from sourcewise.estimation.collapse import collapse
from sourcewise.estimation.estimators import difference
from sourcewise.estimation.inference import qvalues
from sourcewise.records.reading import Records

COUNTS = (75, 150, 300, 600)
FURTHER = range(11, 31)
"""Plantings that the search for copies was not chosen with."""
Pairs = set[tuple[int, int]]


def plant(seed: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8], Pairs]:
    """Images of the source and the target, and which pairs (source, target) are copies."""
    source, target = planted.leaks(seed=seed), embedded.digits("test")
    rows = {int(id): row for row, id in enumerate(target.ids)}
    originals = source.columns["planted"]
    truth = {(int(row), rows[int(originals[row])]) for row in np.flatnonzero(originals >= 0)}
    return source.pixels.numpy(), target.pixels.numpy(), truth


def print_row(name: str, flagged: Pairs, truth: Pairs) -> None:
    """Print one line of the table."""
    count, right = len(flagged), len(flagged & truth)
    precision = f"{right / count:.2f}" if count else "-"
    print(f"  {name:<18} {count:>7} {right:>5} {count - right:>6} {precision:>10} {right / len(truth):>7.2f}")


def pairs(p: NDArray[Any], nearest: NDArray[Any]) -> Pairs:
    """Source images whose q-value is at most 5%, with their nearest."""
    return {(int(row), int(nearest[row])) for row in np.flatnonzero(qvalues(p) <= 0.05)}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", default="outputs/planted_leaks/runs")
    source, target, truth = plant(0)
    nearest, similar = nearest_images(source, target)
    items = [item for item in Records(parser.parse_args().records) if item.header.is_random]
    masks = np.array([item.mask for item in items])
    outputs = np.array([item.targets["digits"].prob for item in items], np.float64)
    print(f"  {'flagged by':<18} {'flagged':>7} {'right':>5} {'false':>6} {'precision':>10} {'recall':>7}")
    print_row("similarity", pairs(similar, nearest), truth)
    for count in [count for count in COUNTS if count <= len(masks)]:
        estimate = difference(collapse(masks[:count], outputs[:count]).moments())
        z = estimate.influence / np.maximum(estimate.stderr, 1e-12)  # [target, source]
        z = np.where(estimate.stderr > 0, z, 0)
        flagged = qvalues(2 * stats.norm.sf(np.abs(z))) <= 0.05
        on_nearest = z[nearest, np.arange(len(nearest))]
        spread = stats.median_abs_deviation(on_nearest, scale="normal")
        chance = stats.norm.sf((on_nearest - np.median(on_nearest)) / spread)
        both = stats.chi2.sf(-2 * (np.log(np.maximum(similar, 1e-300)) + np.log(chance)), 4)
        print(f"{count} models")
        print_row("influence", {(int(s), int(t)) for t, s in np.argwhere(flagged & (z > 0))}, truth)
        top = np.argsort(-z, axis=None)[: len(truth)]
        print_row(f"its {len(truth)} largest z", {(int(i % z.shape[1]), int(i // z.shape[1])) for i in top}, truth)
        print_row("both", pairs(both, nearest), truth)
    print(f"similarity on {len(FURTHER)} further plantings")
    results = []
    for seed in FURTHER:
        source, target, truth = plant(seed)
        nearest, p = nearest_images(source, target)
        flagged_pairs = pairs(p, nearest)
        results.append((len(flagged_pairs & truth), len(flagged_pairs - truth)))
    right, false = np.mean(results, axis=0)
    print(f"  right: {right:.1f} of {len(truth)} (from {min(results)[0]} to {max(results)[0]}), false: {false:.1f}")


if __name__ == "__main__":
    main()
