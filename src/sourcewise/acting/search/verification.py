"""The verification of a search's winner, by models and target examples that no choice has seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from sourcewise.acting.counterfactuals import Interval, gain
from sourcewise.acting.search.candidates import FULL, Candidate, as_keep
from sourcewise.acting.search.trials import Trial
from sourcewise.core.randomness import permutation
from sourcewise.study.measurements import Measurement

POWER = 0.8
LEAST = 6
"""Models of each of the subsets that are compared, at least."""
RANDOM = "random removals"


def models_needed(scores: Sequence[Sequence[float]], difference: float, most: int) -> int:
    """Return how many models of each subset show a difference in score with the power of 80%, at the level of 5%.

    scores: of the models of each of several subsets, from which the noise comes. most: never more than these.
    """
    squares = sum(float(np.var(part, ddof=1)) * (len(part) - 1) for part in scores if len(part) > 1)
    dof = sum(len(part) - 1 for part in scores if len(part) > 1)
    variance = squares / max(dof, 1)
    width = float(stats.norm.isf(0.025) + stats.norm.isf(1 - POWER))
    return int(np.clip(np.ceil(2 * variance * (width / difference) ** 2), LEAST, max(most, LEAST)))


def verification_trials(
    judged: Mapping[str, Candidate], winner: Candidate, seeds: Sequence[int]
) -> dict[str, list[Trial]]:
    """Return the runs that verify some subsets, one of each seed: theirs by name, those of FULL, and of RANDOM.

    RANDOM removes as many groups as the winner, others with each seed; there is none where the winner lacks no group.
    """
    groups = len(winner.keep)
    dropped = [permutation(f"search/{seed}", groups)[: winner.removed] for seed in seeds]
    keeps: dict[str, list[tuple[bool, ...] | None]] = {name: [item.keep] * len(seeds) for name, item in judged.items()}
    keeps[FULL] = [None] * len(seeds)
    if winner.removed:
        keeps[RANDOM] = [as_keep(~np.isin(np.arange(groups), drop)) for drop in dropped]
    return {
        name: [Trial("verify", 0, keep, None, seed) for keep, seed in zip(rows, seeds, strict=True)]
        for name, rows in keeps.items()
    }


@dataclass(frozen=True)
class VerifiedSource:
    """What the winner gains, as models that no choice has seen say, on examples that none has seen.

    Attributes:
        full: gain in score over the full source.
        random: gain in score over the removal of as many random groups; None where it is not asked.
        every: gain over the full source on all examples, those that choices looked at among them.
        output: gain in mean output over the full source.
        models: how many models of the winner there are, of the full source and of random removals.
        level: of the intervals.
    """

    full: Interval
    random: Interval | None
    every: Interval
    output: Interval
    models: tuple[int, int, int]
    level: float = 0.95

    @property
    def is_better(self) -> bool:
        """Whether the interval of the gain over the full source is above zero."""
        return self.full.low is not None and self.full.low > 0


def judge(
    winner: Sequence[Measurement], full: Sequence[Measurement], random: Sequence[Measurement], level: float = 0.95
) -> VerifiedSource:
    """Return the gain of a subset's models over those of the full source, and over random removals if there are any.

    level: of the intervals.
    """
    scores, full_scores, random_scores = ([item.unseen.score for item in part] for part in (winner, full, random))
    return VerifiedSource(
        full=gain(scores, full_scores, level),
        random=gain(scores, random_scores, level) if random else None,
        every=gain([item.every.score for item in winner], [item.every.score for item in full], level),
        output=gain([item.unseen.output for item in winner], [item.unseen.output for item in full], level),
        models=(len(winner), len(full), len(random)),
        level=level,
    )
