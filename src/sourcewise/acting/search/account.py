"""What a search did and found, in names of groups: search.json, and sentences about it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
from annotated_types import MinLen
from pydantic import TypeAdapter, ValidationError

from sourcewise.acting.counterfactuals import Interval
from sourcewise.acting.search.program import SearchResult
from sourcewise.acting.search.settings import SearchSettings
from sourcewise.acting.search.verification import VerifiedSource
from sourcewise.core.errors import SourcewiseError
from sourcewise.core.files import write_atomically
from sourcewise.core.messages import first_names
from sourcewise.core.results import to_json

FOLDER = "search"
"""The folder of a search's results, beside that of its runs."""
FILE = "search.json"
MAX_BYTES = 2**26


@dataclass(frozen=True)
class RacedSubset:
    """A candidate after a rung of a race, by the models that choices look at.

    name: how texts call it. removed: how many groups it lacks. models: how many it had. output, score: means over them.
    stays: whether it was in the next rung, or won.
    """

    name: str
    removed: int
    models: int
    output: float
    score: float
    stays: bool


@dataclass(frozen=True)
class RaceAccount:
    """A race, and the best subset after it.

    phase: `race`, or `move` for a race after a look at neighbours. spent: runs until its end. rungs: best first. best:
    the subset that won. entered, left: groups that it has and lacks against the best subset before. gain: its gain in
    score over the full source, by the models that chose it.
    """

    phase: str
    spent: int
    rungs: Sequence[Sequence[RacedSubset]]
    best: str
    entered: Sequence[str]
    left: Sequence[str]
    gain: Interval


@dataclass(frozen=True)
class SmallerAccount:
    """The cheapest subset that should be about as good as the best.

    keep, drop: its groups. cost: share of the cost of the full source. verified: as in `SearchAccount`.
    """

    keep: Sequence[str]
    drop: Sequence[str]
    cost: float
    verified: VerifiedSource


@dataclass(frozen=True)
class SearchAccount:
    """All that search.json says.

    weights: of the targets. settings: of the search. keep, drop: groups of the subset that it ends with. explored:
    models of random subsets. spent: runs before the verification. expected: gain in score by the models that chose; of
    the best other subset where the full source has won. verified: what the verification says; None where the full
    source has won. smaller: the second answer, if any.
    """

    weights: Mapping[str, float]
    settings: SearchSettings
    keep: Sequence[str]
    drop: Sequence[str]
    explored: int
    spent: int
    races: Annotated[Sequence[RaceAccount], MinLen(1)]
    expected: Interval
    verified: VerifiedSource | None = None
    smaller: SmallerAccount | None = None


def account(
    result: SearchResult, settings: SearchSettings, weights: Mapping[str, float], groups: Sequence[str]
) -> SearchAccount:
    """Return the account of a search over these groups."""
    races, before = [], np.ones(len(groups), dtype=bool)
    names = np.array(groups, dtype=object)
    for item in result.rounds:
        keep = np.array(item.incumbent.keep)
        rungs = [
            [RacedSubset(s.candidate.name, s.candidate.removed, s.models, s.output, s.score, s.stays) for s in rung]
            for rung in item.standings
        ]
        entered, left = names[keep & ~before].tolist(), names[before & ~keep].tolist()
        races.append(RaceAccount(item.phase, item.spent, rungs, item.incumbent.name, entered, left, item.gain))
        before = keep
    keep, smaller = np.array(result.winner.keep), None
    if result.smaller is not None:
        kept = np.array(result.smaller.candidate.keep)
        smaller = SmallerAccount(
            names[kept].tolist(), names[~kept].tolist(), result.smaller.cost, result.smaller.verified
        )
    return SearchAccount(
        weights=weights,
        settings=settings,
        keep=names[keep].tolist(),
        drop=names[~keep].tolist(),
        explored=result.explored,
        spent=result.spent,
        races=races,
        expected=result.expected,
        verified=result.verified,
        smaller=smaller,
    )


