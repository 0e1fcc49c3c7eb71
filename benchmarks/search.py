"""What each way to a better source gains at equal runs, verified by models and examples that no choice has seen.

    OMP_NUM_THREADS=1 python benchmarks/search.py                       # the embedded default, minutes on two cores
    OMP_NUM_THREADS=1 python benchmarks/search.py source=planted_harm   # or other overrides of train.py
    OMP_NUM_THREADS=1 python benchmarks/search.py --seeds 0 1 2         # the mean of three draws

Each way gets the same number of runs: label mapping of two full runs, cut at five sizes that race; `curate=true`, which
ranks by random halves, and what it would remove if it did not ask for certainty; two optimisers over one switch a
group, as a user would reach for them (`pip install optuna optuna-integration botorch`): a tree-structured Parzen
estimator and Bayesian optimisation by BoTorch; and the search. Then each winner, the full source and random removals of
as many groups as the search removed are trained with the same new seeds. Prints a row of a table: gains in score over
the full source, in points, with 95% intervals, on the half of the target examples that no choice has seen, and by how
much the last way named gains more than each. A further seed draws all but the data anew: subsets, training seeds and
which examples choose; means over seeds are those of the winners there are, so intervals hold for these. Trains into
outputs/benchmark_search what is not there yet.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from functools import reduce
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from hydra import compose, initialize_config_dir

from sourcewise.acting.counterfactuals import Interval
from sourcewise.acting.curation import propose
from sourcewise.acting.search import racing
from sourcewise.acting.search.candidates import FULL, Candidate, as_keep, cut, explored_subsets, mean_mappings
from sourcewise.acting.search.program import SEEDS, SIZES, Search
from sourcewise.acting.search.settings import SearchSettings
from sourcewise.acting.search.trials import Trial
from sourcewise.acting.search.verification import RANDOM, verification_trials
from sourcewise.commands.cli import CONFIGS
from sourcewise.commands.search import Training
from sourcewise.commands.train import train
from sourcewise.core import names
from sourcewise.designs.chosen_designs import listed
from sourcewise.estimation.arrays import Array
from sourcewise.estimation.inference import Mean, pvalues
from sourcewise.study.measurements import Measurement
from sourcewise.sweep.composition import plain
from sourcewise.sweep.runs import Run

ROOT = Path(__file__).parents[1]


def train_quietly(config: dict[str, Any]) -> None:
    """Do a run without its lines."""
    with Path(os.devnull).open("w") as null, redirect_stdout(null), redirect_stderr(null):
        train(config)


class Pool:
    """Composes and trains as a launcher does, for a search: in processes of this one's, without a sweep."""

    def __init__(self, processes: Executor) -> None:
        self._processes = processes

    def compose(self, lines: Sequence[Sequence[str]]) -> list[Run]:
        """Return the runs of some lines of overrides."""
        configs = [plain(compose("train", overrides=list(line))) for line in lines]
        return [
            Run(0, config, names.run_dir(config) / names.LOG, list(line))
            for config, line in zip(configs, lines, strict=True)
        ]

    def perform(self, runs: list[Run], label: str = "") -> None:
        """Do the runs that are not done."""
        todo = {run.folder: run.config for run in runs if not names.is_done(run.folder)}  # no run twice
        print(f"{label} {len(todo)} of {len(runs)} runs", flush=True)
        list(self._processes.map(train_quietly, todo.values()))


Way = Callable[[Training, int], Candidate | None]
"""From a trainer and a number of runs to a subset; None where this source has no such way."""


def measured(training: Training, trials: Sequence[Trial]) -> list[Measurement]:
    """Return the models of runs that did not fail."""
    return [item for item in training(trials) if item is not None]


def seeds(training: Training, count: int, first: int = 0) -> range:
    """Return training seeds of one draw of all ways, as the search numbers its own."""
    start = SEEDS * training.chosen.seed + first
    return range(start, start + count)


def full_trials(training: Training) -> list[Trial]:
    """Return two runs of the full source."""
    return [Trial("full", 0, None, None, seed) for seed in seeds(training, 2)]


