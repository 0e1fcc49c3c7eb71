"""How fast influences are estimated, and in how much memory, against peers that run in the same process.

    OMP_NUM_THREADS=2 python benchmarks/estimate_speed.py           # 7,540 models x 1,000 groups x 10,000 examples
    OMP_NUM_THREADS=2 python benchmarks/estimate_speed.py --small   # 1,000 x 200 x 2,000, seconds
    OMP_NUM_THREADS=2 python benchmarks/estimate_speed.py --slope           # how it grows, for docs/scale.md
    OMP_NUM_THREADS=1 python benchmarks/estimate_speed.py --fit             # fit of 2,048 x 1,000 x 2,000, by estimator

Outputs are float16, made block by block (in time that is not counted), so that memory is that of the estimate.
Peers: the bare matrix products that a difference of means with errors needs (float32, everything in place); a loop
of one matrix-vector product an example and side (the way of the published code), on some of the examples and scaled;
scikit-learn's Lasso, an example at a time with a precomputed Gram matrix, at the same penalty.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import logit
from sklearn.linear_model import Lasso

from sourcewise.designs import draw
from sourcewise.estimation.estimators import difference, lasso, ridge
from sourcewise.estimation.fitting import fit
from sourcewise.estimation.lasso import GramProduct, centred_products, shrink
from sourcewise.estimation.moments import Moments, sum_models

BLOCK = 2048
Block = tuple[NDArray[np.bool_], NDArray[np.float16]]


class Study:
    """A planted study whose outputs are made again, block by block, whenever they are asked for."""

    def __init__(self, models: int, groups: int, columns: int) -> None:
        rng = np.random.default_rng(0)
        self.shape = models, groups, columns
        self.masks = np.array([rng.permutation(groups) < groups // 2 for _ in range(models)])
        self.effects = (rng.normal(0, 0.01, (columns, groups)) * (rng.random((columns, groups)) < 0.1)).astype(
            np.float32
        )

    def blocks(self, columns: int | None = None) -> Iterator[Block]:
        """Masks and outputs of BLOCK models at a time, of the first columns only where a number is given."""
        effects = self.effects[:columns]
        for start in range(0, len(self.masks), BLOCK):
            masks = self.masks[start : start + BLOCK]
            noise = np.random.default_rng([1, start]).standard_normal((len(masks), len(effects)), dtype=np.float32)
            yield masks, (0.5 + (masks - np.float32(0.5)) @ effects.T + 0.05 * noise).astype(np.float16)


class Clock:
    """Seconds spent within, summed over uses."""

    def __init__(self, now: Callable[[], float] = time.perf_counter) -> None:
        self.now, self.seconds = now, 0.0

    def __enter__(self) -> None:
        self.start = self.now()

    def __exit__(self, *_: object) -> None:
        self.seconds += self.now() - self.start

    def around(self, blocks: Iterable[Block]) -> Iterator[Block]:
        """Hand blocks on; time what is done with them, but not how they are made."""
        for block in blocks:
            with self:
                yield block


def streamed(study: Study, columns: int) -> Moments:
    """Moments of the study's first columns, with a Gram matrix."""
    return sum_models(study.blocks(columns), study.shape[1], columns, gram=True)


def side_by_side(study: Study) -> dict[str, float]:
    """Seconds of the bare products, the difference of means and ridge.

    The bare products are the two that a difference of means with errors cannot do without.
    """
    _, groups, columns = study.shape
    bare, plain, full = Clock(), Clock(), Clock()
    product = np.empty((columns, groups), np.float32)
    for masks, outputs in study.blocks():
        kept, y = masks.astype(np.float32), outputs.astype(np.float32)
        with bare:
            np.matmul(y.T, kept, out=product)
        np.square(y, out=y)
        with bare:
            np.matmul(y.T, kept, out=product)
    sums = sum_models(plain.around(study.blocks()), groups, columns)
    with plain:
        difference(sums)
    sums = sum_models(full.around(study.blocks()), groups, columns, gram=True)
    with full:
        ridge(sums)
    return {"bare products s": bare.seconds, "difference s": plain.seconds, "ridge s": full.seconds}


def vector_loop(study: Study, columns: int) -> float:
    """Seconds for all examples of one product of the masks, and of their complement, with each one's outputs."""
    kept = study.masks.astype(np.float32)
    dropped = 1 - kept
    count_kept, count_dropped = kept.sum(0), dropped.sum(0)
    outputs = np.concatenate([block for _, block in study.blocks(columns)])
    clock = Clock()
    for column in range(columns):
        with clock:
            y = outputs[:, column].astype(np.float32)
            np.subtract(kept.T @ y / count_kept, dropped.T @ y / count_dropped)
    return clock.seconds * study.shape[2] / columns


