"""Curation: a proposal of groups to remove from the models there are, with what it should gain and how sure that is.

Groups are ranked by the effects that a hierarchy expects of them, from the models, and from priors such as label
mapping where these fit. They are ranked on some of the models, and what removing the worst N of them brings is
estimated on the others, so that a group which came out badly by chance pays for it (the winner's curse). Many random
splits are put together as in double machine learning: the median over splits, with a variance that holds the spread
between them (Chernozhukov et al., The Econometrics Journal 21, 2018, section 3.4). What is judged is a ranking on four
fifths of the models.

How many groups to remove is chosen by these gains too, so their intervals hold for all numbers at once: a claim about
the best of many is as sure as one alone. Where no removal gains more than its error, none is proposed.

Subsets of one size compare groups with each other, not with their absence: they show the gain over removing as many
random groups. What those would cost is taken from models of the full source, on the straight line from the random
subsets to them: near the full source both the gain and the cost are smaller than on that line, so only retraining
verifies.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sourcewise.acting.counterfactuals import FEWEST, Interval, gain, unit_means
from sourcewise.core.errors import SourcewiseError
from sourcewise.core.overrides import quote
from sourcewise.core.results import json_name
from sourcewise.designs.files import read_ranking, write_names, write_ranking
from sourcewise.estimation.arrays import Array, Index, Mask
from sourcewise.estimation.collapse import Subsets
from sourcewise.estimation.inference import Mean
from sourcewise.estimation.moments import GRAM_GROUPS
from sourcewise.study.collect import RANDOM, CounterfactualRun, Study
from sourcewise.study.levels import TablesByTarget, weighted_classes
from sourcewise.study.outputs import UNITS
from sourcewise.study.rankings import group_scores
from sourcewise.study.recipes import train_command

FOLDS = 5
SPLITS = 10
DRAWS = 4000
"""Draws from which the width of simultaneous intervals comes."""
SEEDS = 20
"""Trainings of each subset that the verification asks for."""

NO_FULL = (
    "curate: what removing groups costs is known only from models of the full source, and there are fewer than two"
    " among the records"
)


@dataclass(frozen=True)
class ExpectedGain:
    """Gain in mean output that a removal should bring, with 95% intervals that hold for all numbers of groups at once.

    Attributes:
        full: over the full source.
        random: over removing as many random groups.
        removed: of how many groups, the worst ones; what gains most where nothing is proposed.
    """

    full: Interval
    random: Interval
    removed: int


@dataclass(frozen=True)
class Proposal:
    """A proposal by positions of the G groups.

    Attributes:
        keep: bool[G], the groups to keep.
        scores: float[G], which rank the groups, the worst with the lowest.
    """

    keep: Mask
    scores: Array
    expected: ExpectedGain

    @property
    def removed(self) -> int:
        """How many groups are removed."""
        return int((~self.keep).sum())


@dataclass(frozen=True)
class VerifiedGain:
    """Gain that retraining without the proposed groups brought on one target.

    Attributes:
        full: in score, over the full source, on target examples that the proposal did not look at.
        random: as `full`, over removing as many random groups; None where such runs are missing.
        every: as `full`, on all target examples.
        output: as `full`, in mean output.
        runs: independent runs without the groups.
        runs_full: independent runs of the full source.
    """

    full: Interval
    random: Interval | None
    every: Interval
    output: Interval
    runs: int
    runs_full: int


@dataclass(frozen=True)
class Curation:
    """A proposal by names, what it should gain and what it gained.

    Attributes:
        weights: of the targets.
        drop: groups to remove, the worst first; none where no removal should gain.
        keep: groups to keep, the worst first.
        verified: gain by retraining, by target; None where it is not verified yet. Empty where nothing is removed.
        command: the command that trains the models for that.
        ranking: score of every group.
        mark: hash of the random models and the weights that the proposal came from.
    """

    weights: Mapping[str, float]
    drop: tuple[str, ...]
    keep: tuple[str, ...]
    expected: ExpectedGain
    verified: Mapping[str, VerifiedGain | None]
    command: str
    ranking: Mapping[str, float] = json_name(None)
    mark: str = json_name(None)


def propose(
    subsets: Subsets, shares: Array, full: Sequence[float], remove: int = 0, ranking: Array | None = None
) -> Proposal:
    """Propose groups to remove so that a mean output rises.

    Args:
        subsets: random subsets, with the mean outputs float[S, C] of classes.
        shares: float[C], share of each class in the mean output.
        full: mean output of each model of the full source.
        remove: how many groups; 0: as many as have the largest gain less one standard error, or none where that is not
            above zero. No more than the random subsets lack on average: beyond that, they hold no evidence.
        ranking: float[G], scores of an earlier proposal, which decide which groups are the worst; None: fitted anew.

    Raises:
        SourcewiseError: fewer than two models of the full source, fewer than twenty random subsets, or more groups to
            remove than they hold evidence of.
    """
    if len(full) < 2:
        raise SourcewiseError(NO_FULL)
    units = subsets.units
    if units < 20:
        raise SourcewiseError(
            f"curate: {units} random subsets are too few to rank on some and judge on others; train 20"
        )
    scores = group_scores(subsets, shares) if ranking is None else ranking
    over_random = gains(subsets, shares)
    groups = subsets.masks.groups
    reach = groups - subsets.masks.sizes().mean()
    slope = Mean.from_runs(full) - Mean.from_runs(subsets.outputs @ shares)
    over_full = over_random - slope.scaled(np.arange(1.0, groups) / reach)
    most = max(1, min(int(np.isfinite(scores).sum()), round(reach)))
    if remove > most:
        raise SourcewiseError(f"remove={remove}: these random subsets hold evidence of removing {most} groups at most")
    errors = np.sqrt(over_full.variance)
    best = int(np.argmax((over_full.value - errors)[:most])) + 1
    number = remove or best * int(over_full.value[best - 1] > errors[best - 1])
    worst_first = np.argsort(scores, kind="stable")  # NaN last
    keep = np.ones(groups, dtype=bool)
    keep[worst_first[:number]] = False
    considered = number or best
    width = simultaneous_width(subsets, worst_first[:most], float(over_full.dof[considered - 1]))
    above_full, above_random = (_interval(gain, considered, width) for gain in (over_full, over_random))
    if len(full) < FEWEST:
        above_full = Interval(above_full.value, None, None)
    expected = ExpectedGain(above_full, above_random, considered)
    return Proposal(keep, scores, expected)


def _interval(gains_by_number: Mean, number: int, width: float) -> Interval:
    """Return the gain of removing a number of groups, with the interval of a width in standard errors."""
    value, half = float(gains_by_number.value[number - 1]), width * float(gains_by_number.variance[number - 1]) ** 0.5
    return Interval(value, value - half, value + half)


def simultaneous_width(subsets: Subsets, worst_first: Index, dof: float, seed: int = 0) -> float:
    """Return the half-width, in standard errors, of 95% intervals that hold for all numbers of groups at once.

    The gain of removing the worst N groups comes from the slope of outputs on how many of these are kept. The largest
    of these slopes under noise, in standard errors and with `dof` degrees of freedom, is below the width in 97.5% of
    draws.
    """
    kept, _ = _kept_counts(subsets, worst_first)
    scale = np.sqrt((kept**2).sum(0))
    rng = np.random.default_rng(seed)
    largest = (rng.normal(size=(DRAWS, len(kept))) @ (kept[:, scale > 1e-6] / scale[scale > 1e-6])).max(1)
    return float(np.quantile(largest / np.sqrt(rng.chisquare(dof, DRAWS) / dof), 0.975))


def gains(subsets: Subsets, shares: Array, seed: int = 0) -> Mean:
    """Return the gain of removing the worst N of G groups over removing N random ones, for N = 1, 2, ..., G - 1.

    subsets, shares: as in `propose`. A group that every model kept, or dropped, counts as the average one.
    """
    rng, units = np.random.default_rng(seed), subsets.units
    estimates = []
    for _ in range(SPLITS):
        fold = rng.permutation(units) % FOLDS
        splits = [(np.flatnonzero(fold != f), np.flatnonzero(fold == f)) for f in range(FOLDS)]
        parts = np.array([_held_out_gain(subsets.take(train), subsets.take(test), shares) for train, test in splits])
        # Without effects, two folds that rank and judge each other give the same gain: that doubles the variance.
        estimates.append([parts[:, 0].mean(0), 2 * parts[:, 1].sum(0) / FOLDS**2])
    values, variances = np.array(estimates).swapaxes(0, 1)
    middle = np.median(values, axis=0)
    variance = np.median(variances + (values - middle) ** 2, axis=0)
    return Mean(middle, variance, np.full(len(middle), max(units - 3 * FOLDS, 1.0)))


def _held_out_gain(train: Subsets, test: Subsets, shares: Array) -> tuple[Array, Array]:
    """Return the gain over random of the ranking on `train`, as estimated on `test`, and its variance, float[G - 1].

    The output of a test subset falls or rises with how many of the worst N it keeps. What `train` predicts is
    subtracted from the outputs first, and added to the estimate: that changes no expectation, and leaves less noise.
    """
    slopes = np.nan_to_num(group_scores(train, shares))
    slopes = slopes - slopes.mean()
    order = np.argsort(slopes, kind="stable")[:-1]
    kept, base = _kept_counts(test, order)
    masks = test.masks.unpack()
    y = test.outputs @ shares - masks @ slopes
    y -= base @ (base.T @ y)
    square = np.maximum((kept**2).sum(0), 1e-12)
    slope = kept.T @ y / square
    noise = ((y[:, None] - kept * slope) ** 2).sum(0) / max(len(y) - base.shape[1] - 1, 1)
    count = np.arange(1, len(order) + 1)
    weight = count * (1 - count / masks.shape[1])  # from a slope to a sum over groups, about the mean of all
    return -(slopes[order].cumsum() + weight * slope), weight**2 * noise / square


def _kept_counts(subsets: Subsets, worst_first: Index) -> tuple[Array, Array]:
    """Return how many of the worst N groups each subset keeps, float[S, N], about what its size explains.

    With it comes the basis of that, orthonormal [S, 1 or 2]: the mean, and size where subsets have several.
    """
    masks = subsets.masks.unpack()
    kept: Array = masks[:, worst_first].astype(np.float64).cumsum(1)
    sizes = masks.sum(1).astype(np.float64)
    sizes -= sizes.mean()
    norm = np.sqrt(sizes @ sizes)
    parts = [np.full(len(masks), len(masks) ** -0.5), *([sizes / norm] if norm > 1e-9 else [])]
    base: Array = np.array(parts).T
    return kept - base @ (base.T @ kept), base


def target_weights(value: Any, targets: Sequence[str], setting: str = "curate") -> dict[str, float]:
    """Return weights of targets that sum to one, from the value of a setting: true, or a mapping.

    Raises SourcewiseError for unknown targets and bad weights.
    """
    weights = dict.fromkeys(targets, 1.0) if value is True else value
    if not isinstance(weights, Mapping) or not weights:
        raise SourcewiseError(f"{setting}={value}: give true, or weights of targets as '{setting}={{{targets[0]}: 1}}'")
    for name, weight in weights.items():
        if name not in targets:
            raise SourcewiseError(f"{setting}.{name}: no such target; the targets are {', '.join(targets)}")
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not weight > 0:
            raise SourcewiseError(f"{setting}.{name}={weight}: a weight must be a number above 0")
    return {name: weight / sum(weights.values()) for name, weight in weights.items()}


def curate(
    study: Study, setting: Any, out: Path, remove: int | None = None, priors: TablesByTarget | None = None
) -> Curation:
    """Propose groups to remove, and judge the proposal by the models that verify it.

    An earlier proposal stays as long as the random models and the weights are those that it came from: runs that
    verify it do not change it.

    Args:
        study: with the models of chosen subsets from all places.
        setting: `curate`, as in `target_weights`.
        out: folder of results, where an earlier proposal may be and this one will be written.
        remove: how many groups; None: as many as the earlier proposal removes, or as should gain.
        priors: what else is known of the groups, by target.

    Raises SourcewiseError as `target_weights` and `propose` do, and for outputs or numbers of groups that cannot be
    curated.
    """
    weights = target_weights(setting, list(study.targets))
    if study.output not in UNITS:
        raise SourcewiseError(f"curate: it needs outputs of every example; choose outputs={', '.join(UNITS)}")
    if study.groups > GRAM_GROUPS:
        raise SourcewiseError(
            f"curate: {study.groups} groups are too many to rank by ridge; group them ({GRAM_GROUPS} at most)"
        )
    zero: Array = np.zeros(study.models)
    outputs = sum((weight * study.targets[name].overall_means for name, weight in weights.items()), zero)
    runs = [run for run in study.counterfactual_runs if not run.study]
    full = [sum(weights[t] * run.values[t].choosing.output for t in weights) for run in runs if run.mask.all()]
    if len(full) < 2:
        more = train_command(study.header, "subset=full", "seed=range(0,5)")
        raise SourcewiseError(f"{NO_FULL}; train some: {more}")
    bits, named_weights = np.packbits(study.masks.unpack()), repr(sorted(weights.items()))
    mark = hashlib.sha256(bits.tobytes() + outputs.tobytes() + named_weights.encode()).hexdigest()[:16]
    names = study.group_names
    ranking, removed = _earlier_proposal(out, mark, names)
    subsets, shares = weighted_classes(study, weights, priors or {}, study.split)
    proposal = propose(subsets, shares, full, remove or removed, ranking)
    order = np.argsort(proposal.scores, kind="stable")
    keep, drop = (tuple(names[i] for i in order if proposal.keep[i] == side) for side in (True, False))
    removed = proposal.removed
    verify = ["subset=ranked", f"subset.ranking={quote(str(out / 'ranking.csv'))}"]
    verify += ["subset.order=worst,random", f"subset.remove=0,{removed}", f"seed=range(0,{SEEDS})"]
    return Curation(
        weights=weights,
        drop=drop,
        keep=keep,
        expected=proposal.expected,
        verified={name: _verify(runs, proposal, name) for name in weights if removed},
        command=train_command(study.header, *verify) if removed else "",
        ranking=dict(zip(names, proposal.scores.tolist(), strict=True)),
        mark=mark,
    )


def write(out: Path, curation: Curation) -> None:
    """Write keep.txt, drop.txt and ranking.csv, for subset=listed and subset=ranked."""
    keep, drop = curation.keep, curation.drop
    write_names(out / "keep.txt", f"{len(keep)} groups to keep # {curation.mark}", keep)
    write_names(out / "drop.txt", f"{len(drop)} groups to remove, the worst first # {curation.mark}", drop)
    write_ranking(out / "ranking.csv", curation.ranking)


def _earlier_proposal(out: Path, mark: str, names: Sequence[str]) -> tuple[Array | None, int]:
    """Return ranking and number of the groups that an earlier proposal removes, if its mark says: of the same models.

    Else, and where its files are not both there, return None and 0. Full runs that verify a proposal change what
    mappings expect, and must not change it.
    """
    drop, ranking = out / "drop.txt", out / "ranking.csv"
    lines = drop.read_text(encoding="utf-8").splitlines() if drop.is_file() else []
    if not lines or not lines[0].endswith(f"# {mark}") or not ranking.is_file():
        return None, 0
    scores = read_ranking(ranking, None).scores
    if scores.keys() != set(names):
        return None, 0
    return np.array([scores[name] for name in names]), len(lines) - 1


def _verify(runs: Sequence[CounterfactualRun], proposal: Proposal, target: str) -> VerifiedGain | None:
    """Return what retraining gained on a target; None where runs are missing."""
    kept = [run for run in runs if np.array_equal(run.mask, proposal.keep)]
    full = [run for run in runs if run.mask.all()]
    random = [run for run in runs if run.curve == RANDOM and (~run.mask).sum() == proposal.removed]
    (scores, outputs), (full_scores, full_outputs) = unit_means(kept, target), unit_means(full, target)
    random_scores, _ = unit_means(random, target)
    if min(len(scores), len(full_scores)) < 2:
        return None
    return VerifiedGain(
        full=gain(scores, full_scores),
        random=gain(scores, random_scores) if len(random_scores) > 1 else None,
        every=gain(unit_means(kept, target, "every")[0], unit_means(full, target, "every")[0]),
        output=gain(outputs, full_outputs),
        runs=len(scores),
        runs_full=len(full_scores),
    )
