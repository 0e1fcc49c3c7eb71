"""One pass over the records of a study, into arrays."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sourcewise.core.errors import SourcewiseError
from sourcewise.core.overrides import NO_SEARCH
from sourcewise.core.splits import HALVES, Split
from sourcewise.core.spool import Spool
from sourcewise.designs import recorded_design
from sourcewise.estimation.arrays import Index, PackedMasks
from sourcewise.estimation.identifiability import limits
from sourcewise.records.reading import METRIC
from sourcewise.records.reading import LeftOut as LeftOut  # for the report
from sourcewise.records.record import Header as Header  # also for the report
from sourcewise.records.record import Record, TargetOutputs
from sourcewise.study.baselines import MeanMappings
from sourcewise.study.outputs import (
    ACCURACY,
    UNITS,
    LabelAgreement,
    Outputs,
    class_means,
    is_correct,
    logit_scale,
    output_values,
    score_name,
)
from sourcewise.study.recipes import Sweeps, train_command
from sourcewise.study.split_values import SplitValues, split_values, target_metric
from sourcewise.study.training_time import covered, stretches

RANDOM = "random"
"""The curve of runs that remove random groups."""
SMALL = 2**25
"""Up to this many outputs and influences, float64 costs nothing that anybody would notice; beyond, float32 and disk."""

EXACT = 2**23
"""Outputs on a target up to which products of them run in float64, for all digits; beyond, in float32."""


@dataclass(frozen=True)
class StudyTarget:
    """Outputs of the models of random subsets on one target.

    Attributes:
        ids: int[examples], which examples of the target's dataset these are.
        labels: int[examples].
        class_names: names of the classes.
        examples: float[models, examples], the study's output, mapped from a file.
        logits: float[models, examples], the output on the logit scale (see `logit_scale`), mapped from a file.
        class_means: float[models, classes], mean output over the examples of each class; 0 for a class without any.
        overall_means: float[models], mean output over all examples.
        scores: float[models], the score of each model.
        score: what that is: accuracy, the scalar, or the mean output where predictions are not known.
    """

    ids: NDArray[np.int32]
    labels: NDArray[np.int32]
    class_names: tuple[str, ...]
    examples: Outputs
    logits: Outputs
    class_means: NDArray[np.float64]
    overall_means: NDArray[np.float64]
    scores: NDArray[np.float64]
    score: str

    @property
    def class_sizes(self) -> Index:
        """int[classes], how many examples each class has."""
        return np.bincount(self.labels, minlength=len(self.class_names))


@dataclass(frozen=True)
class CounterfactualRun:
    """One model of a subset that was chosen, not drawn at random.

    Attributes:
        study: name of its study where that is another than the influences'; else empty.
        curve: `worst, <ranking>`, `best, <ranking>` or `random`; empty for a listed subset and for the full source.
        mask: bool[groups], the groups that it kept.
        seed: its training seed.
        values: mean of the study's output and score, by target.
    """

    study: str
    curve: str
    mask: NDArray[np.bool_]
    seed: str
    values: Mapping[str, SplitValues]


@dataclass(frozen=True)
class ExampleRuns:
    """Outputs of all runs of one subset on every example of a target; float16[runs, examples] each.

    Attributes:
        values: the study's output.
        correct: 1 where the prediction is right, else 0.
        logits: the output on the logit scale.
    """

    values: NDArray[np.float16]
    correct: NDArray[np.float16]
    logits: NDArray[np.float16]

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, runs: Any) -> ExampleRuns:
        """Return some of the runs."""
        return ExampleRuns(self.values[runs], self.correct[runs], self.logits[runs])


NO_RUNS = ExampleRuns(*np.zeros((3, 0, 0), np.float16))


@dataclass(frozen=True)
class Study:
    """All that analyses need of the records of one recipe.

    Attributes:
        header: of the first record.
        output: the output of the models that influences are on.
        split: which target examples choices look at, and which judge what was chosen.
        designs: number of records by design of their subset.
        chosen_designs: number of records by design, of those whose subset was chosen, not drawn at random.
        seconds: wall time by stage, summed over all records.
        elapsed: seconds in which at least one of the runs was training; None if a record does not hold its times.
        sweeps: those that the records come from.
        masks: subsets of the records that influences rest on, those drawn at random.
        seeds: their training seeds, str[models].
        targets: their outputs, by target.
        mappings: outputs of the first run that kept all groups, by target, with the mean label and feature mapping over
            all such runs.
        counterfactual_runs: models of chosen subsets, without those that raced in a search.
        full_runs: of those that keep all groups, the outputs on every example, by target.
        runs_without: of those that keep all groups but one, the outputs on every example, by target and number of the
            group. full_runs and runs_without are empty where groups are examples.
        label_agreement: how often models predict the source's labels; None where records do not hold that.
        paths: file of every example as seen from its dataset's root, object[examples], by target; and of every group
            under "", where groups are examples. None for one without a file; by no name where no file is known.
        stretches: of time in which random models were trained, with long pauses between, as when a study grows.
    """

    header: Header
    output: str
    split: Split
    designs: Mapping[str, int]
    chosen_designs: Mapping[str, int]
    seconds: Mapping[str, float]
    elapsed: float | None
    sweeps: Sweeps
    masks: PackedMasks
    seeds: NDArray[np.str_]
    targets: Mapping[str, StudyTarget]
    mappings: Mapping[str, TargetOutputs]
    counterfactual_runs: tuple[CounterfactualRun, ...]
    full_runs: Mapping[str, ExampleRuns]
    runs_without: Mapping[str, Mapping[int, ExampleRuns]]
    label_agreement: LabelAgreement | None
    paths: Mapping[str, NDArray[np.object_]]
    stretches: int = 1

    def has_examples(self, target: str) -> bool:
        """Return whether there are outputs of single examples, and groups of several source examples."""
        return self.header.group_names is not None and len(self.targets[target].ids) >= 2

    def is_large(self, target: str) -> bool:
        """Return whether the outputs on all examples, or all influences, are more than `SMALL`."""
        return len(self.targets[target].ids) * max(self.groups, self.models) > SMALL

    def in_precision(self, target: str, outputs: Outputs) -> Outputs:
        """Return outputs on all examples of a target in the precision in which products of them should run."""
        return outputs if self.is_large(target) or outputs.size > EXACT else outputs.astype(np.float64)

    @property
    def models(self) -> int:
        """How many records the influences rest on."""
        return len(self.masks)

    @property
    def groups(self) -> int:
        """How many groups the source has."""
        return self.masks.groups

    @property
    def group_names(self) -> list[str]:
        """Names of the groups; their numbers, where groups are examples."""
        return self.header.group_names or [str(i) for i in range(self.groups)]

    @property
    def limits(self) -> list[str]:
        """What these subsets cannot tell, a sentence each."""
        return limits(self.masks, self.group_names)


def collect(records: Iterable[Record], output: str = "prob", split: Split = HALVES) -> Study:
    """Collect the records of one study in one pass, in memory that does not grow with records times examples.

    Influences rest on randomly drawn subsets alone: those chosen by hand or by a ranking would bias them. With an
    output `metric:<name>`, records are those of `Records.with_output`. split: which target examples choices look at.

    Raises SourcewiseError for an unknown output, or when no record has a random subset.
    """
    if output not in UNITS and not output.startswith(METRIC):
        raise SourcewiseError(f"outputs={output}: choose one of {', '.join(UNITS)}, or metric:<name of a scalar>")
    collector: _Collector | None = None
    for record in records:
        collector = collector or _Collector(record, output, split)
        collector.add(record)
    if collector is None:
        raise SourcewiseError("there are no records")
    if not collector.masks:
        more = train_command(collector.header, "subset=random", "subset.seed=range(0,96)")
        raise SourcewiseError(f"no record has a randomly drawn subset, which influences need; train some: {more}")
    return collector.study()


def join_counterfactuals(study: Study, records: Iterable[Record]) -> Study:
    """Return the study with the models of chosen subsets from another place, whose recipe may be another.

    Raises SourcewiseError when their source has other groups.
    """
    present = {(run.mask.tobytes(), run.seed) for run in study.counterfactual_runs if not run.study}
    runs = list(study.counterfactual_runs)
    for record in records:
        header = record.header
        if header.group_names != study.header.group_names or len(record.mask) != study.groups:
            raise SourcewiseError(
                f"counterfactuals: the {len(record.mask)} groups of {header.run} in {header.study} are not the"
                f" {study.groups} groups of {study.header.study}"
            )
        name = "" if header.study == study.header.study else header.study
        is_present = not name and (record.mask.tobytes(), str(header.seed)) in present
        if not (header.is_random or is_present or _was_raced(header)):
            runs.append(_counterfactual_run(record, study.output, study.split, name))
    return replace(study, counterfactual_runs=tuple(runs))


class _Collector:
    """Accumulates what all records of a study hold, one record at a time."""

    def __init__(self, first: Record, output: str, split: Split) -> None:
        self.header, self._groups, self._output, self._split = first.header, len(first.mask), output, split
        self._designs, self._chosen_designs, self._seconds = Counter[str](), Counter[str](), Counter[str]()
        self._sweeps, self.masks = Sweeps(), Spool()
        self._times: list[tuple[float, float]] = []
        self._random_times: list[tuple[float, float]] = []
        self._seeds: list[str] = []
        self._targets: dict[str, _TargetCollector] = {}
        self._mappings = MeanMappings()
        self._runs: list[CounterfactualRun] = []
        self._single: dict[str, dict[int, list[NDArray[np.float16]]]] = defaultdict(lambda: defaultdict(list))
        self._agreement: LabelAgreement | None = None
        self._paths: dict[str, NDArray[np.object_]] = {}

    def add(self, record: Record) -> None:
        self._designs[record.header.design] += 1
        self._sweeps.add(record.header)
        self._seconds.update(dict(record.header.seconds))
        if (end := record.header.finished) is not None:
            self._times.append((end - sum(record.header.seconds.values()), end))
        self._mappings.add(record)
        if record.header.is_random:
            self._random_times += self._times[-1:] if end is not None else []
            self._add_random(record)
            return
        self._chosen_designs[record.header.design] += 1
        if self._output in UNITS and not _was_raced(record.header):
            self._add_chosen(record)

    def _add_random(self, record: Record) -> None:
        self.masks.append(np.packbits(record.mask))
        self._seeds.append(f"{record.header.seed}{_from_subset(record, recorded_design(record.header.design).replica)}")
        for name, outputs in record.targets.items():
            if name not in self._targets:
                self._targets[name] = _TargetCollector(outputs, record.header.class_names[name], self._output)
            self._targets[name].add(outputs)
            self._add_paths(name, outputs)
        groups_are_examples = record.header.group_names is None
        if record.source is not None and groups_are_examples and len(record.source.labels) == len(record.mask):
            self._agreement = self._agreement or LabelAgreement(len(record.mask))
            self._agreement.add(record.mask, record.source)
            self._add_paths("", record.source)

    def _add_paths(self, name: str, outputs: TargetOutputs) -> None:
        if name not in self._paths and (paths := outputs.paths) is not None:
            self._paths[name] = paths

    def _add_chosen(self, record: Record) -> None:
        self._runs.append(_counterfactual_run(record, self._output, self._split))
        dropped = [*np.flatnonzero(~record.mask).tolist(), -1]  # -1: all groups are kept
        if len(dropped) <= 2 and record.header.group_names:
            for name, outputs in record.targets.items():
                columns = output_values(outputs, self._output), is_correct(outputs), logit_scale(outputs, self._output)
                self._single[name][dropped[0]].append(np.array(columns, np.float16))

    def study(self) -> Study:
        single = {
            name: {group: ExampleRuns(*np.stack(runs, axis=1)) for group, runs in by_group.items()}
            for name, by_group in self._single.items()
        }
        return Study(
            header=self.header,
            output=self._output,
            split=self._split,
            designs=dict(self._designs),
            chosen_designs=dict(self._chosen_designs),
            seconds=dict(self._seconds),
            elapsed=covered(self._times) if len(self._times) == sum(self._designs.values()) else None,
            sweeps=self._sweeps,
            masks=PackedMasks(self.masks.array(), self._groups),
            seeds=np.array(self._seeds),
            targets={name: target.target() for name, target in self._targets.items()},
            mappings=self._mappings.means(),
            counterfactual_runs=tuple(self._runs),
            full_runs={name: runs.pop(-1) for name, runs in single.items() if -1 in runs},
            runs_without=single,
            label_agreement=self._agreement,
            paths=self._paths,
            stretches=stretches(self._random_times),
        )


class _TargetCollector:
    """Accumulates the outputs on one target, one record at a time."""

    def __init__(self, first: TargetOutputs, class_names: Iterable[str], output: str) -> None:
        self._first, self._class_names, self._output = first, tuple(class_names), output
        self._score = score_name(first, output)
        self._examples, self._logits = Spool(), Spool()
        self._class_means: list[NDArray[np.float64]] = []
        self._overall_means, self._scores = list[float](), list[float]()

    def add(self, outputs: TargetOutputs) -> None:
        values = output_values(outputs, self._output)
        self._examples.append(values)
        self._logits.append(logit_scale(outputs, self._output))
        self._class_means.append(class_means(values, self._first.labels, len(self._class_names)))
        self._overall_means.append(float(values.astype(np.float64).mean()))
        scores = is_correct(outputs) if self._score == ACCURACY else values
        self._scores.append(float(scores.mean()))

    def target(self) -> StudyTarget:
        return StudyTarget(
            ids=self._first.ids,
            labels=self._first.labels,
            class_names=self._class_names,
            examples=self._examples.array(),
            logits=self._logits.array(),
            class_means=np.array(self._class_means),
            overall_means=np.array(self._overall_means),
            scores=np.array(self._scores),
            score=self._score,
        )


def _was_raced(header: Header) -> bool:
    """Return whether a run is one of a search's candidates.

    The best of many that raced looks better than it is, so they are shown as what they are, with the search.
    """
    return header.design == "listed" and NO_SEARCH in (header.overrides or ())


def _counterfactual_run(record: Record, output: str, split: Split, study: str = "") -> CounterfactualRun:
    header = record.header
    return CounterfactualRun(
        study=study,
        curve=_from_subset(record, recorded_design(header.design).curve),
        mask=record.mask,
        seed=str(header.seed),
        values={
            name: split_values(outputs, split, target_metric(header, name), output)
            for name, outputs in record.targets.items()
        },
    )


def _from_subset(record: Record, function: Callable[[Mapping[str, Any]], str]) -> str:
    """Return a function of the record's settings of `subset`. Raises SourcewiseError where it cannot be computed."""
    try:
        return function(record.header.config["subset"])
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise SourcewiseError(
            f"{record.header.run}: its settings of subset are not those of a run ({error!r})"
        ) from error
