"""Label and feature mapping: what they are on cases worked out by hand, and what a run records of them."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from conftest import Compose
from fake_records import CLASSES, GROUPS, make

from sourcewise.commands import train
from sourcewise.core import names
from sourcewise.records import record
from sourcewise.records.record import Record
from sourcewise.report.sections.trust import baseline_agreement
from sourcewise.study import baselines
from sourcewise.training import mappings


def run(config: dict[str, Any]) -> Record:
    train.train(config)
    return record.read(names.run_dir(config) / names.RECORD)


def test_classes_have_groups_when_none_is_spread() -> None:
    labels = torch.tensor([0, 0, 1, 2, 2])
    assert mappings.groups_of_classes(labels, torch.tensor([1, 1, 0, 1, 1]), 3).tolist() == [1, 0, 1]
    assert mappings.groups_of_classes(labels, torch.arange(5), 3) is None
    assert mappings.groups_of_classes(labels, labels, 4) is None


def test_label_mapping_is_the_probability_of_a_group() -> None:
    logits = torch.log(torch.tensor([[0.1, 0.2, 0.7], [0.5, 0.25, 0.25]]))
    found = mappings.label_mapping(logits, torch.tensor([0, 1, 0]), 2)
    np.testing.assert_allclose(found, [[0.8, 0.2], [0.75, 0.25]], atol=1e-6)


def test_feature_mapping_is_the_cosine_with_a_group_s_mean() -> None:
    source = torch.tensor([[2.0, 0], [4, 0], [0, 3], [1, 1]])
    groups = torch.tensor([0, 0, 1, 2])
    means, target = np.array([[3.0, 0], [0, 3], [1, 1]]), np.array([[5.0, 2]])
    centred, other = means - means.mean(0), target - means.mean(0)
    expected = (other @ centred.T) / np.linalg.norm(other) / np.maximum(np.linalg.norm(centred, axis=1), 1e-12)
    similarity = mappings.feature_mapping(
        torch.tensor(target, dtype=torch.float32), mappings.group_means(source, groups, 3)
    )
    np.testing.assert_allclose(similarity, expected, atol=1e-6)


def test_a_class_s_mapping_is_the_mean_over_its_examples() -> None:
    scores = torch.tensor([[1.0, 0], [3, 2], [5, 5]])
    assert mappings.by_class(scores, torch.tensor([0, 0, 2]), 3).tolist() == [[2, 1], [0, 0], [5, 5]]


def test_only_a_run_that_keeps_all_groups_records_baselines_and_its_outputs_stay(tiny: Compose) -> None:
    full, half = run(tiny("subset=full")), run(tiny())
    outputs = full.targets["digits"]
    assert full.header.group_sizes is not None
    assert full.header.group_sizes[10:] == [full.header.group_sizes[10]] * 26  # letters are rendered, as many of each
    assert full.header.group_sizes == half.header.group_sizes
    assert half.targets["digits"].label_mapping is None
    assert half.targets["digits"].feature_mapping is None
    assert outputs.label_mapping is not None
    assert outputs.feature_mapping is not None
    assert outputs.label_mapping.shape == outputs.feature_mapping.shape == (10, 36)
    np.testing.assert_allclose(outputs.label_mapping.sum(1), 1, atol=1e-5)
    assert (np.abs(outputs.feature_mapping) <= 1 + 1e-6).all()
    # Handwritten digits are mapped to handwritten digits, even by a poorly trained model.
    assert outputs.feature_mapping[:, :10].argmax(1).tolist() == list(range(10))
    # The same subset by another design has the same outputs; baselines neither draw numbers nor touch the model.
    same = run(tiny("subset.fraction=1")).targets["digits"]
    assert np.array_equal(same.margin, outputs.margin)
    assert np.array_equal(same.label_mapping, outputs.label_mapping)


def dataset(influence: np.ndarray) -> xr.Dataset:
    variables = {"influence_class": (("class", "group"), influence), "influence_overall": ("group", influence.mean(0))}
    return xr.Dataset(variables, {"class": CLASSES, "group": GROUPS})


def test_comparison_with_influences() -> None:
    item = make(1, examples=9).targets["pets"]
    rng = np.random.default_rng(0)
    influence = rng.normal(size=(3, 14))
    item = replace(item, label_mapping=np.exp(influence).astype(np.float32), feature_mapping=-influence.astype("f4"))
    masks = rng.random((50, 14)) < 0.5
    found = baselines.compare_baselines(item, dataset(influence), masks, masks @ influence.T)
    label, feature = found["label_mapping"], found["feature_mapping"]
    assert label.spearman_class == pytest.approx(1)
    assert feature.spearman_class == pytest.approx(-1)
    assert feature.lds_class == pytest.approx(-1)
    assert feature.spearman_overall == pytest.approx(-1)
    assert 0.5 < label.lds_class < 1
    assert label.classes["cat"] == tuple(GROUPS[i] for i in np.argsort(-influence[0])[:3])
    scores = [entry.score for entry in feature.overall]
    assert scores == sorted(scores, reverse=True)
    assert "label mapping 1.00 by class" in baseline_agreement(found)


def test_what_cannot_be_compared_is_said() -> None:
    item = make(1).targets["pets"]
    unknown = dataset(np.full((3, 14), np.nan))
    assert baselines.compare_baselines(item, unknown) == {}
    assert "not available" in baseline_agreement({})
    item = replace(item, label_mapping=np.ones((3, 14), np.float32), feature_mapping=np.ones((3, 14), np.float32))
    found = baselines.compare_baselines(item, unknown)
    assert found["label_mapping"].spearman_class is None
    assert found["label_mapping"].lds_class is None
    assert "unknown overall" in baseline_agreement(found)


def test_example_groups_have_no_baselines(tiny: Compose) -> None:
    from hydra.utils import instantiate

    from sourcewise.training.run import Run

    config = tiny("subset=full", "source.train.per_letter=2")
    parts = [instantiate(config[name], _convert_="all") for name in ("source", "target", "model", "trainer")]
    source, targets, model, hardware = parts
    data = source.train
    examples = replace(data, groups=torch.arange(len(data)), group_names=tuple(map(str, range(len(data)))))
    made = Run(replace(source, train=examples), targets, model, hardware, config["subset"], 0).execute(config)
    assert made.targets["digits"].label_mapping is None
