"""Curves of retrained models, curation, and the commands around them, on made-up models whose truth is known."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import compose_config
from fake_records import GROUPS, make
from scipy import stats
from scipy.special import logit

from benchmarks import planted_harm
from sourcewise import designs
from sourcewise.acting import counterfactuals
from sourcewise.acting.counterfactuals import Interval, compare_all, compare_runs
from sourcewise.acting.curation import Curation, ExpectedGain, VerifiedGain
from sourcewise.commands import estimate
from sourcewise.core import names
from sourcewise.core.errors import SourcewiseError
from sourcewise.core.overrides import NO_SEARCH
from sourcewise.core.results_folder import MANIFEST
from sourcewise.designs import DESIGNS
from sourcewise.designs.files import write_ranking
from sourcewise.designs.random_designs import random
from sourcewise.estimation.inference import Mean
from sourcewise.records import record
from sourcewise.report.figures import removal
from sourcewise.report.sections.counterfactuals import _table, proposal_sentences
from sourcewise.report.summary import Summary
from sourcewise.study.collect import CounterfactualRun
from sourcewise.study.split_values import SplitValues, Values

NAMES = [f"g{i}" for i in range(24)]


def trial(mask: np.ndarray, curve: str, seed: int, value: float, where: str = "") -> CounterfactualRun:
    values = Values(value, value)
    return CounterfactualRun(where, curve, mask, str(seed), {"pets": SplitValues(values, values, values)})


def without(*groups: int, count: int = 24) -> np.ndarray:
    return ~np.isin(np.arange(count), groups)


def test_a_difference_of_means_is_welch_s() -> None:
    rng = np.random.default_rng(0)
    one, other = rng.normal(1, 3, 12), rng.normal(0, 1, 5)
    found = Mean.from_runs(one) - Mean.from_runs(other)
    expected = stats.ttest_ind(one, other, equal_var=False).confidence_interval()
    assert found.interval() == pytest.approx((expected.low, expected.high))
    single = stats.t.interval(0.95, 11, one.mean(), stats.sem(one))
    assert Mean.from_runs(one).interval() == pytest.approx(single)
    assert np.isnan(Mean.from_runs([1.0]).interval()).all()


@pytest.mark.parametrize("runs", [1, 2, 3])
def test_two_runs_have_no_interval(runs: int) -> None:
    """Neither as a score, nor in a gain over many runs, nor in sentences; the table's caption says so."""
    trials = [trial(without(0), "", seed, 0.7 + 0.1 * seed) for seed in range(runs)]
    trials += [trial(np.ones(24, bool), "", seed, 0.5 + 0.01 * seed) for seed in range(5)]
    comparison = compare_runs(trials, "pets", NAMES)
    (point,) = comparison.listed
    for interval in (point.score, point.output, point.full):
        assert [end is None for end in (interval.low, interval.high)] == [runs < 3] * 2
    table = _table(comparison, "pets", "x")
    assert ["(" in table.rows[1].cells[i] for i in (2, 3)] == [runs == 3] * 2
    assert "of fewer than 3 runs: none" in table.caption
    verified = {
        "pets": VerifiedGain(full=point.full, random=None, every=point.full, output=point.full, runs=runs, runs_full=5)
    }
    curation = Curation({"pets": 1.0}, ("a",), ("b",), ExpectedGain(point.full, point.full, 1), verified, "x", {}, "")
    text = "\n".join(proposal_sentences(curation, "prob"))
    assert ("points (too few runs for an interval) over the full source" in text) == (runs < 3)


def additive(b: np.ndarray, seeds: int = 3) -> list[CounterfactualRun]:
    """Full, worst 2, best 2 and random removal of 2 (every group as often) of a source whose effects just add up."""
    masks = [(np.ones(24, bool), ""), (without(*np.argsort(b)[:2]), "worst, a@1")]
    masks += [(without(*np.argsort(b)[-2:]), "best, a@1")]
    trials = [trial(mask, curve, seed, 0.5 + mask @ b) for mask, curve in masks for seed in range(seeds)]
    return trials + [trial(m, "random", i, 0.5 + m @ b) for i in range(24) for m in [without(i, (i + 1) % 24)]]


