"""What to expect of subsets that were trained a few times each: similar subsets say much about each other.

A Gaussian process over subsets, whose covariance falls with the share of groups in which two differ. Its variance, its
length and the noise of a model maximise the marginal likelihood (Rasmussen and Williams, Gaussian Processes for Machine
Learning, 2006, chapters 2 and 5). With one model of each of a dozen nested subsets the best one can hardly be told, but
the best ranking and about the best size can.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sourcewise.estimation.arrays import Array, Mask

RATIOS = (0.01, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
"""Variances of subsets that are tried, in units of the noise of a model."""
LENGTHS = (0.05, 0.2, 0.8, 3.0, 10.0)
"""Shares of the groups over which subsets become unlike, that are tried; over the longest ones, groups add up."""


def expected(masks: Mask, values: Sequence[Sequence[float]]) -> Array:
    """Return the expected value of each subset, float[n].

    masks: bool[n, G]. values: of the models of each subset, one at least.
    """
    count = np.array([len(part) for part in values], dtype=np.float64)
    means = np.array([np.mean(part) for part in values])
    within = sum(float(((np.array(part) - mean) ** 2).sum()) for part, mean in zip(values, means, strict=True))
    apart = (masks[:, None] != masks[None]).mean(2)
    best, result = -np.inf, means
    for ratio in RATIOS:
        for length in LENGTHS:
            signal = ratio * np.exp(-apart / length)
            inverse = np.linalg.inv(signal + np.diag(1 / count))
            weight = inverse.sum()
            centre = float(inverse.sum(0) @ means / weight)
            rest = means - centre
            noise = (float(rest @ inverse @ rest) + within) / max(count.sum() - 1, 1)
            if noise <= 0:  # all values alike
                return means
            sign = np.linalg.slogdet(inverse)[1]
            likelihood = 0.5 * (sign - np.log(weight) - (count.sum() - 1) * np.log(noise))
            if likelihood > best:
                best, result = likelihood, centre + signal @ inverse @ rest
    return result
