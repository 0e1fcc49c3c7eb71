"""What else is known of the groups of a study: tables that its estimate takes as prior means.

An estimate fits the weight of each table from the records, so neither the scale nor the zero of a table matters, and
one that says nothing gets no weight. Tables come from label and feature mapping of full runs, from an estimate of
another study of the same groups, or from its records: another architecture, another target, or a proxy.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from sourcewise.core.errors import SourcewiseError
from sourcewise.estimation.arrays import Index, PackedMasks
from sourcewise.estimation.collapse import Knowledge, Subsets, collapse
from sourcewise.estimation.difference import DIFFERENCE
from sourcewise.estimation.equal_cost import ProxySample
from sourcewise.estimation.hierarchical import HIERARCHICAL
from sourcewise.estimation.moments import GRAM_GROUPS
from sourcewise.estimation.score_interval import score_without_fit
from sourcewise.estimation.scoring import Score as Score  # also for the report
from sourcewise.records.places import as_list
from sourcewise.records.reading import Records
from sourcewise.records.record import Header, Record, TargetOutputs
from sourcewise.study.baselines import MAPPINGS, MeanMappings
from sourcewise.study.collect import Study
from sourcewise.study.estimates import check_other, estimate_files, read_estimate
from sourcewise.study.outputs import class_means, output_values

PriorSetting = Literal["auto"] | str | Sequence[str] | None
"""auto: the mappings of the study's own full runs; places: what is known from there too; None: nothing."""


@dataclass(frozen=True)
class Prior:
    """How far each group helps each class, in any unit.

    Attributes:
        values: float[classes, groups], of the study that takes it.
        models: how many models of random subsets it comes from; None for what full runs say.
        seconds: mean wall time of one of them; None where that is not known.
        proxy: name of their proxy, if they are models of one.
        sample: their subsets, for effects by some of them; None where there are no records.
    """

    values: NDArray[np.float64]
    models: int | None = None
    seconds: float | None = None
    proxy: str = ""
    sample: ProxySample | None = None


Priors = dict[str, dict[str, Prior]]
"""By target and name."""


@dataclass(frozen=True)
class PriorScore:
    """How well a prior alone predicts the models of a study.

    Attributes:
        models: how many models of random subsets it comes from; None for what full runs say.
        cost: what these took, in models of the study; None where that is not known.
        lds: rank correlation of predictions and class means over the study's subsets, mean over classes, with the ends
            of its 95% interval. Classes and scale do not matter, and the study's models are all held out.
    """

    models: int | None
    cost: float | None
    lds: Score


@dataclass(frozen=True)
class PriorTable:
    """What a place knows about one target, in its own classes and order of the groups.

    Attributes:
        name: what results call it.
        target: which target's classes these are.
        classes: their names.
        groups: names of the groups.
        values: float[classes, groups]; NaN where that is not known.
        models, seconds, proxy: as in `Prior`.
        subsets: what the values come from, but for full runs of the place; None where there are no records.
    """

    name: str
    target: str
    classes: tuple[str, ...]
    groups: tuple[str, ...]
    values: NDArray[np.float64]
    models: int | None = None
    seconds: float | None = None
    proxy: str = ""
    subsets: Subsets | None = None

    def aligned(self, classes: Sequence[str], groups: Sequence[str]) -> NDArray[np.float64]:
        """Return the table for other classes and another order of the groups, float[classes, groups].

        A class that the table does not know gets the mean over those that it knows. What is not known of a group is
        the mean over the class's groups, which says nothing.

        Raises SourcewiseError when the groups are not the same.
        """
        if differ := sorted(set(self.groups) ^ set(groups)):
            where = "there alone" if differ[0] in self.groups else "missing there"
            raise SourcewiseError(
                f"its {len(self.groups)} groups are not the {len(groups)} of this study: {differ[0]} is {where};"
                " a prior needs the same groups"
            )
        column = {name: number for number, name in enumerate(self.groups)}
        values = self.values[:, [column[name] for name in groups]].astype(np.float64)
        known = np.isfinite(values).any(1)
        values = values[known] if known.any() else np.zeros((1, len(groups)))
        counts = np.isfinite(values).sum(1, keepdims=True)
        values = np.where(np.isfinite(values), values, np.nansum(values, 1, keepdims=True) / counts)
        row = {name: number for number, name in enumerate(np.array(self.classes)[known].tolist())}
        overall = values.mean(0)
        return np.array([values[row[name]] if name in row else overall for name in classes])