def test_predictions_are_what_happens_where_effects_add_up() -> None:
    b = np.random.default_rng(1).normal(0, 0.01, 24)
    found = compare_runs(additive(b), "pets", NAMES, b)
    assert [curve.name for curve in found.curves] == ["worst", "random", "best"]
    for curve in found.curves:
        (point,) = curve.points
        assert point.removed == 2
        if curve.name == "random":  # what predictions start from
            assert point.predicted is None
            continue
        assert point.predicted == pytest.approx(point.output.value)
    assert found.curves[0].points[0].full.value == pytest.approx(-np.sort(b)[:2].sum())
    assert found.full.runs == 3
    relative = compare_runs(additive(b), "pets", NAMES, b + 0.7)  # what subsets of one size leave open decides nothing
    assert relative.curves[0].points[0].predicted == pytest.approx(found.curves[0].points[0].predicted)


def test_a_subset_is_random_removal_s_unit() -> None:
    trials = [trial(without(i), "random", seed, i + 0.001 * seed) for i in range(4) for seed in range(10)]
    (curve,) = compare_runs(trials, "pets", NAMES).curves
    (point,) = curve.points
    assert point.runs == 40
    expected = stats.t.interval(0.95, 3, np.arange(4).mean() + 0.0045, stats.sem(np.arange(4)))
    assert (point.score.low, point.score.high) == pytest.approx(expected)
    assert point.full is None


def test_a_curve_of_another_order_comes_last() -> None:
    comparison = compare_runs([trial(without(0), curve, 0, 0.5) for curve in ("oldest", "random")], "pets", NAMES)
    assert [curve.name for curve in comparison.curves] == ["random", "oldest"]
    assert {"random", "oldest"} <= {trace.name for trace in removal(comparison).data}


def test_curves_listed_subsets_and_other_studies_are_kept_apart() -> None:
    trials = [trial(without(0), "worst, influences/pets@1", s, 0.1 * s) for s in range(3)]
    trials += [trial(without(1), "worst, label_mapping@2", s, 0.2 * s) for s in range(3)]
    trials += [trial(without(s), "random", s, 0.2 * s) for s in range(3)]
    trials += [trial(without(*range(4, 24)), "", s, 0.3 * s) for s in range(3)]
    trials += [trial(without(0), "worst, influences/pets@1", s, 0.5, "wide") for s in range(3)]
    trials += [trial(without(s), "random", s, 0.2 * s, "wide") for s in range(3)]
    trials += [trial(np.ones(24, bool), "", s, 0.5, "only the full source") for s in range(3)]
    here, there = compare_all(trials, NAMES, {"pets": np.zeros(24)})
    names = [curve.name for curve in here.curves]
    assert names == ["worst, influences/pets", "worst, label_mapping", "random"]
    assert [point.name for point in here.listed] == ["only g0, g1, g2, g3"]
    marks = removal(here).data[-1]
    assert (marks.text, list(marks.x), list(marks.y)) == (("only g0, g1, g2, g3",), [20], pytest.approx([30]))
    assert (there.study, there.listed) == ("wide", ())
    assert there.curves[0].points[0].score.value == 0.5
    assert here.curves[0].points[0].predicted is not None
    assert there.curves[0].points[0].predicted is None  # these influences are another recipe's
    assert len(counterfactuals.comparison_rows(here)[0]) == len(counterfactuals.COLUMNS)


def test_listed_subsets_alone_are_drawn_by_name_the_best_first() -> None:
    trials = [trial(without(g), "", s, 0.1 * g + 0.01 * s) for g in (1, 5, 3) for s in range(1 if g == 1 else 3)]
    found = compare_runs([*trials, *(trial(np.ones(24, bool), "", s, 0.6) for s in range(2))], "pets", NAMES)
    points, full = removal(found).data
    assert list(points.y) == ["without g5", "without g3", "without g1"]
    assert list(points.x) == pytest.approx([51, 31, 10])
    expected = 100 * stats.sem([0.0, 0.01, 0.02]) * stats.t.ppf(0.975, 2)
    assert points.error_x.array[:2] == pytest.approx((expected, expected), rel=1e-4)
    assert points.error_x.array[2] is None  # one run
    assert list(full.x) == pytest.approx([60, 60])


def test_a_curve_is_an_order_and_a_ranking() -> None:
    assert DESIGNS["ranked"].curve({"design": "ranked", "order": "random", "seed": 1}) == "random"
    assert DESIGNS["ranked"].curve({"design": "ranked", "order": "worst", "ranking": "a@1"}) == "worst, a@1"
    assert DESIGNS["listed"].curve({"design": "listed", "keep": ["A"]}) == DESIGNS["full"].curve({}) == ""


