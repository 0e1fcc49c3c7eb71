"""Classes of several targets side by side."""

from dataclasses import replace

import numpy as np
import pytest
from fake_records import CLASSES, GROUPS, make

from sourcewise.records.record import Record
from sourcewise.study.collect import collect
from sourcewise.study.levels import weighted_classes


def with_birds(item: Record, birds_item: Record) -> Record:
    """The record of two targets, of which the second has no examples of the first class."""
    pets = birds_item.targets["pets"]
    birds = replace(pets, labels=np.maximum(pets.labels, 1))
    header = replace(item.header, class_names={name: list(CLASSES) for name in ("pets", "birds")})
    return Record(item.mask, {"pets": item.targets["pets"], "birds": birds}, header)


def test_shares_make_the_weighted_mean_and_a_table_is_zero_where_it_knows_nothing() -> None:
    study = collect([with_birds(make(seed), make(seed + 100)) for seed in range(12)])
    table = np.random.default_rng(0).normal(size=(len(CLASSES), len(GROUPS)))
    weights = {"pets": 0.25, "birds": 0.75}
    subsets, shares = weighted_classes(study, weights, {"birds": {"similarity": table}, "pets": {}})
    expected = sum(weight * study.targets[name].overall_means for name, weight in weights.items())
    masks = subsets.masks.unpack()
    order = [int(np.flatnonzero((masks == mask).all(1))[0]) for mask in study.masks.unpack()]
    assert (subsets.outputs @ shares)[order] == pytest.approx(expected)
    assert shares.sum() == pytest.approx(1)
    pets, birds = len(CLASSES), len(CLASSES) - 1  # birds lack a class
    assert subsets.hierarchy is not None
    prior = subsets.hierarchy.priors["similarity"]
    assert prior.shape == (pets + birds, len(GROUPS))
    assert (prior[:pets] == 0).all()
    assert (prior[pets:] == table[1:]).all()
    logits = study.targets["pets"].logits.astype(np.float64)
    first = logits[:, study.targets["pets"].labels == 0].mean(1)
    assert subsets.hierarchy.classes.outputs[order, 0] == pytest.approx(first)
