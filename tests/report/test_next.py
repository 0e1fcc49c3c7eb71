"""The commands that lead from an estimate to a better subset."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import fake_records as records
import pytest
from fake_reports import Page, build, context, make, make_summary, make_target, render

from sourcewise.records import record
from sourcewise.records.reading import Records
from sourcewise.report import contents
from sourcewise.report.sections.closing import next_section
from sourcewise.report.summary import MoreModels, Summary, summarise
from sourcewise.study.collect import collect
from sourcewise.study.influences import Estimated, estimate
from tests.report.test_pictures import review_rows


def commands(summary: Summary) -> dict[str, list[str]]:
    """The labels of the section, and the words of its commands."""
    section = next_section(context("digits", make(examples=3)[0]["digits"], summary))
    return {label: shlex.split(command) for part in section for label, command in part.code}


@pytest.mark.parametrize(
    ("asked", "count", "label"),
    [
        (None, 12, "To train 12 more models, as many again; how many it takes cannot be told yet"),
        (7, 7, "To train 7 more models"),
        (1800, 36, "To train 36 more models, the first of those that the verdict asks for"),
        (0, 0, None),
    ],
)
def test_as_many_more_models_as_the_verdict_asks_for_whatever_the_first_record_is(
    tmp_path: Path, asked: int | None, count: int, label: str | None
) -> None:
    subset = {"design": "random", "fraction": 0.5}
    config: dict[str, Any] = {"source": {"name": "made-up"}, "subset": subset, "seed": 0, "runs_dir": "runs"}
    typed = {"overrides": ["model=resnet9"]}
    items = [records.make(seed, config={**config, "subset": {**subset, "seed": seed}}, **typed) for seed in range(12)]
    first = {**config, "subset": {"design": "full"}}
    full = records.header(run="a-full", design="full", subset_seed=None, config=first, **typed)
    items = [replace(items[0], header=full, mask=items[0].mask | True), *items]
    for item in items:
        record.write(item, tmp_path / item.header.run / "record.safetensors")
    study = collect(Records(str(tmp_path)), "prob")
    assert study.header.design == "full"
    found = {name: with_forecast(item, asked) for name, item in estimate(study, "ridge").items()}
    summary = summarise(study, found, [], 0.05)

    more = {label: words for label, words in commands(summary).items() if label.startswith("To train")}
    if label is None:
        assert not more
        return
    ((shown, words),) = more.items()
    assert shown == label
    assert {"model=resnet9", "subset=random", "subset.fraction=0.5", f"subset.seed=range(0,{12 + count})"} <= set(words)


def with_forecast(found: Estimated, asked: int | None) -> Estimated:
    level = replace(found.checks["class"], more_models=asked)
    return replace(found, checks={**found.checks, "class": level})


def test_a_proposal_is_offered_until_it_is_made_and_only_from_outputs_of_examples() -> None:
    _, summary = make(examples=3)
    (words,) = commands(summary).values()
    assert words == [*shlex.split(summary.command), "curate=true"]
    assert not commands(replace(summary, output="metric:loss"))
    more = MoreModels(count=5, asked=5, command="python train.py -m")
    assert commands(replace(summary, output="metric:loss", more_models=more)) == {
        "To train 5 more models": ["python", "train.py", "-m"]
    }


def test_after_a_review_the_flagged_examples_are_left_out_and_compared() -> None:
    _, summary = make(examples=3)
    rows = review_rows("digits")
    reviewed = [*commands(replace(summary, review=rows)).values()]
    assert any(row.flagged for row in rows)
    without, full, after = reviewed[1:]
    assert {"subset=listed", "subset.drop=outputs/demo/review_drop.txt", "seed=range(0,5)"} <= set(without)
    assert {"subset=full", "seed=range(0,5)"} <= set(full)
    assert after == shlex.split(summary.command)
    harmless = [replace(row, flagged=False) for row in rows]
    assert len(commands(replace(summary, review=harmless))) == 1
    influences = make(examples=3)[0]
    assert "subset=listed" in contents.as_text(build(influences, replace(summary, review=rows)))


def test_what_a_section_needs_is_said_for_each_target_where_it_differs() -> None:
    one, two = make_target("digits", examples=3), make_target("letters", examples=3)
    summary = make_summary({"digits": one[1], "letters": two[1]})
    text = Page(render({"digits": one[0], "letters": two[0]}, summary, ["counterfactuals", "review"])).text
    for name in ("digits", "letters"):
        assert f"counterfactuals, {name} " in text
        assert f"subset.ranking=outputs/demo/{name}/influences.nc" in text
    assert text.count("source.groups=example") == 1


def test_how_to_reproduce_an_estimate_begins_with_its_sweeps() -> None:
    influences, summary = make(examples=3)
    sweep = "python train.py -m model=resnet9 subset=random 'subset.seed=range(0,96)'"
    text = Page(render(influences, replace(summary, sweeps=[sweep]))).text
    assert f"Training {sweep}" in text.partition("How to reproduce this")[2]
