"""What each way to a better source gains at equal runs, verified by models and examples that no choice has seen.

    OMP_NUM_THREADS=1 python benchmarks/search.py                       # the embedded default, minutes on two cores
    OMP_NUM_THREADS=1 python benchmarks/search.py source=planted_harm   # or other overrides of train.py

Each way gets the same number of runs: label mapping of two full runs, cut at five sizes that race; `curate=true`, which
ranks by random halves, and what it would remove if it did not ask for certainty; two optimisers over one switch a
group, as a user would reach for them (`pip install optuna optuna-integration botorch`): a tree-structured Parzen
estimator and Bayesian optimisation by BoTorch; and the search. Then each winner, the full source and random removals of
as many groups as the search removed are trained with the same new seeds. Prints a row of a table: gains in score over
the full source, in points, with 95% intervals, on the half of the target examples that no choice has seen. Trains into
outputs/benchmark_search what is not there yet.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import redirect_stderr, redirect_stdout
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from hydra import compose, initialize_config_dir

from sourcewise.acting.counterfactuals import gain
from sourcewise.acting.curation import propose
from sourcewise.acting.search import racing
from sourcewise.acting.search.candidates import FULL, Candidate, as_keep, cut, explored_subsets, mean_mappings
from sourcewise.acting.search.program import SIZES, Search, SearchSettings
from sourcewise.acting.search.trials import Trial
from sourcewise.acting.search.verification import RANDOM, verification_trials
from sourcewise.commands.cli import CONFIGS
from sourcewise.commands.search import Training
from sourcewise.commands.train import train
from sourcewise.core import names
from sourcewise.designs.chosen_designs import listed
from sourcewise.study.measurements import Measurement
from sourcewise.sweep.composition import plain
from sourcewise.sweep.runs import Run

ROOT = Path(__file__).parents[1]
VERIFIED = 500_000
"""The first seed of the verification."""


def train_quietly(config: dict[str, Any]) -> None:
    """Do a run without its lines."""
    with Path(os.devnull).open("w") as null, redirect_stdout(null), redirect_stderr(null):
        train(config)


class Pool:
    """Composes and trains as a launcher does, for a search: in processes of this one's, without a sweep."""

    def __init__(self, processes: int) -> None:
        self._processes = ProcessPoolExecutor(processes, get_context("spawn"))

    def compose(self, lines: Sequence[Sequence[str]]) -> list[Run]:
        """Return the runs of some lines of overrides."""
        configs = [plain(compose("train", overrides=list(line))) for line in lines]
        return [
            Run(0, config, names.run_dir(config) / names.LOG, list(line))
            for config, line in zip(configs, lines, strict=True)
        ]

    def perform(self, runs: list[Run], label: str = "") -> None:
        """Do the runs that are not done."""
        todo = [run.config for run in runs if not names.is_done(run.folder)]
        print(f"{label} {len(todo)} of {len(runs)} runs", flush=True)
        list(self._processes.map(train_quietly, todo))


Way = Callable[[Training, int], Candidate | None]
"""From a trainer and a number of runs to a subset; None where this source has no such way."""


def measured(training: Training, trials: Sequence[Trial]) -> list[Measurement]:
    """Return the models of runs that did not fail."""
    return [item for item in training(trials) if item is not None]


def full_trials() -> list[Trial]:
    """Return two runs of the full source."""
    return [Trial("full", 0, None, None, seed) for seed in range(2)]


