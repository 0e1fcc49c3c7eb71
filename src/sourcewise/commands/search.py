"""The search as a command: it trains what the search asks for by the launcher, and writes what it ends with.

It keeps no state of its own. Killed at any moment, the same command reads the records of what was trained and goes on.
Several processes may search side by side: each takes the runs of a step that no other holds, and waits for the rest.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from sourcewise.acting.curation import target_weights
from sourcewise.acting.search import account
from sourcewise.acting.search.program import Search
from sourcewise.acting.search.settings import SearchSettings
from sourcewise.acting.search.trials import Trial
from sourcewise.acting.search.verification import VerifiedSource
from sourcewise.core import names, settings
from sourcewise.core.errors import RunFailed, SourcewiseError
from sourcewise.core.files import check_place, write_atomically
from sourcewise.core.messages import first_names
from sourcewise.core.overrides import NO_SEARCH, names_subset, quote
from sourcewise.core.splits import Split
from sourcewise.designs.chosen_designs import named_mask
from sourcewise.designs.files import read_names, read_ranking, write_names
from sourcewise.records import record
from sourcewise.records.record import Record
from sourcewise.study.measurements import Measurement, class_shares, measure
from sourcewise.study.split_values import Array
from sourcewise.sweep.launcher import LocalLauncher
from sourcewise.sweep.runs import Run

FAILED = "failed.json"
"""In the folder of a run that failed for good: why. Decisions read it like a record."""


@dataclass
class Training:
    """Trains the runs of a search by a launcher, or reads their records.

    Attributes:
        launcher: does the runs.
        overrides: of the command line, without those of the search.
        weights: of the targets, which sum to one.
        chosen: the settings of the search.
        first: the first record, once there is one.
        runs: all that were asked for.
    """

    launcher: LocalLauncher
    overrides: Sequence[str]
    weights: Mapping[str, float]
    chosen: SearchSettings
    first: Record | None = None
    runs: list[Run] = field(default_factory=list)
    _templates: dict[str, Run] = field(default_factory=dict)

    def __call__(self, trials: Sequence[Trial], state: str = "") -> list[Measurement | None]:
        """Return the measurement of each run, None where it failed for good. state: what the progress bar shows."""
        runs = [self._run(trial) for trial in trials]
        self.runs += runs
        todo = [run for run in runs if names.is_done(run.folder) or not (run.folder / FAILED).exists()]
        try:
            self.launcher.perform(todo, f"{state}: " if state else "")
        except RunFailed:
            is_cut_short = any(run.state not in ("done", "failed") for run in todo)  # by fail_fast
            if is_cut_short or not any(run.state == "done" for run in todo):
                raise
            for run in todo:
                if run.state == "failed":
                    write_atomically(run.folder / FAILED, json.dumps({"cause": run.cause}).encode())
        return [self._measure(run) for run in runs]

    @property
    def split(self) -> Split:
        """Which target examples choices look at."""
        return Split(self.chosen.choose, self.chosen.seed)

    @property
    def groups(self) -> list[str]:
        """Names of the groups. Groups that are examples go by their numbers."""
        item = self._first_record()
        return item.header.group_names or list(map(str, range(len(item.mask))))

    def shares(self) -> Array:
        """Return the share of each class in the mean output, float[C]."""
        return class_shares(self._first_record(), self.weights, self.split)

    def listed(self) -> dict[str, list[bool]]:
        """Return the subsets without the groups of each list, or file of names. Raises SourcewiseError for bad ones."""
        return {
            name: named_mask(self.groups, drop, False, f"search.candidates: {name}").tolist()
            for name, drop in _lists(self.chosen).items()
        }

    def rankings(self) -> dict[str, Array]:
        """Return the rankings that the user names, float[G] by file. Raises SourcewiseError for bad ones."""
        scores = {file: self._by_group(file, "search.rankings") for file in self.chosen.rankings or ()}
        for file, values in scores.items():
            if np.isnan(values).any():
                unknown = np.array(self.groups)[np.isnan(values)].tolist()
                raise SourcewiseError(
                    f"search.rankings={file}: it has no score of {first_names(unknown, show=repr)}; give each group one"
                )
        return scores

    def costs(self) -> Array:
        """Return what each group costs, float[G]: as the user's file says, or its number of source examples.

        Raises SourcewiseError for a file that says nothing of some group, or no cost.
        """
        if self.chosen.cost is None:
            return np.array(self._first_record().header.group_sizes or np.ones(len(self.groups)), dtype=np.float64)
        costs = self._by_group(self.chosen.cost, "search.cost")
        bad = [name for name, cost in zip(self.groups, costs, strict=True) if not 0 <= cost < np.inf]
        if bad or not costs.any():
            which = f"not for {first_names(bad, show=repr)}" if bad else "all are 0"
            raise SourcewiseError(f"search.cost={self.chosen.cost}: each cost must be 0 or more, one above 0; {which}")
        return costs

    def exploring_cost(self) -> float:
        """Return the cost of a run that explores, in runs; a proxy's transfer costs about a quarter of a run."""
        if self.chosen.proxy is None:
            return 1.0
        explorer, run = self._template("explore").config, self._template("random").config
        kept = explorer["subset"]["fraction"] / run["subset"]["fraction"]
        return float(np.clip(kept * explorer["source"]["pretraining"].get("length", 1.0), 0.25, 1.0))

    def _by_group(self, file: str, setting: str) -> Array:
        """Return a file's numbers in the order of the groups, float[G]. Raises SourcewiseError for other groups."""
        scores = read_ranking(Path(file), None, setting).scores
        if missing := [name for name in self.groups if name not in scores]:
            raise SourcewiseError(f"{setting}={file}: it has no number for {first_names(missing, show=repr)}")
        return np.array([scores[name] for name in self.groups])

    def _template(self, kind: str) -> Run:
        """Return a run of a kind, as the launcher composes it; each kind is composed once."""
        if kind not in self._templates:
            line = [*self.overrides, NO_SEARCH, f"subset={'random' if kind == 'explore' else kind}"]
            line += [f"subset.keep={quote(self.groups)}"] if kind == "listed" else []
            line += [f"proxy={self.chosen.proxy}"] if kind == "explore" and self.chosen.proxy else []
            self._templates[kind] = self.launcher.compose([line])[0]
        return self._templates[kind]

    def _first_record(self) -> Record:
        assert self.first is not None
        return self.first

    def _measure(self, run: Run) -> Measurement | None:
        if not names.is_done(run.folder):
            return None
        item = record.read(run.folder / names.RECORD)
        self.first = self.first or item
        return measure(item, self.weights, self.split)

    def _run(self, trial: Trial) -> Run:
        """Return a run of the launcher: the template of its kind, with the trial's subset and seed."""
        kind = "explore" if trial.draw is not None else "full" if trial.keep is None else "listed"
        template, changed = self._template(kind), dict[str, Any]()
        if kind == "explore":
            changed["seed"] = trial.draw
        elif trial.keep is not None:
            changed["keep"] = [name for name, kept in zip(self.groups, trial.keep, strict=True) if kept]
        logger = template.config["logger"]
        if "tags" in logger:
            logger = {**logger, "tags": [*logger["tags"], "search", f"{trial.phase}-{trial.round}"]}
        subset = {**template.config["subset"], **changed}
        config = {**template.config, "subset": subset, "seed": trial.seed, "logger": logger}
        line = [item for item in template.overrides if not item.startswith("subset.keep=")]
        line += [f"seed={trial.seed}", *(f"subset.{key}={quote(value)}" for key, value in changed.items())]
        return replace(template, config=config, overrides=line, log=names.run_dir(config) / names.LOG)


