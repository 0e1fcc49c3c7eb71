"""The sections on single examples, and when examples are not examined."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from fake_reports import EVIL, Page, make_summary, make_target, render
from planted_models import EXAMPLES, models, planted_effects

from sourcewise.acting.brittle import BrittleExample, BrittleExamples, BrittleSide
from sourcewise.acting.subpopulations import ClassSplit, GroupExamples, Subpopulation, Subpopulations
from sourcewise.report.summary import summarise
from sourcewise.study import collect as collecting
from sourcewise.study.collect import collect
from sourcewise.study.effects import ExampleEffect, GroupEffect
from sourcewise.study.influences import estimate


def test_sections_show_what_was_found_and_escape_it() -> None:
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


def test_what_is_too_large_to_be_examined_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    planted = planted_effects()
    study = collect(models(40, planted))
    found = estimate(study, "difference")
    for limit, reason in ((EXAMPLES * 40, False), (EXAMPLES * 40 - 1, True)):
        monkeypatch.setattr(collecting, "SMALL", limit)
        facts = summarise(study, found, [], 0.05).targets["pets"]
        assert facts.unexamined == (facts.subpopulations is None) == reason
    page = Page(render({"pets": found["pets"].dataset}, make_summary({"pets": facts}, 14)))
    for section in ("splits target classes by the groups", "lists target examples that hang on one"):
        assert re.search(f"{section}[^.]*[.] It is left out where examples", page.text)
    assert "needs groups of several" not in page.text


def test_groups_that_are_examples_are_not_examined() -> None:
    planted = planted_effects()
    study = collect(models(40, planted, group_names=None))
    facts = summarise(study, estimate(study, "difference"), [], 0.05).targets["pets"]
    assert facts.subpopulations is None