def by_label_mapping(training: Training, budget: int) -> Candidate | None:
    """Return the best size of a cut by label mapping, by a race; None where groups are no whole classes."""
    full = measured(training, full_trials(training))
    if "label_mapping" not in mean_mappings(full):
        return None
    everything = Candidate(as_keep(np.ones_like(full[0].mask)), FULL)
    scores = {"label mapping": training.shares() @ mean_mappings(full)["label_mapping"]}
    sizes = [max(1, round(share * len(everything.keep))) for share in SIZES]

    def models(wanted: Sequence[tuple[Candidate, int]]) -> list[list[Measurement]]:
        rows = [
            [Trial("race", 0, item.keep if item.removed else None, None, seed) for seed in seeds(training, count)]
            for item, count in wanted
        ]
        training([trial for row in rows for trial in row])
        return [measured(training, row) for row in rows]

    return racing.race([everything, *cut(scores, sizes)], budget - 2, models)[-1][0].candidate


def by_curation(training: Training, budget: int, certain: bool = True) -> Candidate:
    """Return what `curate=true` proposes from random halves and two full runs.

    certain: propose nothing where no removal gains more than its error; else the number of groups that gains most on
        held-out models, whatever its error.
    """
    full = measured(training, full_trials(training))
    first, *_ = seeds(training, 1)
    halves = measured(training, [Trial("explore", 0, None, draw, first) for draw in seeds(training, budget - 2)])
    subsets, shares = explored_subsets(halves, mean_mappings(full), training.shares())
    outputs = [item.choosing.output for item in full]
    proposal = propose(subsets, shares, outputs)
    if not certain:
        proposal = propose(subsets, shares, outputs, remove=proposal.expected.removed)
    return Candidate(as_keep(proposal.keep), "curation" if certain else "influences")


def by_influences(training: Training, budget: int) -> Candidate:
    """Return the source without the worst groups by influences, as many as gain most on held-out models."""
    return by_curation(training, budget, certain=False)


def by_tpe(training: Training, budget: int) -> Candidate:
    """Return the best subset that a tree-structured Parzen estimator saw."""
    import optuna

    sampler = optuna.samplers.TPESampler(seed=training.chosen.seed, multivariate=True, constant_liar=True)
    return by_optimiser(training, budget, sampler)


def by_botorch(training: Training, budget: int) -> Candidate:
    """Return the best subset that Bayesian optimisation by BoTorch saw."""
    from optuna_integration import BoTorchSampler

    return by_optimiser(training, budget, BoTorchSampler(seed=training.chosen.seed))


def by_optimiser(training: Training, budget: int, sampler: Any) -> Candidate:
    """Return the best subset that a sampler of Optuna's saw, one switch a group, two runs at a time."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    switches = {name: optuna.distributions.CategoricalDistribution([True, False]) for name in training.groups}
    study.enqueue_trial(dict.fromkeys(switches, True))
    for first in seeds(training, budget)[::2]:
        asked = [study.ask(switches) for _ in range(2)]
        keeps = [tuple(bool(item.params[name]) for name in switches) for item in asked]
        made = training([Trial("race", 0, keep, None, first) for keep in keeps])
        for item, model in zip(asked, made, strict=True):
            if model is None:
                study.tell(item, state=optuna.trial.TrialState.FAIL)
            else:
                study.tell(item, racing.value(model))
    return Candidate(tuple(bool(study.best_params[name]) for name in switches), type(sampler).__name__)


def by_search(training: Training, budget: int) -> Candidate:
    """Return the winner of a search, whose own verification is as short as can be."""
    settings = SearchSettings(budget=budget, seed=training.chosen.seed, verify=1, tolerance=None)
    return Search(training, settings, lambda line: print(line, flush=True)).run().winner


WAYS: dict[str, Way] = {
    "label mapping": by_label_mapping,
    "influences": by_influences,
    "curate=true": by_curation,
    "TPE": by_tpe,
    "BoTorch": by_botorch,
    "search": by_search,
}


@dataclass(frozen=True)
class Result:
    """What new models say of one way's winner.

    Attributes:
        removed: names of the groups that it removes; of random removals, those of the first model.
        unseen: score of each model on the examples that no choice has seen, float[models].
        every: as `unseen`, on all target examples.
    """

    removed: tuple[str, ...]
    unseen: Array
    every: Array

    @classmethod
    def of_models(cls, groups: Sequence[str], models: Sequence[Measurement]) -> Result:
        """Return the result of a way's models."""
        removed = tuple(group for group, kept in zip(groups, models[0].mask, strict=True) if not kept)
        unseen, every = ([getattr(item, part).score for item in models] for part in ("unseen", "every"))
        return cls(removed, np.array(unseen), np.array(every))


