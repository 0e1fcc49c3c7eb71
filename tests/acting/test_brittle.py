"""Brittle examples, on made-up models with planted truth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import fake_records as records
import numpy as np
import pytest
import xarray as xr
from fake_records import GROUPS
from fake_reports import context
from planted_models import models, planted_effects, planted_summary, without
from scipy.special import expit

from sourcewise.acting import brittle
from sourcewise.acting.brittle import BrittleExamples, BrittleSide, add_constant, real_change
from sourcewise.estimation.collapse import collapse
from sourcewise.estimation.estimators import ridge
from sourcewise.estimation.inference import Mean
from sourcewise.records.record import Record
from sourcewise.report.parts import Section
from sourcewise.report.sections.examples import brittle_section
from sourcewise.report.summary import summarise
from sourcewise.study.collect import NO_RUNS, ExampleRuns, collect
from sourcewise.study.influences import estimate


def test_the_most_harmed_example_names_its_group_and_what_removal_does() -> None:
    summary = planted_summary()
    harmed = summary.targets["pets"].brittle.harmed
    first = harmed.examples[0]
    assert (first.example, first.group) == (12, "g9")
    assert first.predicted == pytest.approx(0.3, abs=0.05)
    assert first.real.change == pytest.approx(0.3, abs=0.1)
    assert first.real.runs == 4
    assert harmed.compared == sum(item.group == "g9" for item in harmed.examples)
    assert all(item.real is None for item in harmed.examples if item.group != "g9")


def test_the_full_source_tells_the_constant_that_subsets_of_one_size_cannot_see() -> None:
    rng = np.random.default_rng(0)
    effect = rng.normal(0.05, 0.02, (4, 10))
    masks = np.array([rng.permutation(10) < 7 for _ in range(500)])
    outputs, kept = masks @ effect.T, masks.mean(0)
    found = ridge(collapse(masks, outputs).moments())
    assert np.abs(found.influence.mean(1)).max() < 1e-6
    gap = Mean(effect.sum(1) - outputs.mean(0), np.array([0, 0, 0.09, 0]), np.full(4, 9.0))
    error = np.full((4, 10), 0.4)
    whole, doubt = add_constant(found.influence, error, kept, gap)
    assert whole == pytest.approx(effect, abs=1e-4)
    assert doubt[0] == pytest.approx(0.4 * 9 / 10)
    assert doubt[2] == pytest.approx(np.hypot(0.36, 0.3 / 3))  # three groups are lacking


@pytest.mark.parametrize("always", [True, False])
def test_a_group_that_cannot_be_told_counts_as_an_average_one(always: bool) -> None:
    influence = np.array([[0.3, np.nan, -0.3]])
    kept, gap = np.array([0.5, float(always), 0.5]), Mean(np.array([0.4]), np.zeros(1), np.ones(1))
    found, _ = add_constant(influence, influence, kept, gap)
    constant = 0.4 / (1 if always else 2)
    assert found[0] == pytest.approx([0.15 + constant, np.nan, -0.15 + constant], nan_ok=True)


def additive(item: Record, level: np.ndarray, effect: np.ndarray) -> Record:
    """The record as a world has it whose logits are `level` plus float[examples, groups] of the groups kept."""
    margin = level + effect @ item.mask
    outputs = replace(item.targets["pets"], prob=expit(margin).astype(np.float16), margin=margin.astype(np.float16))
    return replace(item, targets={"pets": outputs})


@pytest.mark.parametrize("share", [None, 0.7], ids=["subsets of one size", "of many sizes"])
@pytest.mark.parametrize("full", [0, 4])
def test_predictions_are_right_in_a_world_that_adds_on_the_logit(
    full: int, share: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(brittle, "RUNS", 200)
    rng = np.random.default_rng(0)
    level, effect = rng.normal(-2, 1, 30), rng.normal(0.3, 1, (30, len(GROUPS)))
    models = [records.make(seed, examples=30) for seed in range(200)]
    if share:
        models = [replace(item, mask=rng.random(len(GROUPS)) < share) for item in models]
    whole = [additive(item, level, effect) for item in without(-1, full, effect)]
    models = [additive(item, level, effect) for item in models]
    study = collect([*models, *whole])
    found = summarise(study, estimate(study, "ridge"), [], 0.05).targets["pets"].brittle
    assert found.base == full // 2
    if not full and not share:  # all that these subsets can tell
        effect = (effect - effect.mean(1, keepdims=True)) * 14 / 13
    start = whole or models
    margins = np.array([item.targets["pets"].margin for item in start], np.float64)
    for side, sign in ((found.harmed, 1), (found.supported, -1)):
        assert len(side.examples) == 30
        for item in side.examples:
            row = item.example // 3
            group = int((-sign * effect[row]).argmax())
            assert item.group == GROUPS[group]
            has, one = np.array([model.mask[group] for model in start]), effect[row, group]
            change = expit(margins[:, row] - has * one) - expit(margins[:, row] + ~has * one)
            assert item.predicted == pytest.approx(change.mean(), abs=0.01)


def test_examples_that_no_group_harms_are_not_listed() -> None:
    effect = np.full((12, len(GROUPS)), 0.03)
    items = models(80, effect)
    items = [replace(item, mask=item.mask | (np.arange(len(GROUPS)) == 3)) for item in items]  # nobody can tell g3
    study = collect([*items, *without(-1, 8, effect)])
    summary = summarise(study, estimate(study, "ridge"), [], 0.05)
    found, nothing = summary.targets["pets"].brittle, BrittleSide(examples=(), compared=0)
    assert "g3" not in {item.group for side in (found.harmed, found.supported) for item in side.examples}
    for supported in (found.supported, nothing):
        facts = replace(
            summary.targets["pets"], brittle=BrittleExamples(base=found.base, harmed=nothing, supported=supported)
        )
        section = brittle_section(context("pets", xr.Dataset(), replace(summary, targets={"pets": facts})))
        assert isinstance(section, Section)
        assert any("subset=listed 'subset.drop=[g" in code for _, code in section.code) == any(
            item.qvalue <= 0.05 for item in supported.examples
        )


def test_what_predictions_start_from_is_not_what_they_are_held_against(monkeypatch: pytest.MonkeyPatch) -> None:
    planted = planted_effects()
    monkeypatch.setattr(brittle, "RUNS", 2)
    study = collect([*models(80, planted), *without(-1, 4, planted), *without(9, 4, planted)])
    full = study.full_runs["pets"]
    study = replace(study, full_runs={"pets": full[[0, 1, 0, 1, 0, 0, 0]]})
    found = summarise(study, estimate(study, "ridge"), [], 0.05).targets["pets"].brittle
    assert found.base == 2
    after = study.runs_without["pets"][9].values[:, 4].mean(dtype=np.float64)
    change = next(item.real.change for item in found.harmed.examples if item.example == 12)
    assert change == pytest.approx(after - full.values[0, 4], abs=1e-3)


def test_removal_is_the_difference_of_means_with_its_error() -> None:
    def runs(values: Sequence[float], correct: Sequence[int]) -> ExampleRuns:
        columns = (np.array(column, np.float16)[:, None] for column in (values, correct, values))
        return ExampleRuns(*columns)

    full, without = runs([0.25, 0.5], [0, 1]), runs([0.75, 0.75, 1.0], [1, 1, 1])
    real = real_change(full, without, 0)
    assert real is not None
    assert real.change == pytest.approx(0.83333 - 0.375, abs=1e-4)
    assert real.error == pytest.approx((0.03125 / 2 + 0.0208333 / 3) ** 0.5)
    assert (real.before, real.after, real.runs) == (0.5, 1.0, 3)
    assert real_change(full, runs([1.0], [1]), 0) is None
    assert real_change(NO_RUNS, without, 0) is None