def find_priors(study: Study, setting: PriorSetting, refresh: bool = True) -> Priors:
    """Return the priors that a setting asks for, by target of the study and name.

    refresh: whether to ask W&B for new runs of places there, see `Records`.

    Raises SourcewiseError for a place without anything that could be a prior, of other groups, or of this study.
    """
    if setting is None:
        return {name: {} for name in study.targets}
    tables = list(mapping_tables(study.mappings, study.header))
    places: dict[str, list[PriorTable]] = {"the full runs of this study": tables}
    for place in as_list(setting) if setting != "auto" else ():
        places[f"priors={place}"] = _place_tables(place, study, tables, refresh)
    return {name: _for_target(study, name, places) for name in study.targets}


def values(priors: Priors) -> dict[str, dict[str, NDArray[np.float64]]]:
    """Return the tables alone, float[classes, groups] by target and name."""
    return {target: {name: prior.values for name, prior in tables.items()} for target, tables in priors.items()}


def score_priors(study: Study, target: str, priors: Mapping[str, Prior]) -> dict[str, PriorScore]:
    """Return how well each prior alone predicts the class means of the study's models, by name."""
    outputs = study.targets[target]
    present = outputs.class_sizes > 0
    subsets = collapse(study.masks, outputs.class_means[:, present], study.seeds)
    seconds = sum(study.seconds.values()) / sum(study.designs.values())
    scores: dict[str, PriorScore] = {}
    for name, prior in priors.items():
        blocks = [subsets.masks[rows].unpack() @ prior.values[present].T for rows in subsets.masks.blocks()]
        score = score_without_fit(np.concatenate(blocks), subsets)
        cost = prior.models * prior.seconds / seconds if prior.models and prior.seconds and seconds else None
        scores[name] = PriorScore(prior.models, cost, score)
    return scores


def _for_target(study: Study, target: str, places: Mapping[str, Sequence[PriorTable]]) -> dict[str, Prior]:
    """Return the tables for one target: of each place those on the target of that name, or on all where none has it."""
    priors: dict[str, Prior] = {}
    for place, tables in places.items():
        same = [table for table in tables if table.target == target]
        for table in same or tables:
            name = table.name if same else f"{table.name} on {table.target}"
            if name in priors:
                raise SourcewiseError(f"{place}: a prior from {name} is there twice; leave one of them out")
            try:
                aligned = table.aligned(study.targets[target].class_names, study.group_names)
            except SourcewiseError as error:
                raise SourcewiseError(f"{place}: {error}") from error
            if (np.ptp(aligned, axis=1) > 0).any():  # else it says nothing
                sample = _sample(table, study, target)
                priors[name] = Prior(aligned, table.models, table.seconds, table.proxy, sample)
    return priors


def _sample(table: PriorTable, study: Study, target: str) -> ProxySample | None:
    """Return the subsets that a table comes from, with effects on the classes of a target that have examples."""
    if (subsets := table.subsets) is None:
        return None
    outputs, groups = study.targets[target], study.group_names
    names = np.array(outputs.class_names)[outputs.class_sizes > 0].tolist()

    def effects(units: Index) -> NDArray[np.float64]:
        return replace(table, values=_effects(subsets.take(units))).aligned(names, groups)

    return ProxySample(subsets.units, effects)


def mapping_tables(mappings: Mapping[str, TargetOutputs], header: Header, name: str = "") -> Iterator[PriorTable]:
    """Yield label and feature mapping of full runs, for the classes that have examples.

    name: of their study, where that is another one.
    """
    for target, outputs in mappings.items():
        names = np.array(header.class_names[target])
        present = np.unique(outputs.labels)
        for key in MAPPINGS:
            if (values := getattr(outputs, key)) is not None:
                groups = header.group_names or list(map(str, range(values.shape[1])))
                label = f"{key} of {name}" if name else key
                yield PriorTable(label, target, tuple(names[present].tolist()), tuple(groups), values[present])


