"""Brittle examples: those that one source group harms, or that depend on one, and what removing the group does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr
from scipy.special import expit

from sourcewise.acting.harm import add_constant
from sourcewise.estimation.arrays import Array
from sourcewise.estimation.collapse import Knowledge, collapse
from sourcewise.estimation.difference import DIFFERENCE
from sourcewise.estimation.hierarchical import HIERARCHICAL
from sourcewise.estimation.inference import Mean
from sourcewise.estimation.moments import GRAM_GROUPS
from sourcewise.estimation.shrinkage import Posterior
from sourcewise.estimation.tables import posterior_table
from sourcewise.study.baselines import rank_correlation
from sourcewise.study.collect import NO_RUNS, ExampleRuns, Study, StudyTarget
from sourcewise.study.effects import ExampleEffect, example_effect
from sourcewise.study.levels import Tables, class_shares
from sourcewise.study.outputs import Outputs

RUNS = 50
"""Models that predictions start from, at most."""


@dataclass(frozen=True, kw_only=True)
class RealChange:
    """What runs without a group show of one example, against runs with all groups.

    Attributes:
        change: of the mean output.
        error: its standard error over runs.
        before: share of the runs with all groups that are right.
        after: share of the runs without the group that are right.
        runs: how many were without the group.
    """

    change: float
    error: float
    before: float
    after: float
    runs: int


@dataclass(frozen=True, kw_only=True)
class BrittleExample(ExampleEffect):
    """An example and the group that moves it most.

    Attributes:
        mean: its mean output over the random subsets.
        predicted: change of the mean output on removing the group; positive where that raises it.
        real: the change in real runs; None where they are missing.
    """

    mean: float
    predicted: float
    real: RealChange | None


@dataclass(frozen=True, kw_only=True)
class BrittleSide:
    """Examples that one group harms, or that it supports, the most brittle first; None with fewer than three compared.

    Attributes:
        compared: how many of them have a real change.
        spearman: rank correlation of predicted and real changes over these.
        predicted: mean predicted change.
        real: mean real change.
        spread: standard deviation of the real changes.
        noise: root mean square of their standard errors.
    """

    examples: tuple[BrittleExample, ...]
    compared: int
    spearman: float | None = None
    predicted: float | None = None
    real: float | None = None
    spread: float | None = None
    noise: float | None = None


@dataclass(frozen=True, kw_only=True)
class BrittleExamples:
    """Both sides; `base` is how many models of the full source predictions start from."""

    base: int
    harmed: BrittleSide
    supported: BrittleSide


def find_brittle(study: Study, name: str, dataset: xr.Dataset, priors: Tables, most: int = 100) -> BrittleExamples:
    """Return the `most` examples that one group harms most, and those that depend on one group most.

    Near 0 and 1 a probability hardly moves, and models of the full source are nearer to 1 than those of subsets. So
    effects are on the logit scale. They are those that a hierarchy expects, since of many noisy ones the largest are
    mostly noise. They are taken from every one of the models that predictions start from: models of the full source
    where there are four or more, which identify the constant of effects too; else, of subsets.

    Args:
        study: the models.
        name: of the target.
        dataset: the influences on it.
        priors: what else is known of the groups.
        most: examples on each side.
    """
    target, full = study.targets[name], study.full_runs.get(name, NO_RUNS)
    expected = _expected_effects(study, target, study.in_precision(name, target.logits), priors)
    effect, error, from_full = expected.mean, expected.sd, len(full) >= 4
    if from_full:
        # Some for what is predicted, the others for what is real: what they shared would make them agree.
        chosen = np.arange(1, min(len(full), 2 * RUNS), 2)
        start = full[chosen].logits.astype(np.float64)
        masks = np.ones((len(start), study.groups), np.bool_)
        full = full[np.setdiff1d(np.arange(len(full)), chosen)]
        if len(np.unique(study.masks.sizes())) == 1:
            effect, _ = add_constant(
                effect,
                error,
                study.masks.kept_share(),
                Mean.from_runs(start) - Mean.from_runs(target.logits.astype(np.float64)),
            )
    else:
        models = np.linspace(0, study.models - 1, min(study.models, RUNS)).astype(int)
        start, masks = target.logits[models].astype(np.float64), study.masks[models].unpack()
    effect = np.nan_to_num(effect)
    inverse: Callable[[Array], Array] = expit if study.output == "prob" else np.positive
    means, runs_without = target.examples.mean(0, dtype=np.float64), study.runs_without.get(name, {})

    def side(sign: int) -> BrittleSide:
        groups = (-sign * effect).argmax(1)
        # Models without the group count with the change of adding it, in reverse.
        size, kept = effect[np.arange(len(effect)), groups], masks[:, groups]
        change = (inverse(start - kept * size) - inverse(start + ~kept * size)).mean(0)
        rows = np.argsort(-sign * change, kind="stable")[:most]
        return _side(
            [
                BrittleExample(
                    **vars(example_effect(dataset, row, int(groups[row]))),
                    mean=float(means[row]),
                    predicted=float(change[row]),
                    real=real_change(full, runs_without.get(int(groups[row]), NO_RUNS), row),
                )
                for row in rows[sign * change[rows] > 0].tolist()
            ]
        )

    return BrittleExamples(base=len(start) if from_full else 0, harmed=side(1), supported=side(-1))


def real_change(full: ExampleRuns, without: ExampleRuns, row: int) -> RealChange | None:
    """Compare runs without one group with runs of all groups on the example at position `row`.

    None when there are fewer than two of either.
    """
    if min(len(full), len(without)) < 2:
        return None
    before, after = (Mean.from_runs(runs.values[:, row].astype(np.float64)) for runs in (full, without))
    change = after - before
    return RealChange(
        change=float(change.value),
        error=float(np.sqrt(change.variance)),
        before=float(full.correct[:, row].mean(dtype=np.float64)),
        after=float(without.correct[:, row].mean(dtype=np.float64)),
        runs=len(without),
    )


def _expected_effects(study: Study, target: StudyTarget, logits: Outputs, priors: Tables) -> Posterior:
    """Return what to expect of the effects on examples, float[E, G], in units of the logit; NaN where unknown."""
    present = target.class_sizes > 0
    tables = {key: table[present].astype(np.float64) for key, table in priors.items()}
    knowledge = Knowledge(class_shares(target).argmax(1), np.ones(logits.shape[1]), tables)
    subsets = collapse(study.masks, logits, study.seeds, knowledge)
    regresses = study.groups <= GRAM_GROUPS and subsets.units >= 4
    estimator = HIERARCHICAL if regresses else DIFFERENCE
    return posterior_table(estimator.estimate_subsets(subsets, second_pass=False))


def _side(examples: Sequence[BrittleExample]) -> BrittleSide:
    pairs = [(example.predicted, example.real) for example in examples if example.real]
    if len(pairs) <= 2:
        return BrittleSide(examples=tuple(examples), compared=len(pairs))
    predicted = np.array([value for value, _ in pairs])
    change, error = np.array([(real.change, real.error) for _, real in pairs]).T
    return BrittleSide(
        examples=tuple(examples),
        compared=len(pairs),
        spearman=rank_correlation(predicted, change),
        predicted=float(predicted.mean()),
        real=float(change.mean()),
        spread=float(change.std(ddof=1)),
        noise=float(np.sqrt((error**2).mean())),
    )