def by_label_mapping(training: Training, budget: int) -> Candidate | None:
    """Return the best size of a cut by label mapping, by a race; None where groups are no whole classes."""
    full = measured(training, full_trials())
    if "label_mapping" not in mean_mappings(full):
        return None
    everything = Candidate(as_keep(np.ones_like(full[0].mask)), FULL)
    scores = {"label mapping": training.shares() @ mean_mappings(full)["label_mapping"]}
    sizes = [max(1, round(share * len(everything.keep))) for share in SIZES]

    def models(wanted: Sequence[tuple[Candidate, int]]) -> list[list[Measurement]]:
        rows = [
            [Trial("race", 0, item.keep if item.removed else None, None, seed) for seed in range(count)]
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
    full = measured(training, full_trials())
    halves = measured(training, [Trial("explore", 0, None, seed, 0) for seed in range(budget - 2)])
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

    return by_optimiser(training, budget, optuna.samplers.TPESampler(seed=0, multivariate=True, constant_liar=True))


def by_botorch(training: Training, budget: int) -> Candidate:
    """Return the best subset that Bayesian optimisation by BoTorch saw."""
    from optuna_integration import BoTorchSampler

    return by_optimiser(training, budget, BoTorchSampler(seed=0))


def by_optimiser(training: Training, budget: int, sampler: Any) -> Candidate:
    """Return the best subset that a sampler of Optuna's saw, one switch a group, two runs at a time."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    switches = {name: optuna.distributions.CategoricalDistribution([True, False]) for name in training.groups}
    study.enqueue_trial(dict.fromkeys(switches, True))
    for first in range(0, budget, 2):
        asked = [study.ask(switches) for _ in range(min(2, budget - first))]
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
    settings = SearchSettings(budget=budget, verify=1, tolerance=None)
    return Search(training, settings, lambda line: print(line, flush=True)).run().winner


WAYS: dict[str, Way] = {
    "label mapping": by_label_mapping,
    "influences": by_influences,
    "curate=true": by_curation,
    "TPE": by_tpe,
    "BoTorch": by_botorch,
    "search": by_search,
}


def main() -> None:
    """Print what each way gained."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", help="of train.py")
    parser.add_argument("--budget", type=int, default=100, help="runs of each way")
    parser.add_argument("--verify", type=int, default=24, help="new models of each winner")
    parser.add_argument("--out", type=Path, default=ROOT / "outputs/benchmark_search", help="a folder for records")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--ways", nargs="+", default=list(WAYS))
    parser.add_argument("--planted", nargs="+", default=[], help="groups whose removal is verified too")
    options = parser.parse_args()
    runs = options.out.resolve()
    sys.path.append(str(ROOT))  # sources of benchmarks/conf name what makes them by a dotted path from there
    with initialize_config_dir(config_dir=str(CONFIGS), version_base="1.3"):
        line = [f"hydra.searchpath=[file://{ROOT / 'benchmarks/conf'}]", "logger=none", f"runs_dir={runs}"]
        line += options.overrides
        targets = list(plain(compose("train", overrides=line))["target"])
        weights = dict.fromkeys(targets, 1 / len(targets))
        training = Training(Pool(options.processes), line, weights, SearchSettings())  # type: ignore[arg-type]  # a pool composes and performs
        training(full_trials())
        tried = {name: WAYS[name](training, options.budget) for name in options.ways}
        winners = {name: winner for name, winner in tried.items() if winner is not None}
        last = winners[options.ways[-1]]
        if options.planted:
            winners["planted"] = Candidate(as_keep(listed(training.groups, drop=options.planted)), "planted")
        seeds = range(VERIFIED, VERIFIED + options.verify)
        trials = verification_trials(winners, last, seeds)
        models = {name: measured(training, part) for name, part in trials.items()}
    full = [item.unseen.score for item in models[FULL]]
    print(f"full source {100 * np.mean(full):.2f}; gains in points by {options.verify} models each")
    for name in (RANDOM, *winners):
        if name in models:
            unseen = gain([item.unseen.score for item in models[name]], full)
            every = gain([item.every.score for item in models[name]], [item.every.score for item in models[FULL]])
            removed = [group for group, kept in zip(training.groups, models[name][0].mask, strict=True) if not kept]
            print(f"| {name} | {len(removed)} removed | {unseen.in_points()} | on all {every.in_points()} |")
            if name != RANDOM:
                print(f"    without {', '.join(removed)}", flush=True)


if __name__ == "__main__":
    main()