def write(path: Path, search: SearchAccount) -> None:
    """Write search.json."""
    write_atomically(path, (json.dumps(to_json(search), indent=1) + "\n").encode())


def read(path: Path) -> SearchAccount:
    """Read search.json. Raises SourcewiseError for a file that no search wrote."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise SourcewiseError(f"{path}: too large for the account of a search")
        return TypeAdapter(SearchAccount).validate_json(path.read_bytes(), strict=False)
    except OSError as error:
        raise SourcewiseError(f"{path}: cannot be read ({error.strerror})") from error
    except ValidationError as error:
        problem = error.errors()[0]
        place = ".".join(map(str, problem["loc"]))
        raise SourcewiseError(f"{path}: not the account of a search ({place}: {problem['msg'].lower()})") from error


def sentences(search: SearchAccount) -> list[str]:
    """Return what a search found, the verdict first."""
    removed, groups, verified = len(search.drop), len(search.keep) + len(search.drop), search.verified
    if not any(item.removed for race in search.races for rung in race.rungs for item in rung):
        return [f"No subset was raced: the budget was spent after {search.spent} runs. Give a larger search.budget."]
    if verified is None:
        return [
            "No subset was found that is better than the full source, which won the races. The search took"
            f" {search.spent} runs, {_explored(search)}.",
            "By the models that chose, the score of the best other subset differs from the full source's by"
            f" {search.expected.in_points()} points.",
            *_unlikely(search.expected),
            *_smaller_sentences(search),
        ]
    subset = f"without {removed} of {groups} groups ({first_names(list(search.drop), 12)})"
    examples = "examples that no choice has seen" if search.settings.choose < 1 else "the examples that chose"
    winner, full, random = verified.models
    if verified.is_better:
        verdict = f"A better source: {subset}, the score is {verified.full.in_points()} points higher"
    else:
        verdict = (
            "No subset was found that is better than the full source: the best candidate is"
            f" {subset}, and its score differs by {verified.full.in_points()} points"
        )
    level = ""
    if search.settings.at_most is not None:
        level = (
            f" Intervals are of {100 * verified.level:.4g}%, since a search that goes on until it finds looks again."
        )
    over_random = ""
    if verified.random is not None:
        over_random = (
            f"Over {random} models without as many random groups it gains {verified.random.in_points()} points. "
        )
    lines = [
        f"{verdict}, on {examples}, by {winner} new models against {full} of the full source.{level}",
        f"{over_random}On all examples, those that chose among them, it gains {verified.every.in_points()} points over"
        " the full source.",
        f"It took {search.spent} runs to choose it, {_explored(search)}; by the models that chose, the gain was"
        f" {search.expected.in_points()}, which is too large, since they chose.",
    ]
    if not verified.is_better:
        lines += _unlikely(verified.full)
    return [*lines, *_smaller_sentences(search)]


def _unlikely(gain: Interval) -> list[str]:
    """Return a sentence that says how large a subset's gain may still be, if that is known."""
    if gain.high is None:
        return []
    return [f"A gain of this subset above {100 * max(gain.high, 0):.2f} points is unlikely."]


def _explored(search: SearchAccount) -> str:
    """Return how many models explored. With a proxy they are more than the runs that they cost."""
    return f"with {search.explored} models of random subsets"


def _smaller_sentences(search: SearchAccount) -> list[str]:
    """Return what is known of the smaller source, in a sentence, if there is one."""
    if (smaller := search.smaller) is None:
        return []
    gain, full = smaller.verified.full, smaller.verified.models[1]
    cost = "images" if search.settings.cost is None else "cost"
    line = (
        f"A smaller source: without {len(smaller.drop)} of {len(smaller.keep) + len(smaller.drop)} groups, at"
        f" {100 * smaller.cost:.0f}% of its {cost}, the score differs from the full source's by {gain.in_points()}"
        f" points, by {smaller.verified.models[0]} models against {full}."
    )
    if gain.low is not None and gain.low < 0:
        line += f" A loss above {-100 * gain.low:.2f} points is unlikely."
    return [line]
