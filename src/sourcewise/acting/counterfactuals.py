"""What really happens without chosen groups: models of ranked, listed and full subsets, put side by side.

Runs of different subsets share no randomness, whatever their seeds (see `randomness.derive_seed`): they are
independent, and pairing them by seed would gain nothing. Intervals are Student's t over seeds; differences are Welch's.
Two runs have none: theirs would be 13 times as wide as they lie apart, and the next run would change it at will.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Literal

import numpy as np

from sourcewise.core.messages import first_names
from sourcewise.designs.chosen_designs import ORDERS
from sourcewise.estimation.arrays import Array
from sourcewise.estimation.inference import Mean
from sourcewise.study.collect import RANDOM, CounterfactualRun

FEWEST = 3
"""Runs from which on a mean has an interval."""


@dataclass(frozen=True)
class Interval:
    """A value with its 95% interval; the ends are None for fewer than three runs, on one side of a difference too.

    Where it may be of another level, its holder says so.
    """

    value: float
    low: float | None
    high: float | None

    @classmethod
    def around(cls, mean: Mean, runs: int, level: float = 0.95) -> Interval:
        """Return the interval of a mean of runs, or of a difference of means, of which the smaller has so many."""
        low, high = map(float, mean.interval(level)) if runs >= FEWEST else (None, None)
        return cls(float(mean.value), low, high)

    def in_points(self) -> str:
        """Return a share as text, in points, with its interval where that is known."""
        ends = "" if self.low is None or self.high is None else f" ({100 * self.low:+.2f} to {100 * self.high:+.2f})"
        return f"{100 * self.value:+.2f}{ends}"


@dataclass(frozen=True, kw_only=True)
class RemovalPoint:
    """Models without a number of groups.

    Attributes:
        removed: how many groups they lack.
        runs: how many models there are.
        score: over seeds; for random removals, over subsets; on target examples that rankings of the study do not see.
        full: gain in score over the full source; None where fewer than two models of it are there.
        random: gain in score over random removal of as many groups; None as for `full`.
        every: as `full`, on all target examples.
        output: mean output, as `score`.
        predicted: mean output that influences predict; None where there is nothing to predict it from.
    """

    removed: int
    runs: int
    score: Interval
    full: Interval | None
    random: Interval | None
    every: Interval | None
    output: Interval
    predicted: float | None = None


@dataclass(frozen=True, kw_only=True)
class ListedPoint(RemovalPoint):
    """Models of one listed subset, named by its groups."""

    name: str


@dataclass(frozen=True)
class RemovalCurve:
    """Models over the number of groups that are removed, in one order."""

    name: str
    points: tuple[RemovalPoint, ...]


@dataclass(frozen=True)
class Comparison:
    """All models of chosen subsets of one study, on one target.

    Attributes:
        study: as in `CounterfactualRun`.
        full: models of the full source; None without any.
        curves: of ranked subsets.
        listed: listed subsets, the best score first.
    """

    study: str
    target: str
    full: RemovalPoint | None
    curves: tuple[RemovalCurve, ...]
    listed: tuple[ListedPoint, ...]

    @property
    def points(self) -> list[tuple[str, RemovalPoint]]:
        """All points, each with the name of its subset or curve."""
        named: list[tuple[str, RemovalPoint]] = [("full source", self.full)] if self.full else []
        named += [(curve.name, point) for curve in self.curves for point in curve.points]
        return named + [(point.name, point) for point in self.listed]


def compare_all(
    runs: Sequence[CounterfactualRun], names: Sequence[str], slopes: Mapping[str, Array]
) -> tuple[Comparison, ...]:
    """Compare the runs of every study and target that has runs of less than the full source.

    Args:
        runs: of all studies.
        names: of the groups.
        slopes: fitted influences float[groups], by target of the influences' study.
    """
    keys = dict.fromkeys((run.study, target) for run in runs for target in run.values)
    comparisons = []
    for study, target in sorted(keys, key=lambda key: key[0]):
        chosen = [run for run in runs if run.study == study and target in run.values]
        if not all(run.mask.all() for run in chosen):
            comparisons.append(compare_runs(chosen, target, names, None if study else slopes.get(target), study))
    return tuple(comparisons)


def compare_runs(
    runs: Sequence[CounterfactualRun],
    target: str,
    names: Sequence[str],
    slopes: Array | None = None,
    study: str = "",
) -> Comparison:
    """Compare the runs of one study on one target.

    Where `slopes` float[groups] are given, the fitted influences, a point has what they predict of the output: that of
    random removal as it is, plus what they predict for these groups in place of average ones. Subsets of one size
    predict no more.
    """
    full = [run for run in runs if run.mask.all()]
    places: dict[tuple[str, Hashable], list[CounterfactualRun]] = defaultdict(list)
    for run in runs:
        if removed := int((~run.mask).sum()):
            places[run.curve, removed if run.curve else run.mask.tobytes()].append(run)
    curves = {curve for curve, _ in places} - {""}

    full_scores, _ = unit_means(full, target)
    full_every, _ = unit_means(full, target, "every")

    def point(chosen: Sequence[CounterfactualRun]) -> RemovalPoint:
        removed = ~np.array([run.mask for run in chosen])
        count = int(removed[0].sum())
        peers = [] if chosen[0].curve == RANDOM else places.get((RANDOM, count), [])
        (scores, outputs), (peer_scores, peer_outputs) = unit_means(chosen, target), unit_means(peers, target)
        predicted = None
        if slopes is not None and peers:
            effect = np.mean(removed @ (slopes - slopes.mean()))
            predicted = float(np.mean(peer_outputs) - effect)
        return RemovalPoint(
            removed=count,
            runs=len(chosen),
            score=Interval.around(Mean.from_runs(scores), len(scores)),
            full=gain(scores, full_scores) if len(full_scores) > 1 else None,
            random=gain(scores, peer_scores) if len(peer_scores) > 1 else None,
            every=gain(unit_means(chosen, target, "every")[0], full_every) if len(full_every) > 1 else None,
            output=Interval.around(Mean.from_runs(outputs), len(outputs)),
            predicted=predicted,
        )

    listed = [
        ListedPoint(name=_subset_name(chosen[0], names), **vars(point(chosen)))
        for (curve, _), chosen in places.items()
        if not curve
    ]
    return Comparison(
        study=study,
        target=target,
        full=point(full) if full else None,
        curves=tuple(
            RemovalCurve(
                _curve_name(curve, curves), tuple(point(places[key]) for key in sorted(places) if key[0] == curve)
            )
            for curve in sorted(curves, key=_rank)
        ),
        listed=tuple(sorted(listed, key=lambda point: (-point.score.value, point.name))),
    )


COLUMNS = (
    "subset",
    "removed",
    "runs",
    *(f"{name}_{end}" for name in ("score", "full", "random", "every") for end in ("value", "low", "high")),
)
"""Of `comparison_rows`, with 95% intervals: score, its gains over the full source and over random removal, and on all
target examples the gain over the full source."""


def comparison_rows(comparison: Comparison) -> list[list[str | float | None]]:
    """Return every point of a comparison as a row of COLUMNS."""
    rows: list[list[str | float | None]] = []
    for name, point in comparison.points:
        intervals = (point.score, point.full, point.random, point.every)
        ends = ((each.value, each.low, each.high) if each else (None, None, None) for each in intervals)
        rows.append([name, point.removed, point.runs, *chain.from_iterable(ends)])
    return rows


def unit_means(
    runs: Iterable[CounterfactualRun], target: str, part: Literal["unseen", "every"] = "unseen"
) -> tuple[list[float], list[float]]:
    """Return score and output of each independent unit: a run; of random removals a subset, the mean over its seeds.

    part: of the target examples, see `SplitValues`.
    """
    units: dict[tuple[bytes, str], list[CounterfactualRun]] = defaultdict(list)
    for run in runs:
        units[run.mask.tobytes(), "" if run.curve == RANDOM else run.seed].append(run)
    values = [[getattr(run.values[target], part) for run in unit] for unit in units.values()]
    scores = [float(np.mean([item.score for item in unit])) for unit in values]
    return scores, [float(np.mean([item.output for item in unit])) for unit in values]


def gain(values: Sequence[float], baseline: Sequence[float], level: float = 0.95) -> Interval:
    """Return the difference of the means of independent values. level: of its interval."""
    return Interval.around(Mean.from_runs(values) - Mean.from_runs(baseline), min(len(values), len(baseline)), level)


def _subset_name(run: CounterfactualRun, names: Sequence[str]) -> str:
    """Return the name of a listed subset, by what it keeps or what it lacks, whichever is shorter."""
    keeps_few = run.mask.mean() <= 0.5
    groups = np.array(names)[run.mask == keeps_few].tolist()
    return f"{'only' if keeps_few else 'without'} {first_names(groups, 8)}"


def _rank(curve: str) -> tuple[int, str]:
    """Return the key to sort curves by: those of ORDERS first, in that order."""
    order = curve.partition(",")[0]
    return (*ORDERS, order).index(order), curve


def _curve_name(curve: str, curves: Iterable[str]) -> str:
    """Return a curve's name: its order, and its ranking if there are several, by its hash where names are equal."""
    order, _, ranking = curve.partition(", ")
    rankings = {name.partition(", ")[2] for name in curves} - {""}
    plain = ranking.partition("@")[0]
    if not ranking or len(rankings) < 2:
        return order
    same = sum(name.partition("@")[0] == plain for name in rankings) > 1
    return f"{order}, {ranking if same else plain}"
