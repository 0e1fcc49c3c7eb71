"""The search itself: explore, propose, race, move, verify, one after the other.

It has no state but the models that it asks for: whoever has their records repeats it to where it stopped. Seeds of
choices and of the verification never meet, and choices look at some of the target examples only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from sourcewise.acting.counterfactuals import Interval, gain
from sourcewise.acting.search import racing
from sourcewise.acting.search.candidates import (
    FULL,
    LEAST_EXPLORED,
    Candidate,
    cut,
    effects,
    mean_mappings,
    rankings,
)
from sourcewise.acting.search.economy import cheapest
from sourcewise.acting.search.neighbours import MOVES, NEAR, Slopes, draws, local_slopes, moves
from sourcewise.acting.search.racing import Standing
from sourcewise.acting.search.settings import SearchSettings
from sourcewise.acting.search.trials import Phase, Trainer, Trial
from sourcewise.acting.search.verification import (
    LEAST,
    RANDOM,
    VerifiedSource,
    judge,
    models_needed,
    verification_trials,
)
from sourcewise.core.errors import SourcewiseError
from sourcewise.estimation.arrays import Array
from sourcewise.study.measurements import Measurement

SEEDS = 1_000_000
"""Training seeds that belong to one seed of a search; the second half of them is for the verification."""
SIZES = tuple(part / 7 for part in range(1, 6))
"""Shares of the groups that candidates lack."""
RACED = 0.4
"""Share of what is left after exploring that the first race takes."""
MOST_FIRST = 80
"""Runs that the first race takes at most: of a larger budget, moves make more."""
MOST_RACED = 32
"""Runs that a race after a move takes at most."""
PROMISING = 2
"""Subsets that race again after a move, since much is expected of them by all models so far."""
DRAWN = 0.7
"""Share of what is left that a move spends on subsets near the best one, before it races."""
BATCH = 12
"""Subsets that are drawn at once; what they say counts for the next ones."""
LEAST_RACED = racing.least_budget(1 + MOVES + PROMISING)
"""Runs that a race after a move takes, at least."""
LEAST_MOVE = BATCH // 2 + LEAST_RACED
"""Runs that a move takes, at least."""


@dataclass(frozen=True)
class Round:
    """One round of a search: a race, and before it, in a move, the subsets that say which candidates race."""

    phase: Phase
    number: int
    spent: int
    standings: Sequence[Sequence[Standing]]
    incumbent: Candidate
    gain: Interval


@dataclass(frozen=True)
class SmallerSource:
    """The cheapest subset that is expected to be about as good as the best.

    Attributes:
        cost: share of the cost of the full source.
        verified: its gain, without that over random removal.
    """

    candidate: Candidate
    cost: float
    verified: VerifiedSource


@dataclass(frozen=True)
class SearchResult:
    """What a search ends with.

    Attributes:
        winner: the subset that won all races; the full source if no other did.
        rounds: what happened.
        explored: how many models of random subsets there are.
        spent: runs before the verification.
        expected: gain in score over the full source, of the models that chose; too large, since they chose. Of the best
            other subset where the full source has won.
        verified: what the verification says; None where the winner is the full source.
        smaller: the second answer; None where no cheaper subset is about as good as the winner, or none is asked.
    """

    winner: Candidate
    rounds: Sequence[Round]
    explored: int
    spent: int
    expected: Interval
    verified: VerifiedSource | None
    smaller: SmallerSource | None = None


@dataclass
class Search:
    """A search over the groups of a source.

    Attributes:
        train: trains runs, or reads their records.
        settings: as in the config.
        progress: takes a line for each step.
    """

    train: Trainer
    settings: SearchSettings
    progress: Callable[[str], None] = lambda line: None
    _models: dict[Trial, Measurement] = field(default_factory=dict)
    _asked: dict[tuple[tuple[bool, ...], int], Trial] = field(default_factory=dict)
    _candidates: dict[tuple[bool, ...], Candidate] = field(default_factory=dict)
    _rounds: list[Round] = field(default_factory=list)
    _budget: int = 0
    _spent: float = 0.0
    _costs: Array = field(default_factory=lambda: np.ones(0))

    def run(self) -> SearchResult:
        """Return the result.

        Raises SourcewiseError when too few models of the full source, or of the verification, could be trained, for a
        source of one group, and for lists, rankings and costs that do not fit the source.
        """
        settings, self._budget = self.settings, self.settings.budget
        exploring_cost = self.train.exploring_cost()
        first = [Trial("full", 0, None, None, self._seed(i)) for i in range(max(2, settings.budget // 25))]
        full = self._ask(first)
        if len(full) < 2:
            raise SourcewiseError("search: fewer than two models of the full source could be trained")
        if settings.hours:
            self._budget = max(int(3600 * settings.hours / np.mean([item.seconds for item in full])), len(first))
            if settings.at_most is not None:
                self._budget = max(min(self._budget, settings.at_most - settings.most_verified), len(first))
        groups = len(full[0].mask)
        if groups == 1:
            raise SourcewiseError("search: the source is one group, and nothing can be left out; see source.groups")
        self._costs, named, user_rankings = self.train.costs(), self._listed(), self.train.rankings()
        everything = Candidate((True,) * groups, FULL)
        self._candidates[everything.keep] = everything
        for trial in first:
            self._asked[everything.keep, trial.seed - self._seed(0)] = trial
        count = round(settings.explore * self._budget / exploring_cost)
        explored = self._ask([Trial("explore", 0, None, self._seed(i), self._seed(0)) for i in range(count)])
        shares = self.train.shares()
        scores = {**rankings(full, explored, shares), **user_rankings}
        candidates = [everything, *named, *self._cuts(scores, groups, len(named))]
        rounds = self._rounds
        rounds.append(self._race("race", 0, candidates, self._race_budget(), everything))
        prior = effects(explored, mean_mappings(full), shares) if len(explored) >= LEAST_EXPLORED else np.zeros(groups)
        looks = 0
        while True:
            while (made := self._move(rounds, prior, everything)) is not None:
                rounds.append(made)
            result = self._verified(everything, rounds, len(explored), looks)
            looks += 1
            if not self._goes_on(result):
                return result

    def _goes_on(self, result: SearchResult) -> bool:
        """Return whether runs are left to look further for a verified gain, and add as many as the budget has."""
        if self.settings.at_most is None or (result.verified is not None and result.verified.is_better):
            return False
        left = self.settings.at_most - len(self._models) - self.settings.most_verified
        if left < LEAST_MOVE:
            return False
        self._spent = result.spent
        self._budget = result.spent + min(self.settings.budget, left)
        return True

    def _listed(self) -> list[Candidate]:
        """Return the subsets that the user names, each once. Raises SourcewiseError for more than a race can take."""
        subsets = {tuple(keep): name for name, keep in self.train.listed().items() if not all(keep)}
        needed = racing.least_budget(1 + len(subsets))
        left = self._budget - self._spent - round(self.settings.explore * self._budget)
        if subsets and needed > left:
            raise SourcewiseError(
                f"search.candidates: a race of {len(subsets)} subsets takes {needed} runs, and the budget leaves"
                f" {max(0, int(left))} for it; give a larger search.budget"
            )
        return [Candidate(keep, name) for keep, name in subsets.items()]

    def _cuts(self, scores: Mapping[str, Array], groups: int, listed: int) -> list[Candidate]:
        """Return cuts of rankings, as many as a race can take beside the full source and the listed subsets.

        scores: float[G] by name. listed: how many subsets the user names.
        """
        sizes = dict.fromkeys(max(1, round(share * groups)) for share in SIZES)
        ranked = cut(scores, [size for size in sizes if size < groups])
        most = 1
        while racing.least_budget(most + 1) <= self._race_budget():
            most += 1
        room = max(0, most - 1 - listed)
        if len(ranked) > room:
            ranked = [ranked[i] for i in np.unique(np.linspace(0, len(ranked) - 1, room).round().astype(int))]
        return ranked

    def _race(
        self, phase: Phase, number: int, candidates: Sequence[Candidate], budget: int, everything: Candidate
    ) -> Round:
        """Let candidates race; return the round, with the winner and its gain over the full source."""

        def trained(wanted: Sequence[tuple[Candidate, int]]) -> list[list[Measurement]]:
            self._ask([self._trial(phase, number, candidate, i) for candidate, count in wanted for i in range(count)])
            return [self._known(candidate) for candidate, _ in wanted]

        standings = racing.race(candidates, budget, trained, self._trained())
        if not standings[-1]:
            raise SourcewiseError("search: all runs of the last candidates failed")
        winner = standings[-1][0].candidate
        result = Round(phase, number, round(self._spent), standings, winner, self._gain(winner, everything))
        self.progress(_line(result, self._budget))
        return result

    def _move(self, rounds: Sequence[Round], prior: Array, everything: Candidate) -> Round | None:
        """Train subsets near the best one, and race where they lead to; None: the budget is spent.

        prior: float[G], what keeping each group is thought to add to the mean output.
        """
        best, number, left = rounds[-1].incumbent, len(rounds), int(self._budget - self._spent)
        if left < LEAST_MOVE:
            return None
        drawn = min(int(DRAWN * left), left - LEAST_RACED)
        for first in range(0, drawn, BATCH):
            slopes = self._slopes(best, prior)
            key = f"search/{self.settings.seed}/{number}/{first}"
            near = draws(best.keep, slopes, min(BATCH, drawn - first), key)
            self._ask([self._trial("move", number, item, len(self._known(item))) for item in near])
        fitted = moves(best.keep, self._slopes(best, prior))
        candidates = {item.keep: item for item in [best, *fitted, *self._promising(best)]}
        raced = min(int(self._budget - self._spent), MOST_RACED)
        return self._race("move", number, list(candidates.values()), raced, everything)

    def _slopes(self, best: Candidate, prior: Array) -> Slopes:
        """Return what keeping each group adds near the best subset, by all models there; prior: as in `_move`."""
        alike = [item for trial, item in self._models.items() if not (self.settings.proxy and trial.phase == "explore")]
        near = [item for item in alike if (item.mask ^ np.array(best.keep)).mean() <= NEAR]
        values = np.array([racing.value(item) for item in near])
        return local_slopes(best.keep, np.array([item.mask for item in near]), values, prior)

    def _promising(self, best: Candidate) -> list[Candidate]:
        """Return the subsets of which most is expected by all models so far, besides the best one."""
        expected = racing.expected_values(self._trained())
        order = sorted(expected, key=lambda keep: -expected[keep])
        return [self._candidates[keep] for keep in order if keep != best.keep and not all(keep)][:PROMISING]

    def _trained(self) -> dict[tuple[bool, ...], list[Measurement]]:
        """Return the models that choices have asked for, by what they keep, but for those of random subsets."""
        models = {keep: self._known(candidate) for keep, candidate in self._candidates.items()}
        return {keep: part for keep, part in models.items() if part}

    def _race_budget(self) -> int:
        """Return how many runs the first race may take: all that are left where that leaves too few to draw from."""
        left = int(self._budget - self._spent)
        share = min(round(RACED * left), MOST_FIRST)
        return share if left - share >= 2 * LEAST_MOVE else left

    def _verified(self, everything: Candidate, rounds: Sequence[Round], explored: int, looks: int) -> SearchResult:
        """Return the result, with what models whose seeds no choice has seen say of the winner and of a smaller one.

        looks: how many verifications there were before. Where there may be several, the chances of a false gain halve
        from one to the next, so that together they are at most those of one alone.
        """
        winner = rounds[-1].incumbent
        smaller, spent = self._smaller(winner, rounds), round(self._spent)
        answers = {"the winner": winner, "the smaller one": smaller}
        judged = {name: candidate for name, candidate in answers.items() if candidate and candidate.removed}
        scores = [[item.choosing.score for item in self._known(candidate)] for candidate in (winner, everything)]
        count = models_needed(scores, self.settings.detect, self.settings.verify) if judged else 0
        seeds = [self._seed(SEEDS // 2 + looks * max(self.settings.verify, LEAST) + i) for i in range(count)]
        level = 0.95 if self.settings.at_most is None else 1 - 0.05 / 2 ** (looks + 1)
        trials = verification_trials(judged, winner, seeds)
        if judged:
            self.progress(f"verify: {count} models each of {', '.join(trials)}")
        self._ask([trial for part in trials.values() for trial in part])
        models = {
            name: [self._models[trial] for trial in part if trial in self._models] for name, part in trials.items()
        }
        if judged and min(len(models[name]) for name in (*judged, FULL)) < 2:
            raise SourcewiseError("search: fewer than two models of a subset in the verification could be trained")
        costs = self._costs
        verdicts = {
            candidate: judge(models[name], models[FULL], models[RANDOM] if candidate is winner else [], level)
            for name, candidate in judged.items()
        }
        second = None
        if smaller is not None:
            second = SmallerSource(smaller, float(costs[list(smaller.keep)].sum() / costs.sum()), verdicts[smaller])
        others = self._promising(everything)
        gained = rounds[-1].gain if winner.removed or not others else self._gain(others[0], everything)
        return SearchResult(winner, rounds, explored, spent, gained, verdicts.get(winner), second)

    def _smaller(self, winner: Candidate, rounds: Sequence[Round]) -> Candidate | None:
        """Return the cheapest subset that should be about as good as the winner; None where that is the winner."""
        if self.settings.tolerance is None:
            return None
        raced = [standing.candidate for item in rounds for rung in item.standings for standing in rung]
        candidates = list(dict.fromkeys([winner, *raced]))
        values = [[racing.value(item) for item in self._known(candidate)] for candidate in candidates]
        return cheapest(candidates, values, winner, self._costs, self.settings.tolerance)

    def _trial(self, phase: Phase, number: int, candidate: Candidate, index: int) -> Trial:
        """Return the run of a candidate with one of the seeds of choices: the same one in every round."""
        key = candidate.keep, index
        self._candidates.setdefault(candidate.keep, candidate)
        keep = candidate.keep if candidate.removed else None
        return self._asked.setdefault(key, Trial(phase, number, keep, None, self._seed(index)))

    def _known(self, candidate: Candidate) -> list[Measurement]:
        """Return the models of a candidate that choices have asked for so far."""
        trials = [trial for (keep, _), trial in self._asked.items() if keep == candidate.keep]
        return [self._models[trial] for trial in trials if trial in self._models]

    def _gain(self, candidate: Candidate, everything: Candidate) -> Interval:
        """Return the gain in score over the full source by the models that choose; surely 0 for the full source."""
        if candidate == everything:
            return Interval(0.0, 0.0, 0.0)
        scores, full = ([m.choosing.score for m in self._known(item)] for item in (candidate, everything))
        return gain(scores, full)

    def _ask(self, trials: Sequence[Trial]) -> list[Measurement]:
        """Return the models of runs, as far as they did not fail, and count what they take of the budget."""
        new = [trial for trial in dict.fromkeys(trials) if trial not in self._models]
        self._spent += sum(self.train.exploring_cost() if trial.phase == "explore" else 1 for trial in new)
        made = self.train(new, self._state(new[0])) if new else []
        for trial, measurement in zip(new, made, strict=True):
            if measurement is not None:
                self._models[trial] = measurement
        return [self._models[trial] for trial in trials if trial in self._models]

    def _state(self, trial: Trial) -> str:
        """Return where the search stands while it trains: the phase, the runs left after these, the best subset."""
        phase = trial.phase if trial.phase in ("full", "explore", "verify") else f"{trial.phase} {trial.round + 1}"
        left = "" if trial.phase == "verify" else f", {max(0, int(self._budget - self._spent))} runs left after these"
        if not self._rounds:
            return phase + left
        best = self._rounds[-1]
        if not best.incumbent.removed:
            return f"{phase}{left}; best: {FULL}"
        return f"{phase}{left}; best: {best.incumbent.removed} groups out, {best.gain.in_points()} points"

    def _seed(self, number: int) -> int:
        return SEEDS * self.settings.seed + number


def _line(made: Round, budget: int) -> str:
    """Return what a round came to."""
    gain = ""
    if made.incumbent.removed:
        gain = f", {made.gain.in_points()} points over the full source by the models that chose it"
    return f"{made.phase} {made.number + 1}: best so far is {made.incumbent.name}{gain}; {made.spent} of {budget} runs"