def write(folder: Path, seed: int, mask: np.ndarray, subset: dict[str, Any], effects: np.ndarray) -> None:
    """A made-up run whose examples' probabilities are the sum of the groups' effects, and noise."""
    item = make(seed)
    rng = np.random.default_rng([seed, *np.packbits(mask)])
    level = float(np.clip(0.5 + mask @ effects + rng.normal(0, 0.01), 0, 1))
    prob = np.clip(level + rng.normal(0, 0.01, 12), 0, 1).astype(np.float16)
    header = replace(
        item.header,
        run=f"{subset['design']}-{DESIGNS[subset['design']].curve(subset)}-{mask.sum()}-{seed}".replace("/", "_"),
        design=subset["design"],
        seed=seed,
        config={**item.header.config, "subset": subset, "target": {"pets": {"metric": "prob"}}},
    )
    margin = logit(np.clip(prob.astype(np.float64), 1e-3, 1 - 1e-3)).astype(np.float16)
    outputs = {"pets": replace(item.targets["pets"], prob=prob, margin=margin)}
    record.write(record.Record(mask, outputs, header), folder / header.run / names.RECORD)


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Forty random subsets of 14 groups, of which the first two hurt, and three models of the full source."""
    effects = np.r_[-0.05, -0.04, np.full(12, 0.02)]
    for seed in range(40):
        subset = {"design": "random", "fraction": 0.5, "seed": seed}
        write(tmp_path / "runs", seed, random(GROUPS, 0.5, seed), subset, effects)
    for seed in range(3):
        write(tmp_path / "runs", seed, np.ones(14, bool), {"design": "full"}, effects)
    return tmp_path / "runs"


def run_estimate(runs: Path, *overrides: str) -> Summary:
    places = (f"records={runs}", f"out={runs.parent / 'out'}", "logger=none", "estimator=ridge")
    return estimate.estimate(compose_config(*places, *overrides, name="estimate"))


def test_curation_proposes_and_then_verifies_the_same(runs: Path) -> None:
    out = runs.parent / "out"
    first = run_estimate(runs, "curate=true").curation
    assert first is not None
    assert sorted(first.drop) == ["g0", "g1"]
    assert first.verified == {"pets": None}
    for file, listed in (("drop.txt", first.drop), ("keep.txt", first.keep)):
        mask = designs.draw(GROUPS, {"design": "listed", file[:4]: str(out / file)})
        assert set(np.array(GROUPS)[mask == (file == "keep.txt")]) == set(listed)
    assert f"subset.ranking={out / 'ranking.csv'}" in first.command
    settings = {"design": "ranked", "ranking": str(out / "ranking.csv"), "remove": 2, "target": None}
    effects = np.r_[-0.05, -0.04, np.full(12, 0.02)]
    for order in ("worst", "random"):
        for seed in range(6):
            subset = designs.resolve({**settings, "order": order, "seed": seed})
            write(runs, seed + 100 * (order == "random"), designs.draw(GROUPS, subset), subset, effects)
    for seed in range(3, 6):
        write(runs, seed, np.ones(14, bool), {"design": "full"}, effects)
    summary = run_estimate(runs, "curate=true")
    second = summary.curation
    assert second is not None
    assert second.drop == first.drop
    gain = second.verified["pets"]
    assert gain is not None
    assert gain.full.low < 0.09 < gain.full.high
    assert (gain.runs, gain.runs_full) == (6, 6)
    assert gain.random.low < 0.09 + 2 * effects.mean() < gain.random.high
    text = "\n".join(proposal_sentences(second, "prob"))
    assert "Verified on pets: score +9" in text
    assert "none" not in text
    page = (out / "report.html").read_text()
    assert "What happens without chosen groups" in page
    (found,) = summary.counterfactuals
    assert {curve.name for curve in found.curves} == {"worst", "random"}


def test_another_study_s_lists_do_not_stay_beside_our_results(runs: Path) -> None:
    run_estimate(runs, "curate=true")
    out = runs.parent / "out"
    run_estimate(runs)
    assert (out / "drop.txt").exists()  # of this study
    files = ["drop.txt", "keep.txt", "ranking.csv", "summary.json", "others/influences.nc", "../up.txt"]
    (out / MANIFEST).write_text(json.dumps({"label": "another", "files": files}))
    (out / "others").mkdir()
    for path in (out / "others" / "influences.nc", out / "mine.txt", runs.parent / "up.txt"):
        path.write_text("x")
    run_estimate(runs)
    assert not {"drop.txt", "keep.txt", "ranking.csv"} & {path.name for path in out.iterdir()}
    assert not (out / "others" / "influences.nc").exists()
    assert (out / "mine.txt").exists()
    assert (runs.parent / "up.txt").exists()


def test_a_place_that_cannot_be_is_told_before_the_work(runs: Path) -> None:
    (runs.parent / "out").write_text("a file")
    with pytest.raises(SourcewiseError, match="out: it is not a folder; choose another place"):
        run_estimate(runs)


def test_a_proposal_stays_until_the_random_models_change(runs: Path) -> None:
    run_estimate(runs, "curate=true")
    drop = runs.parent / "out" / "drop.txt"
    lines = drop.read_text().splitlines()
    drop.write_text("\n".join([*lines, "g5"]))  # as if fewer models of the full source had let it propose three
    assert len(run_estimate(runs, "curate=true").curation.drop) == 3
    ranking = drop.with_name("ranking.csv")  # as if full runs that verify it had changed what mappings expect since
    ranking.write_text(ranking.read_text().replace("\ng1,", "\nswap,").replace("\ng7,", "\ng1,").replace("swap", "g7"))
    assert sorted(run_estimate(runs, "curate=true").curation.drop)[-1] == "g7"
    drop.write_text("")
    assert sorted(run_estimate(runs, "curate=true").curation.drop) == ["g0", "g1"]
    next(runs.glob("random*/record.safetensors")).unlink()
    assert len(run_estimate(runs, "curate=true").curation.drop) == 2


def test_rankings_survive_any_name(tmp_path: Path) -> None:
    scores = {'a "b", c': 1.0, "d": float("nan"), "é\nf": -2.0}
    write_ranking(tmp_path / "a.csv", scores)
    mask = designs.draw(
        list(scores), {"design": "ranked", "ranking": str(tmp_path / "a.csv"), "order": "worst", "remove": 2}
    )
    assert mask.tolist() == [False, True, False]


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [(-0.02, 0.01, "over the full source from none"), (-0.02, -0.01, "hurts pets: keep the full source")],
)
def test_no_gain_is_said_plainly(low: float, high: float, words: str) -> None:
    gain = Interval((low + high) / 2, low, high)
    verified = {"pets": VerifiedGain(full=gain, random=None, every=gain, output=gain, runs=5, runs_full=5)}
    curation = Curation({"pets": 1.0}, ("a",), ("b",), ExpectedGain(gain, gain, 1), verified, "x", {}, "")
    assert words in "\n".join(proposal_sentences(curation, "prob"))


def test_without_the_full_source_curation_says_what_it_needs(runs: Path) -> None:
    for path in runs.glob("full*/record.safetensors"):
        path.unlink()
    with pytest.raises(SourcewiseError, match="subset=full 'seed=range"):
        run_estimate(runs, "curate=true")
    assert not (runs.parent / "out").exists()
    run_estimate(runs)


def test_records_of_another_recipe_may_join_but_not_those_of_other_groups(runs: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    subset = {"design": "listed", "drop": ["g0"]}
    write(runs, 0, without(0, count=14), subset, np.zeros(14))
    for seed in range(3):
        config = {"source": {"name": "made-up"}, "subset": {"design": "listed", **subset}}
        item = make(seed, design="listed", run=f"listed-{seed}", study="wide-1", config=config)
        header = replace(item.header, seed=seed)
        record.write(record.Record(without(0, count=14), item.targets, header), other / f"{seed}" / names.RECORD)
    found = run_estimate(runs, f"counterfactuals=[{other},{runs}]").counterfactuals  # a run counts once
    assert [(item.study, item.listed[0].runs) for item in found] == [("", 1), ("wide-1", 3)]
    item = make(0, design="full", group_names=[f"h{i}" for i in range(14)], study="wide-1")
    record.write(record.Record(np.ones(14, bool), item.targets, item.header), tmp_path / "bad" / "0" / names.RECORD)
    with pytest.raises(SourcewiseError, match="are not the 14 groups"):
        run_estimate(runs, f"counterfactuals=[{tmp_path / 'bad'}]")


def test_candidates_of_a_search_are_no_counterfactuals(runs: Path) -> None:
    subset = {"design": "listed", "drop": ["g0"]}
    write(runs, 0, without(0, count=14), subset, np.zeros(14))
    (path,) = runs.glob("listed*/record.safetensors")
    item = record.read(path)
    assert run_estimate(runs).counterfactuals
    record.write(replace(item, header=replace(item.header, overrides=["experiment=search", NO_SEARCH])), path)
    assert not run_estimate(runs).counterfactuals


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_planted_harm_is_found(tmp_path: Path) -> None:
    _, removed = planted_harm.propose(planted_harm.train(100, 128, tmp_path))  # the benchmark's table has other repeats
    harmful = sum(name.startswith("wrong") for name in removed)
    assert harmful >= 3
    assert len(removed) - harmful <= 2