def _lists(chosen: SearchSettings) -> dict[str, list[str | int]]:
    """Return the lists of groups to remove in `search.candidates`, by the names of files, or by numbers.

    Raises SourcewiseError for a file that cannot be read.
    """
    lists: dict[str, list[str | int]] = {}
    for number, item in enumerate(chosen.candidates or (), 1):
        if isinstance(item, str):
            lists[item] = [*read_names(item, "search.candidates", f"search.candidates=[[{item}]]")]
        else:
            lists[f"list {number}"] = [*item]
    return lists


def _check_files(chosen: SearchSettings) -> None:
    """Raise SourcewiseError for a file that cannot be read, before anything is trained."""
    _lists(chosen)
    for file in chosen.rankings or ():
        read_ranking(Path(file), None, "search.rankings")
    if chosen.cost is not None:
        read_ranking(Path(chosen.cost), None, "search.cost")


def _write_lists(
    out: Path, keep: Sequence[str], drop: Sequence[str], verified: VerifiedSource | None, suffix: str = ""
) -> None:
    """Write the groups of an answer for `subset=listed`, with what is verified of it."""
    gain = "" if verified is None else f"; verified gain over the full source: {verified.full.in_points()} points"
    write_names(out / f"keep{suffix}.txt", f"{len(keep)} groups to keep{gain}", keep)
    write_names(out / f"drop{suffix}.txt", f"{len(drop)} groups to remove{gain}", drop)


def search(launcher: LocalLauncher, overrides: Sequence[str], config: Mapping[str, Any]) -> None:
    """Search for a better source; write keep.txt, drop.txt and search.json, and print what was found.

    overrides: of the command line, without those of the search. config: that they compose. Raises SourcewiseError for
    bad settings, RunFailed when all runs of a step fail.
    """
    settings.check_arguments(SearchSettings, config["search"], "search")
    if launcher.status:
        raise SourcewiseError("search: hydra.launcher.status=true counts the runs of a sweep; a search decides its own")
    if names_subset(overrides):
        raise SourcewiseError(
            "search: it chooses subsets and training seeds itself; leave out subset and seed (search.seed=1 is another"
            " search)"
        )
    chosen = SearchSettings(**config["search"])
    _check_files(chosen)
    out = Path(config["runs_dir"]).parent / account.FOLDER
    check_place(out)
    weights = target_weights(chosen.weights or True, list(config["target"]), "search.weights")
    training = Training(launcher, overrides, weights, chosen)
    steps = Search(training, chosen, lambda line: print(line, file=sys.stderr, flush=True))
    with launcher.workers_kept():
        result = steps.run()
    done = account.account(result, chosen, weights, training.groups)
    out.mkdir(parents=True, exist_ok=True)
    for earlier in out.glob("*_smaller.txt"):  # of a search that had a second answer
        earlier.unlink()
    _write_lists(out, done.keep, done.drop, done.verified)
    if done.smaller is not None:
        _write_lists(out, done.smaller.keep, done.smaller.drop, done.smaller.verified, "_smaller")
    account.write(out / account.FILE, done)
    print("\n".join([*account.sentences(done), str(out / account.FILE)]), flush=True)
    launcher.close(training.runs)
