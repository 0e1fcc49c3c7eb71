"""Searches over planted truths: they get to the best subset, claim no gain where there is none, and repeat themselves."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sourcewise.acting.counterfactuals import Interval
from sourcewise.acting.search import account, racing
from sourcewise.acting.search.candidates import Candidate
from sourcewise.acting.search.economy import cheapest
from sourcewise.acting.search.program import SEEDS, Search, SearchResult
from sourcewise.acting.search.settings import SearchSettings
from sourcewise.acting.search.smoothing import expected
from sourcewise.acting.search.trials import Trial
from sourcewise.core.errors import SourcewiseError
from sourcewise.core.randomness import permutation, uniform
from sourcewise.study.measurements import Measurement
from sourcewise.study.split_values import Values

GROUPS = 24
Truth = Callable[[np.ndarray], float]


@dataclass
class Planted:
    """Trains by formula: a truth of masks, plus noise of each run, in the units of a score.

    unseen: another truth, on the examples that no choice looks at. most: runs after which it is interrupted.
    """

    truth: Truth
    unseen: Truth | None = None
    noise: float = 0.009
    mapping: np.ndarray | None = None
    fails: Callable[[Trial], bool] = lambda trial: False
    most: int = 10**9
    lists: dict[str, Sequence[bool]] = field(default_factory=dict)
    known: dict[str, np.ndarray] = field(default_factory=dict)
    prices: np.ndarray = field(default_factory=lambda: np.ones(GROUPS))
    explorer: float = 1.0
    trained: dict[Trial, Measurement] = field(default_factory=dict)
    states: list[str] = field(default_factory=list)

    def __call__(self, trials: Sequence[Trial], state: str = "") -> list[Measurement | None]:
        self.states.append(state)
        assert len(set(trials)) == len(trials)
        for trial in trials:
            if trial not in self.trained and not self.fails(trial):
                if len(self.trained) == self.most:
                    raise KeyboardInterrupt
                self.trained[trial] = self.model(trial)
        return [self.trained.get(trial) for trial in trials]

    def shares(self) -> np.ndarray:
        return np.ones(1)

    def listed(self) -> dict[str, Sequence[bool]]:
        return self.lists

    def rankings(self) -> dict[str, np.ndarray]:
        return self.known

    def costs(self) -> np.ndarray:
        return self.prices

    def exploring_cost(self) -> float:
        return self.explorer

    def model(self, trial: Trial) -> Measurement:
        mask = np.array(trial.keep) if trial.keep is not None else np.ones(GROUPS, bool)
        if trial.draw is not None:
            mask = np.isin(np.arange(GROUPS), permutation(f"draw/{trial.draw}", GROUPS)[: GROUPS // 2])
        draws = uniform(f"noise/{mask.tobytes()!r}/{trial.seed}", 4, 12).sum(1) - 6  # normal, nearly
        values = self.truth(mask), (self.unseen or self.truth)(mask)
        choosing, unseen = (
            Values(value + self.noise * a, value + self.noise * b)
            for value, (a, b) in zip(values, draws.reshape(2, 2), strict=True)
        )
        every = Values((choosing.output + unseen.output) / 2, (choosing.score + unseen.score) / 2)
        mappings = {} if self.mapping is None or not mask.all() else {"label_mapping": self.mapping[None]}
        mean = np.array([choosing.output])
        return Measurement(choosing, unseen, every, mask, mean, np.log(mean / (1 - mean)), mappings, seconds=36.0)


def search(train: Planted, **changed: float) -> SearchResult:
    return Search(train, SearchSettings(**changed)).run()  # type: ignore[arg-type]  # by name


def first_sentence(result: SearchResult) -> str:
    groups = [f"g{number}" for number in range(GROUPS)]
    return account.sentences(account.account(result, SearchSettings(), {"digits": 1.0}, groups))[0]


def additive(slopes: np.ndarray) -> Truth:
    return lambda mask: 0.8 - float(slopes[~mask].sum())


HARM = additive(np.r_[np.full(4, -0.02), np.full(GROUPS - 4, 0.004)])
"""Four groups cost 2 points each, the others bring 0.4."""


def test_planted_harm_is_removed_and_the_gain_is_verified() -> None:
    result = search(Planted(HARM), budget=100)
    truth = HARM(np.array(result.winner.keep))
    assert truth > 0.88 - 0.005
    assert result.verified is not None
    assert result.verified.is_better
    assert result.verified.full.value == pytest.approx(truth - 0.8, abs=0.01)
    assert result.spent <= 100


def test_whoever_watches_sees_the_phase_what_is_left_and_the_best_subset() -> None:
    train = Planted(HARM)
    result = search(train, budget=100)
    assert train.states[:2] == ["full, 96 runs left after these", "explore, 76 runs left after these"]
    after_race, last = result.rounds[0], result.rounds[-1]
    best = f"best: {after_race.incumbent.removed} groups out, {after_race.gain.in_points()} points"
    move = next(state for state in train.states if state.startswith("move 2"))
    assert move.endswith(best)
    assert train.states[-1] == f"verify; best: {last.incumbent.removed} groups out, {last.gain.in_points()} points"


def test_harm_of_pairs_that_only_shows_together_is_removed() -> None:
    def truth(mask: np.ndarray) -> float:
        return 0.8 - 0.004 * float((~mask).sum()) - 0.04 * float(mask[0] & mask[1]) - 0.04 * float(mask[2] & mask[3])

    result = search(Planted(truth), budget=150)
    keep = np.array(result.winner.keep)
    assert not (keep[0] & keep[1])
    assert not (keep[2] & keep[3])


@pytest.mark.slow  # twenty searches
def test_of_a_harmless_source_no_gain_is_claimed() -> None:
    truth = additive(np.full(GROUPS, 0.001))
    claims = 0
    for seed in range(20):
        result = search(Planted(truth), budget=60, seed=seed)
        claims += result.verified is not None and result.verified.is_better
    assert claims <= 1


@pytest.mark.slow  # twenty searches
def test_of_a_harmless_source_no_gain_is_claimed_by_looking_again() -> None:
    claims = 0
    for seed in range(20):
        train = Planted(additive(np.full(GROUPS, 0.0)))
        result = search(train, budget=50, seed=seed, at_most=300, verify=12, tolerance=None)
        claims += result.verified is not None and result.verified.is_better
        assert len(train.trained) <= 300
    assert claims <= 1


def test_a_search_with_a_goal_goes_on_until_a_gain_is_verified() -> None:
    settings = {"budget": 40, "verify": 12, "seed": 1, "tolerance": None}
    train = Planted(HARM, noise=0.05)
    once = search(train, **settings)
    assert once.verified is None or not once.verified.is_better
    result = search(train, **settings, at_most=700)
    assert result.verified is not None
    assert result.verified.is_better
    assert result.verified.level == pytest.approx(1 - 0.05 / 2 ** round(-np.log2((1 - result.verified.level) / 0.05)))
    assert len(train.trained) <= 700
    short = Planted(additive(np.full(GROUPS, 0.0)))
    search(short, budget=40, verify=1, seed=2, tolerance=None, at_most=300)
    by_subset = [(trial.keep, trial.seed) for trial in short.trained if trial.phase == "verify"]
    assert len(set(by_subset)) == len(by_subset)
    assert len(short.trained) <= 300


@pytest.mark.slow  # twenty searches
def test_fitting_to_a_few_choosing_examples_is_no_gain_on_the_others() -> None:
    claims, chosen = 0, []
    for seed in range(20):
        few = additive(np.random.default_rng(seed).normal(0, 0.02, (16, GROUPS)).mean(0))  # fewer than there are groups
        train = Planted(few, unseen=lambda mask: 0.8)
        result = search(train, budget=60, seed=seed)
        chosen.append(few(np.array(result.winner.keep)) - 0.8)
        claims += result.verified is not None and result.verified.is_better
    assert np.mean(chosen) > 0.01
    assert claims <= 1


def test_a_mapping_that_fits_is_raced_and_wins() -> None:
    slopes = np.linspace(-0.01, 0.01, GROUPS)
    result = search(Planted(additive(slopes), mapping=slopes), budget=60, explore=0.0)
    assert result.explored == 0
    assert result.winner.origin == "label mapping"
    assert (np.array(result.winner.keep) == (slopes > 0)).mean() > 0.8


def test_a_ranking_that_the_user_names_is_raced_and_wins() -> None:
    slopes = np.linspace(-0.01, 0.01, GROUPS)
    result = search(Planted(additive(slopes), known={"mine.csv": slopes}), budget=60, explore=0.0)
    assert result.winner.origin == "mine.csv"


def test_cheap_models_explore_four_for_one() -> None:
    result = search(Planted(HARM, explorer=0.25), budget=100)
    assert result.explored == 4 * search(Planted(HARM), budget=100).explored
    assert result.spent <= 100


def test_hours_are_runs_as_long_as_the_first_ones() -> None:
    assert search(Planted(HARM), hours=1.0) == search(Planted(HARM), budget=100)
    assert search(Planted(HARM), hours=0.6).spent <= 60


def test_a_smaller_source_is_about_as_good_and_verified() -> None:
    slopes = np.r_[np.zeros(16), np.full(GROUPS - 16, 0.02)]
    result = search(Planted(additive(slopes), noise=0.004, mapping=slopes), budget=100)
    assert result.smaller is not None
    keep = np.array(result.smaller.candidate.keep)
    assert keep.sum() < np.sum(result.winner.keep)
    assert keep[16:].all()
    assert result.smaller.cost == pytest.approx(keep.mean())
    assert result.smaller.verified.full.value == pytest.approx(0, abs=0.006)
    assert result.smaller.verified.random is None
    assert search(Planted(additive(slopes), noise=0.004, mapping=slopes), tolerance=None).smaller is None


def test_costs_decide_which_subset_is_smaller() -> None:
    slopes = np.zeros(GROUPS)
    prices = np.r_[np.full(12, 10.0), np.full(12, 0.1)]
    result = search(Planted(additive(slopes), noise=0.002, mapping=-prices, prices=prices), budget=60, explore=0.0)
    assert result.smaller is not None
    assert result.smaller.cost == pytest.approx(prices[list(result.smaller.candidate.keep)].sum() / prices.sum())
    assert result.smaller.cost < 0.4


@given(st.integers(2, 12), st.integers(0, 100), st.floats(0, 0.05))
def test_the_cheapest_is_the_one_of_brute_force(count: int, seed: int, tolerance: float) -> None:
    rng = np.random.default_rng(seed)
    masks = np.unique(rng.random((count, 8)) < 0.6, axis=0)
    candidates = [Candidate(tuple(mask.tolist()), "x") for mask in masks]
    values = [rng.normal(0, 0.02, rng.integers(1, 4)).tolist() for _ in candidates]
    costs = rng.random(8)
    best = candidates[int(rng.integers(len(candidates)))]
    chosen = cheapest(candidates, values, best, costs, tolerance)
    expectation = dict(zip(candidates, expected(masks, values), strict=True))
    price = {item: costs[list(item.keep)].sum() for item in candidates}
    good = [item for item in candidates if expectation[item] >= expectation[best] - tolerance]
    least = min(good, key=lambda item: price[item])
    assert chosen == (least if price[least] < price[best] else None)


@given(st.integers(1, 150), st.floats(0, 0.6), st.integers(0, 3), st.booleans())
@settings(max_examples=15, deadline=None)
def test_budgets_hold_and_no_seed_of_the_verification_meets_one_of_choices(
    budget: int, explore: float, seed: int, mapped: bool
) -> None:
    train = Planted(HARM, mapping=np.arange(GROUPS, dtype=float) if mapped else None)
    result = search(train, budget=budget, explore=explore, seed=seed)
    choices = [trial for trial in train.trained if trial.phase != "verify"]
    assert result.spent == len(choices) <= max(budget, 4)
    assert {t.seed for t in choices}.isdisjoint(t.seed for t in train.trained if t.phase == "verify")
    assert all(SEEDS * seed <= trial.seed < SEEDS * (seed + 1) for trial in train.trained)


@pytest.mark.parametrize("after", [3, 30, 75, 95, 100])
def test_a_search_that_is_interrupted_ends_as_one_that_is_not(after: int) -> None:
    expected = search(Planted(HARM), budget=90)
    train = Planted(HARM, most=after)
    with pytest.raises(KeyboardInterrupt):
        search(train, budget=90)
    train.most = 10**9
    assert search(train, budget=90) == expected


def test_runs_that_fail_cost_their_candidates_only() -> None:
    def fails(trial: Trial) -> bool:
        return trial.keep is not None and trial.seed % 5 == 3

    result = search(Planted(HARM, fails=fails), budget=100)
    assert HARM(np.array(result.winner.keep)) > 0.88 - 0.01
    with pytest.raises(SourcewiseError, match="fewer than two models of the full source"):
        search(Planted(HARM, fails=lambda trial: trial.phase == "full"))
    with pytest.raises(SourcewiseError, match="fewer than two models of a subset in the verification"):
        search(Planted(HARM, fails=lambda trial: trial.phase == "verify" and trial.keep is not None), budget=40)


def test_subsets_that_the_user_names_are_raced_if_the_budget_has_room_for_them() -> None:
    lists = {f"list {place}": (np.arange(GROUPS) != place).tolist() for place in range(20)}
    lists["nothing"] = [True] * GROUPS
    result = search(Planted(HARM, lists=lists), budget=100)
    raced = {standing.candidate.origin for standing in result.rounds[0].standings[0]}
    assert raced >= lists.keys() - {"nothing"}
    with pytest.raises(SourcewiseError, match="a race of 20 subsets takes 43 runs, and the budget leaves 30 for it"):
        search(Planted(HARM, lists=lists), budget=40)


def test_a_source_of_one_group_is_refused() -> None:
    train = Planted(HARM)
    original = train.model
    train.model = lambda trial: replace(original(trial), mask=np.ones(1, bool))  # type: ignore[method-assign]  # here alone
    with pytest.raises(SourcewiseError, match="the source is one group"):
        search(train)


def test_the_full_source_gains_nothing_over_itself() -> None:
    train = Planted(additive(np.full(GROUPS, 0.02)))
    result = search(train, budget=100)
    assert not result.winner.removed
    assert result.rounds[-1].gain == Interval(0.0, 0.0, 0.0)
    assert result.expected.value < -0.02
    assert train.states[-1].endswith("best: the full source")
    assert first_sentence(result).startswith("No subset was found that is better than the full source, which won")
    assert first_sentence(search(train, budget=4)).startswith("No subset was raced: the budget was spent after 3 runs.")


def test_choices_never_look_at_what_judges_them() -> None:
    plain, shifted = Planted(HARM), Planted(HARM)
    original = shifted.model

    def other_judges(trial: Trial) -> Measurement:
        item = original(trial)
        return replace(item, unseen=Values(0.1, 0.1), every=Values(0.1, 0.1))

    shifted.model = other_judges  # type: ignore[method-assign]  # this test's trainer alone
    first, second = search(plain, budget=80), search(shifted, budget=80)
    assert first.winner == second.winner
    assert first.rounds == second.rounds


@given(st.integers(1, 60), st.integers(0, 300))
def test_a_race_keeps_to_its_budget(candidates: int, budget: int) -> None:
    steps = racing.rungs(candidates, budget)
    trained = [0] * candidates
    for count, models in steps:
        trained[:count] = [models] * count
    assert sum(trained) <= max(budget, racing.least_budget(candidates))
    assert steps[-1][0] == min(candidates, 2)