def lasso_against_sklearn(study: Study, columns: int, peers: int) -> dict[str, float]:
    """Milliseconds an example of both at the same penalties, and their largest difference."""
    moments = streamed(study, columns)
    fifth = ((masks[::5], outputs[::5]) for masks, outputs in study.blocks(columns))
    held_out = sum_models(fifth, study.shape[1], columns, gram=True)
    chosen, fitted = Clock(), Clock()
    with chosen:
        estimate = lasso(moments, held_out)
    gram, cross = centred_products(moments)
    assert estimate.penalty is not None
    with fitted:
        coefficients = shrink(GramProduct(gram, moments.count), cross, estimate.penalty)
    outputs = np.concatenate([block[:, :peers] for _, block in study.blocks(columns)]).astype(np.float64)
    outputs -= outputs.mean(0)
    features = np.asfortranarray(study.masks - study.masks.mean(0))
    clock, apart = Clock(), 0.0
    for column in range(peers):
        model = Lasso(alpha=float(estimate.penalty[column]), precompute=gram, fit_intercept=False, max_iter=10_000)
        with clock:
            model.fit(features, outputs[:, column])
        apart = max(apart, float(np.abs(model.coef_ - coefficients[column]).max()))
    return {
        "lasso ms/example": 1e3 * fitted.seconds / columns,
        "lasso with choice of penalty ms/example": 1e3 * chosen.seconds / columns,
        "sklearn ms/example": 1e3 * clock.seconds / peers,
        "sklearn over lasso": clock.seconds / peers / (fitted.seconds / columns),
        "largest difference from sklearn": apart,
    }


def slope() -> dict[str, Any]:
    """Core seconds of the difference of means as models, groups and examples double (best of three), and per unit."""
    figures: dict[str, Any] = {}
    measured = []
    for models, groups, columns in ((2048, 10_000, 250), (4096, 10_000, 250), (4096, 20_000, 250), (4096, 20_000, 500)):
        study = Study(models, groups, columns)
        adding, ending = ([Clock(time.process_time) for _ in range(3)] for _ in range(2))
        for more, end in zip(adding, ending, strict=True):
            sums = sum_models(more.around(study.blocks()), groups, columns)
            with end:
                difference(sums)
        more, end = (min(clocks, key=lambda clock: clock.seconds) for clocks in (adding, ending))
        figures[f"{models} x {groups} x {columns}: adding, estimating, core s"] = more.seconds, end.seconds
        measured.append((more.seconds / (models * groups * columns), end.seconds / (groups * columns)))
    figures["adding, core s per 10^12 models x groups x examples"] = 1e12 * measured[-1][0]
    figures["estimating, core s per 10^9 groups x examples"] = 1e9 * measured[-1][1]
    figures["slowest over fastest, per product"] = max(m for m, _ in measured) / min(m for m, _ in measured)
    figures["sums, bytes per group x example"] = (sums.kept_total.nbytes + sums.kept_square.nbytes) / (groups * columns)
    groups = 1_281_167
    for design in ("random", "hadamard"):
        clock = Clock(time.process_time)
        with clock:
            draw(range(groups), {"design": design, "seed": 1, **({"fraction": 0.5} if design == "random" else {})})
        figures[f"drawing a {design} subset of {groups} groups, core s"] = clock.seconds
    return figures


def fit_alone(name: str) -> None:
    """Print the CPU seconds and the memory of `fit` by one estimator, with all that a hierarchy can use.

    A hierarchy makes its posterior at once. Measured: ridge 8 s and 0.53 GiB, hierarchical 12 s and 0.63 GiB, auto,
    which takes lasso here, 29 s and 0.60 GiB.
    """
    study, classes = Study(2048, 1000, 2000), 10
    outputs = np.concatenate([block for _, block in study.blocks()]).clip(0.01, 0.99)
    labels = np.arange(2000) % classes
    priors = {"effects": np.array([study.effects[labels == label].mean(0) for label in range(classes)])}
    known = {"logits": logit(outputs.astype(np.float32)).astype(np.float16), "labels": labels, "priors": priors}
    before, clock = peak(), Clock(time.process_time)
    with clock:
        fit(study.masks, outputs, name, **({} if name == "ridge" else known))
    print(f"{name:14} {clock.seconds:5.1f} CPU s, peak {peak():.2f} GiB, {before:.2f} of these before")


def peak() -> float:
    """Peak memory of this process so far, GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def main() -> None:
    """Measure, print a table, and write it as JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="a size that takes seconds")
    parser.add_argument("--slope", action="store_true", help="only how time grows with models, groups and examples")
    parser.add_argument("--fit", nargs="?", const="all", help="only `fit`, by this estimator or by several")
    options = parser.parse_args()
    if options.fit == "all":  # each in a process of its own, which has a peak of its own
        for name in ("ridge", "hierarchical", "auto"):
            subprocess.run([sys.executable, __file__, "--fit", name], check=True)
        return
    if options.fit:
        fit_alone(options.fit)
        return
    figures = slope() if options.slope else speed(options.small)
    for name, value in figures.items():
        shown = ", ".join(f"{part:.3g}" for part in (value if isinstance(value, tuple) else (value,)))
        print(f"{name:60} {shown}")


def speed(small: bool) -> dict[str, Any]:
    """Return the figures of a study of one size."""
    study = Study(*((1_000, 200, 2_000) if small else (7_540, 1_000, 10_000)))
    figures: dict[str, Any] = {"models x groups x examples": study.shape, "memory before GiB": peak()}
    figures |= side_by_side(study)
    figures["memory peak GiB"] = peak()
    figures["vector loop s"] = vector_loop(study, columns=100)
    figures["difference over bare products"] = figures["difference s"] / figures["bare products s"]
    figures["vector loop over difference"] = figures["vector loop s"] / figures["difference s"]
    figures["ridge over difference"] = figures["ridge s"] / figures["difference s"]
    figures |= lasso_against_sklearn(study, columns=500, peers=20)
    return figures


if __name__ == "__main__":
    main()
