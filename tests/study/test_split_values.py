"""Values on both sides of a split, against the metrics of training; and rankings, which see one side alone."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from fake_records import CLASSES, make
from hypothesis import given
from hypothesis import strategies as st

from sourcewise.core.errors import SourcewiseError
from sourcewise.core.splits import ALL, HALVES, Split
from sourcewise.lightning_modules.outputs import Outputs
from sourcewise.records.record import Record, TargetOutputs
from sourcewise.study.collect import collect
from sourcewise.study.measurements import measure
from sourcewise.study.rankings import choosing_tables, mapping_rankings, ranking
from sourcewise.study.split_values import chosen_mappings, split_values, target_metric
from sourcewise.training.metrics import METRICS


def random_outputs(seed: int, examples: int, classes: int) -> TargetOutputs:
    rng = np.random.default_rng(seed)
    labels, prediction = rng.integers(0, classes, (2, examples)).astype(np.int32)
    prob, margin = rng.random(examples).astype(np.float16), rng.normal(size=examples).astype(np.float16)
    return TargetOutputs(np.arange(examples, dtype=np.int32), labels, prediction, prob, margin)


@pytest.mark.parametrize("metric", METRICS)
def test_scores_of_both_sides_are_the_metrics_of_training_on_their_examples(metric: str) -> None:
    outputs = random_outputs(0, 60, 2)
    values = split_values(outputs, HALVES, metric)
    choosing, unseen = HALVES.sides(outputs.labels)
    assert (choosing ^ unseen).all()
    for rows, value in ((choosing, values.choosing), (unseen, values.unseen), (choosing | unseen, values.every)):
        columns = (outputs.ids, outputs.labels, outputs.prob, outputs.margin, outputs.prediction)
        ids, labels, prob, margin, prediction = (torch.from_numpy(column[rows]) for column in columns)
        tensors = Outputs(ids=ids, labels=labels.long(), prob=prob, margin=margin, prediction=prediction.long())
        assert value.score == pytest.approx(METRICS[metric](tensors, 2), abs=1e-6)
        assert value.output == pytest.approx(float(prob.double().mean()))


def test_examples_that_no_split_and_no_metric_can_do_with_are_refused() -> None:
    with pytest.raises(SourcewiseError, match=r"target.pets: its 1 test examples are too few .* search.choose=1"):
        measure(make(0, examples=1), {"pets": 1.0}, HALVES)
    assert (
        measure(make(0, examples=1), {"pets": 1.0}, ALL).unseen
        == measure(make(0, examples=1), {"pets": 1.0}, ALL).every
    )
    item = make(0)
    outputs = replace(item.targets["pets"], labels=np.zeros_like(item.targets["pets"].labels))
    header = replace(item.header, config={**item.header.config, "target": {"pets": {"metric": "auroc"}}})
    with pytest.raises(SourcewiseError, match="target.pets.metric=auroc: it is not defined on the test examples"):
        measure(replace(item, targets={"pets": outputs}, header=header), {"pets": 1.0}, HALVES)


@given(st.lists(st.integers(0, 3), min_size=1, max_size=80), st.integers(1, 8), st.integers(0, 3))
def test_sides_part_each_class_or_are_all_examples(labels: list[int], eighths: int, seed: int) -> None:
    split = Split(eighths / 8, seed)
    choosing, unseen = split.sides(np.array(labels))
    assert choosing.any()
    assert unseen.any()
    if not choosing.all():
        assert (choosing ^ unseen).all()
        for label in set(labels):
            of_class = np.array(labels) == label
            assert abs(choosing[of_class].sum() - eighths / 8 * of_class.sum()) < 2


def test_a_metric_of_the_user_s_is_accuracy_on_halves() -> None:
    header = make(0).header
    for metric, expected in (("prob", "prob"), ("my.worst_class", "accuracy")):
        config = {**header.config, "target": {"pets": {"metric": metric}}}
        assert target_metric(replace(header, config=config), "pets") == expected
    assert target_metric(replace(header, config={}), "pets") == "accuracy"


def with_mappings(item: Record, seed: int) -> Record:
    """The record as a full run's, whose mappings by part are random and whole ones are their means."""
    outputs = item.targets["pets"]
    parts = np.random.default_rng(seed).random((8, len(CLASSES), len(item.mask))).astype(np.float16)
    whole = chosen_mappings(replace(outputs, label_mapping_parts=parts), len(CLASSES), Split(0.999))["label_mapping"]
    outputs = replace(outputs, label_mapping_parts=parts, label_mapping=whole.astype(np.float32))
    header = replace(item.header, design="full", run=f"full-{seed}")
    return Record(np.ones_like(item.mask), {"pets": outputs}, header)


def test_rankings_see_one_side_of_the_examples_alone() -> None:
    records = [make(seed) for seed in range(30)]
    full = [with_mappings(make(100 + seed), seed) for seed in range(2)]
    unseen = HALVES.sides(records[0].targets["pets"].labels)[1]

    def changed(item: Record, seed: int) -> Record:
        outputs = item.targets["pets"]
        noise = np.random.default_rng(seed).random(len(unseen)).astype(np.float16)
        columns = {key: np.where(unseen, noise, getattr(outputs, key)) for key in ("prob", "margin")}
        return Record(item.mask, {"pets": replace(outputs, **columns)}, item.header)

    study = collect([*records, *full])
    shifted = collect([*(changed(item, seed) for seed, item in enumerate(records)), *full])
    tables = choosing_tables(study)
    first, second = (ranking(item, "pets", tables) for item in (study, shifted))
    assert first == pytest.approx(second)
    everything = [ranking(replace(item, split=ALL), "pets", {}) for item in (study, shifted)]
    assert not np.allclose(*everything)
    assert ranking(collect(records[:3]), "pets", {}) is None
    assert ranking(collect(records[:4]), "pets", {}) is not None
    scores = mapping_rankings(study, "pets", tables)["label_mapping"]
    halves = mapping_rankings(study, "pets", choosing_tables(replace(study, split=ALL)))["label_mapping"]
    assert scores.keys() == set(study.group_names)
    assert scores != halves
