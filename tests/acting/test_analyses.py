"""Subpopulations, brittle examples and differences between targets, on made-up models with planted truth."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import fake_records as records
import numpy as np
import pytest
import xarray as xr
from fake_records import GROUPS
from scipy.special import expit, logit

from sourcewise.acting import brittle, subpopulations
from sourcewise.acting.brittle import BrittleExample, BrittleExamples, BrittleSide, add_constant, real_change, shrink
from sourcewise.acting.subpopulations import ClassSplit, GroupExamples, Subpopulation, Subpopulations
from sourcewise.acting.tradeoffs import Tradeoff, find_tradeoffs, pareto
from sourcewise.estimation.collapse import collapse
from sourcewise.estimation.estimators import ESTIMATORS, ridge
from sourcewise.estimation.inference import Mean
from sourcewise.records.record import Record
from sourcewise.report import figures
from sourcewise.report.formatting import display_unit
from sourcewise.report.parts import Section
from sourcewise.report.sections import SECTIONS
from sourcewise.report.sections.examples import brittle_section
from sourcewise.report.summary import Summary, summarise
from sourcewise.study import collect as collecting
from sourcewise.study.collect import NO_RUNS, ExampleRuns, collect
from sourcewise.study.effects import ExampleEffect, GroupEffect
from sourcewise.study.influences import estimate
from tests.report.test_report import EVIL, Page, context, make_summary, make_target, render

EXAMPLES = 120


def models(count: int, effect: np.ndarray, **changes: Any) -> list[Record]:
    """Records of random subsets whose `prob` is 0.5 plus float[examples, groups] of the groups kept, plus noise."""
    return [told(records.make(seed, examples=len(effect), **changes), effect, seed) for seed in range(count)]


def told(item: Record, effect: np.ndarray, seed: int) -> Record:
    noise = 0.04 * np.random.default_rng([7, seed]).normal(size=len(effect))
    prob = np.clip(0.5 + effect @ (item.mask - 0.5) + noise, 0, 1)
    outputs = item.targets["pets"]
    prediction = np.where(prob > 0.5, outputs.labels, (outputs.labels + 1) % 3).astype(np.int32)
    margin = logit(np.clip(prob, 1e-4, 1 - 1e-4)).astype(np.float16)
    outputs = replace(outputs, prob=prob.astype(np.float16), prediction=prediction, margin=margin)
    return replace(item, targets={"pets": outputs})


def without(group: int, runs: int, effect: np.ndarray) -> list[Record]:
    """Runs of a listed design that keep all groups but one (-1: all)."""
    mask = np.arange(len(GROUPS)) != group
    design = "full" if group < 0 else "listed"
    config = {"source": {"name": "made-up"}, "subset": {"design": design}, "seed": 0}
    items = [records.make(0, examples=len(effect)) for _ in range(runs)]
    headers = [replace(item.header, design=design, config=config, seed=900 + i) for i, item in enumerate(items)]
    return [
        told(replace(item, mask=mask, header=header), effect, 1000 * (group + 2) + i)
        for i, (item, header) in enumerate(zip(items, headers, strict=True))
    ]


@pytest.fixture(scope="module")
def planted() -> np.ndarray:
    """Of class 0, every other example leans on g2 and the rest on g5; class 1 leans on g7; example 4 is hurt by g9."""
    effect = np.zeros((EXAMPLES, len(GROUPS)))
    label = np.arange(EXAMPLES) % 3
    effect[(label == 0) & (np.arange(EXAMPLES) % 2 == 0), 2] = 0.12
    effect[(label == 0) & (np.arange(EXAMPLES) % 2 == 1), 5] = 0.12
    effect[label == 1, 7] = 0.12
    effect[4, 9] = -0.3
    return effect


def pets(summary: Summary) -> Any:
    """The facts about the target."""
    return summary.targets["pets"]


@pytest.fixture(scope="module")
def summary(planted: np.ndarray) -> Summary:
    study = collect([*models(80, planted), *without(-1, 8, planted), *without(9, 4, planted)])
    return summarise(study, estimate(study, "ridge"), [], 0.05)


def test_a_class_is_split_along_the_groups_that_its_examples_lean_on(summary: Summary) -> None:
    (split,) = pets(summary).subpopulations.splits
    assert split.class_name == "cat"
    assert {part.group for part in split.parts} == {"g2", "g5"}
    for part in split.parts:
        rows = np.array(part.examples) // 3
        assert len(rows) == 20
        assert set(rows % 2) == {0 if part.group == "g2" else 1}
        of_others = -0.12 / 13  # with subsets of one size, influences are relative to the mean of the other groups
        assert part.influence == pytest.approx(0.12 - of_others, abs=4 * part.stderr)


def test_groups_that_set_parts_apart_are_named(summary: Summary) -> None:
    assert pets(summary).groups_to_show == {"g2", "g5"}
    assert replace(pets(summary), subpopulations=None).groups_to_show == set()


def test_noise_is_not_split(planted: np.ndarray) -> None:
    rng = np.random.default_rng(1)
    for trial in range(5):
        masks = rng.random((80, 14)) < 0.5
        outputs = 0.5 + 0.3 * masks[:, :1] * np.linspace(0.5, 1, 60) + 0.1 * rng.normal(size=(80, 60))
        whole = collapse(masks, outputs)
        halves = whole.take(np.arange(40)), whole.take(np.arange(40, 80))
        tables = [ridge(part.moments()).influence for part in (*halves, whole)]
        assert subpopulations.split_class("", xr.Dataset(), tables, halves[1], ESTIMATORS["ridge"], 0.05) is None, trial


def test_the_most_harmed_example_names_its_group_and_what_removal_does(summary: Summary, planted: np.ndarray) -> None:
    harmed = pets(summary).brittle.harmed
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


def test_shrunken_influences_are_near_the_best_guess_that_knows_the_world() -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], 300)
    mean, apart = rng.normal(0, 0.1, (2, 5)), np.array([0.0, 0.02, 0.05, 0.1, 0.3])
    truth = mean[labels] + apart * rng.normal(size=(600, 5))
    stderr = 0.1 * rng.uniform(0.1, 1.9, (600, 1)) * rng.uniform(0.5, 1.5, 5)
    influence = truth + stderr * rng.normal(size=truth.shape)
    noisy = stderr * np.sqrt(rng.chisquare(4, truth.shape) / 4)
    best = mean[labels] + (influence - mean[labels]) * apart**2 / (apart**2 + stderr**2)
    found = shrink(influence, noisy, labels)
    raw, ours, least = (((table - truth) ** 2).mean(0) for table in (influence, found, best))
    assert (ours < least + 0.03 * raw).all()
    assert (ours[:3] < 0.3 * raw[:3]).all()


def test_shrinking_ends_where_there_is_nothing_to_tell() -> None:
    labels = np.array([0, 0, 0, 1])
    influence = np.array([[0.1, np.nan], [0.2, np.nan], [0.6, np.nan], [0.4, np.nan]])
    none, much = (np.where(np.isnan(influence), np.nan, error) for error in (0.0, 9.0))
    assert shrink(influence, none, labels)[:, 0] == pytest.approx(influence[:, 0])
    assert shrink(influence, much, labels)[:, 0] == pytest.approx([0.3, 0.3, 0.3, 0.4])
    assert (shrink(influence, much, labels)[:, 1] == 0).all()
    assert np.isnan(influence[0, 1])  # the table is not changed in place


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
    found = pets(summarise(study, estimate(study, "ridge"), [], 0.05)).brittle
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
    found, nothing = pets(summary).brittle, BrittleSide(examples=(), compared=0)
    assert "g3" not in {item.group for side in (found.harmed, found.supported) for item in side.examples}
    for supported in (found.supported, nothing):
        facts = replace(pets(summary), brittle=BrittleExamples(base=found.base, harmed=nothing, supported=supported))
        section = brittle_section(context("pets", xr.Dataset(), replace(summary, targets={"pets": facts})))
        assert isinstance(section, Section)
        assert any("subset=listed 'subset.drop=[g" in code for _, code in section.code) == bool(supported.examples)


def test_what_predictions_start_from_is_not_what_they_are_held_against(
    planted: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(brittle, "RUNS", 2)
    study = collect([*models(80, planted), *without(-1, 4, planted), *without(9, 4, planted)])
    full = study.full_runs["pets"]
    study = replace(study, full_runs={"pets": full[[0, 1, 0, 1, 0, 0, 0]]})
    found = pets(summarise(study, estimate(study, "ridge"), [], 0.05)).brittle
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


def two(sign: int = 1) -> dict[str, list[GroupEffect]]:
    """g0 helps both, g1 and g3 help one and hurt the other, g2 seems to but not significantly, one knows no g4."""
    tables = {
        "one": ([0.1, 0.05, 0.1, -0.1], [0.01] * 4),
        "two": ([0.1, -0.02, -0.1, 0.2, 1], [0.01, 0.04, 0.3, 0.01, 0]),
    }
    return {
        name: [
            GroupEffect(group=f"g{i}", influence=sign * value, stderr=0.01, qvalue=q)
            for i, (value, q) in enumerate(zip(*both, strict=True))
        ]
        for name, both in tables.items()
    }


def test_what_removal_does_is_said_of_significant_effects_alone() -> None:
    found = {item.group: item.removal for item in find_tradeoffs(two(), 0.05)}
    assert found == {"g0": "hurts all", "g1": "trades", "g2": "", "g3": "trades"}
    first = find_tradeoffs(two(-1), 0.05)[0]
    assert (first.group, first.removal, first.on_front) == ("g0", "helps all", True)
    assert find_tradeoffs({"one": two()["one"]}, 0.05) == ()
    facts = {name: replace(make_target()[1], overall=tuple(effects)) for name, effects in two().items()}
    for name in two():
        page = SECTIONS["between"](context(name, xr.Dataset(), make_summary(facts)))
        assert isinstance(page, Section)
        rows = page.tables[0].rows
        assert [row.header for row in rows] == ["g1", "g3", "g0"]
        assert [cell[0].value for cell in rows[0].cells if not isinstance(cell, str)] == ["+5.00", "−2.00"]
        assert rows[0].cells[-1] == "trades"


def test_the_pareto_front_is_what_nobody_beats() -> None:
    values = np.random.default_rng(0).integers(-3, 4, (2, 30)).astype(float)

    def beaten(k: int) -> bool:
        return any((values[:, i] <= values[:, k]).all() and (values[:, i] < values[:, k]).any() for i in range(30))

    assert pareto(values).tolist() == [not beaten(k) for k in range(30)]
    assert pareto(values[:1]).tolist() == (values[0] == values[0].min()).tolist()
    numbers = {"group": "g", "stderr": 0.0, "qvalue": 1.0}
    effects = [
        {key: GroupEffect(influence=x, **numbers) for key, x in zip("ab", pair, strict=True)} for pair in values.T
    ]
    rows = [Tradeoff(f"{i}", e, "", i < 3) for i, e in enumerate(effects)]
    (points,) = figures.trades(rows, ["b", "a"], display_unit("prob")).data
    assert [symbol == "circle" for symbol in points.marker.symbol] == [i < 3 for i in range(30)]
    assert list(points.x) == pytest.approx((100 * values[1]).tolist())


def test_sections_show_what_was_found_and_escape_it(summary: Summary) -> None:
    dataset, facts = make_target(name="pets", groups=["g2", EVIL], classes=["cat", EVIL], examples=9)
    other = make_target(name=EVIL, groups=["g2", EVIL], classes=["a"], examples=9)
    part = {"influence": 0.1, "stderr": 0.01, "qvalue": 0.001}
    parts = Subpopulation(group=EVIL, **part, examples=(3, 4)), Subpopulation(group="g2", **part, examples=(5,))
    effect = ExampleEffect(example=3, class_name=EVIL, group=EVIL, **part)
    example = BrittleExample(**vars(effect), mean=0.5, predicted=-0.1, real=None)
    side = BrittleSide(examples=(example,), compared=0)
    overall = {sign: (GroupEffect(group=EVIL, influence=sign * 0.1, stderr=0.01, qvalue=0.01),) for sign in (1, -1)}
    facts = replace(
        facts,
        overall=overall[1],
        subpopulations=Subpopulations(
            splits=(ClassSplit(class_name=EVIL, agreement=0.9, parts=parts),),
            groups=(GroupExamples(group=EVIL, helps=(effect,), hurts=()),),
        ),
        brittle=BrittleExamples(base=0, harmed=side, supported=side),
    )
    page = make_summary({"pets": facts, EVIL: replace(other[1], overall=overall[-1])}, 2)
    sections = ["subpopulations", "brittle", "between"]
    text = render({"pets": dataset, EVIL: other[0]}, page, sections)
    found = Page(text)
    assert {f"target-pets-{name}" for name in sections} <= set(found.ids())
    assert len(set(found.ids())) == len(found.ids())
    assert text.count(EVIL) == 0
    assert f"3 (class {EVIL})" in found.text
    assert "Real changes need models of the full source and models without a group." in found.text
    assert "needs groups of several source examples" in found.text  # the other target has no such facts


def test_what_is_too_large_to_be_examined_is_said(planted: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    study = collect(models(40, planted))
    found = estimate(study, "difference")
    for limit, reason in ((EXAMPLES * 40, False), (EXAMPLES * 40 - 1, True)):
        monkeypatch.setattr(collecting, "SMALL", limit)
        facts = pets(summarise(study, found, [], 0.05))
        assert facts.unexamined == (facts.subpopulations is None) == reason
    page = Page(render({"pets": found["pets"].dataset}, make_summary({"pets": facts}, 14)))
    for section in ("splits target classes by the groups", "lists target examples that hang on one"):
        assert re.search(f"{section}[^.]*[.] It is left out where examples", page.text)
    assert "needs groups of several" not in page.text


def test_groups_that_are_examples_are_not_examined(planted: np.ndarray) -> None:
    study = collect(models(40, planted, group_names=None))
    facts = pets(summarise(study, estimate(study, "difference"), [], 0.05))
    assert facts.subpopulations is None