def results(training: Training, options: argparse.Namespace) -> dict[str, Result]:
    """Return what new models say of each way's winner, of the full source and of random removals."""
    training(full_trials(training))
    tried = {name: WAYS[name](training, options.budget) for name in options.ways}
    winners = {name: winner for name, winner in tried.items() if winner is not None}
    last = winners.get(options.ways[-1])
    if last is None:
        raise SystemExit(f"{options.ways[-1]} needs groups that are whole classes; name another way last")
    if options.planted:
        winners["planted"] = Candidate(as_keep(listed(training.groups, drop=options.planted)), "planted")
    trials = verification_trials(winners, last, seeds(training, options.verify, SEEDS // 2))
    return {name: Result.of_models(training.groups, measured(training, part)) for name, part in trials.items()}


def average(means: Sequence[Mean]) -> Mean:
    """Return the mean of independent means."""
    return reduce(lambda total, item: total - item.scaled(np.array(-1.0)), means).scaled(np.array(1 / len(means)))


def excess(first: Result, second: Result, every: bool = False) -> Mean:
    """Return by how much the models of one subset score higher than those of another; surely 0 for the same models."""
    a, b = (result.every if every else result.unseen for result in (first, second))
    difference = Mean.from_runs(a) - Mean.from_runs(b)
    return difference.scaled(np.array(0.0)) if np.array_equal(a, b) else difference


def show(draws: Sequence[dict[str, Result]], last: str, models: int) -> None:
    """Print what each way gained, and how much more the last one gained."""
    full = [100 * draw[FULL].unseen.mean() for draw in draws]
    print(f"full source {np.mean(full):.2f}; gains in points by {models} models of each winner; draws: {len(draws)}")
    for name in draws[-1]:
        rows = [draw for draw in draws if name in draw]
        if name == FULL or not rows:
            continue
        gains, every = ([excess(row[name], row[FULL], both) for row in rows] for both in (False, True))
        text = [Interval.around(average(part), models).in_points() for part in (gains, every)]
        more = average([excess(row[last], row[name]) for row in rows])
        p = float(pvalues(more.value, np.sqrt(more.variance), more.dof))
        each = ", ".join(f"{100 * float(item.value):+.2f}" for item in gains)
        print(f"| {name} | {text[0]} | on all {text[1]} | each draw: {each} |")
        if name != last:
            print(f"    {last} less {name}: {Interval.around(more, models).in_points()}, p {p:.4f}")
        for row in [] if name == RANDOM else rows:
            print(f"    without {len(row[name].removed)}: {', '.join(row[name].removed)}", flush=True)


def main() -> None:
    """Print what each way gained."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", help="of train.py")
    parser.add_argument("--budget", type=int, default=100, help="runs of each way, an even number")
    parser.add_argument("--verify", type=int, default=24, help="new models of each winner")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="draws of all but the data")
    parser.add_argument("--out", type=Path, default=ROOT / "outputs/benchmark_search", help="a folder for records")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--ways", nargs="+", default=list(WAYS))
    parser.add_argument("--planted", nargs="+", default=[], help="groups whose removal is verified too")
    options = parser.parse_intermixed_args()
    sys.path.append(str(ROOT))  # sources of benchmarks/conf name what makes them by a dotted path from there
    with (
        ProcessPoolExecutor(options.processes, get_context("spawn")) as processes,
        initialize_config_dir(config_dir=str(CONFIGS), version_base="1.3"),
    ):
        pool = Pool(processes)
        line = [f"hydra.searchpath=[file://{ROOT / 'benchmarks/conf'}]", "logger=none"]
        line += [f"runs_dir={options.out.resolve()}", *options.overrides]
        targets = list(plain(compose("train", overrides=line))["target"])
        weights = dict.fromkeys(targets, 1 / len(targets))
        draws = [
            results(Training(pool, line, weights, SearchSettings(seed=seed)), options)  # type: ignore[arg-type]  # a pool composes and performs
            for seed in options.seeds
        ]
    show(draws, options.ways[-1], options.verify)


if __name__ == "__main__":
    main()