def _place_tables(place: str, study: Study, known: Sequence[PriorTable], refresh: bool) -> list[PriorTable]:
    """Return the tables in a place: an influences.nc, the folder of an estimate, or a place of records.

    known: what full runs of the study say.
    """
    taker = study.header.study
    try:
        if files := estimate_files(place):
            return [_influence_table(file, taker) for file in files]
        return record_tables(Records(place, {}, refresh).with_output(study.output), study.output, known, taker)
    except SourcewiseError as error:
        raise SourcewiseError(f"priors={place}: {str(error).removeprefix(f'records={place}: ')}") from error


def _influence_table(path: Path, taker: str) -> PriorTable:
    """Return influences on classes from an influences.nc; their posterior means, where it holds these."""
    dataset = read_estimate(path)
    values = dataset["posterior_class" if "posterior_class" in dataset else "influence_class"]
    check_other(str(dataset.attrs["study"]), taker)
    return PriorTable(
        name=str(dataset.attrs["study"]),
        target=str(dataset.attrs["target"]),
        classes=tuple(dataset["class"].values.tolist()),
        groups=tuple(dataset["group"].values.tolist()),
        values=values.values.astype(np.float64),
        models=int(dataset.attrs["models"]),
    )


def record_tables(
    records: Iterable[Record], output: str, known: Sequence[PriorTable] = (), taker: str = ""
) -> list[PriorTable]:
    """Return what the records of another study say: effects on classes, and the mappings of its full runs.

    The effects are those of a hierarchy, with these mappings as priors.

    known: further priors, on targets of the same names. taker: name of the study that takes the tables.

    Raises SourcewiseError for records of that study, or that say nothing.
    """
    header: Header | None = None
    bits, mappings = list[NDArray[np.uint8]](), MeanMappings()
    means: dict[str, list[NDArray[np.float64]]] = defaultdict(list)
    present: dict[str, NDArray[np.int32]] = {}
    groups, seconds = 0, 0.0
    for record in records:
        header, groups = header or record.header, len(record.mask)
        mappings.add(record)
        if not record.header.is_random:
            continue
        bits.append(np.packbits(record.mask))
        seconds += sum(record.header.seconds.values())
        for target, outputs in record.targets.items():
            present[target] = np.unique(outputs.labels)
            values = class_means(output_values(outputs, output), outputs.labels, len(header.class_names[target]))
            means[target].append(values[present[target]])
    if header is None:
        raise SourcewiseError("there are no records")
    check_other(header.study, taker)
    tables = list(mapping_tables(mappings.means(), header, header.study))
    names = tuple(header.group_names or map(str, range(groups)))
    proxy = str((header.config.get("proxy") or {}).get("name", ""))
    priors = [table for table in (*tables, *known) if set(table.groups) == set(names)]
    for target, rows in means.items() if len(bits) > 1 else ():
        classes = tuple(np.array(header.class_names[target])[present[target]].tolist())
        matched = {table.name: table.aligned(classes, names) for table in priors if table.target == target}
        knowledge = Knowledge(np.arange(len(classes)), np.ones(len(classes)), matched)
        subsets = collapse(PackedMasks(np.array(bits), groups), np.array(rows), knowledge=knowledge)
        effects, each = _effects(subsets), seconds / len(bits)
        if subsets.hierarchy is not None:
            shared = {table.name: matched[table.name] for table in known if table.name in matched}
            subsets = replace(subsets, hierarchy=replace(subsets.hierarchy, priors=shared))
        tables.append(PriorTable(header.study, target, classes, names, effects, len(bits), each, proxy, subsets))
    if not tables:
        raise SourcewiseError("neither two random subsets nor a full run with label mapping, so there is no prior here")
    return tables


def _effects(subsets: Subsets) -> NDArray[np.float64]:
    estimator = HIERARCHICAL if subsets.masks.groups <= GRAM_GROUPS else DIFFERENCE
    return estimator.estimate_subsets(subsets, second_pass=False).slopes
