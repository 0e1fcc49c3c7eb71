"""The report without a browser: structure, escaping, size, wording."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fake_reports import (
    EVIL,
    Page,
    build,
    changed,
    make,
    make_big,
    make_summary,
    make_target,
    render,
    write,
)

from sourcewise.acting.counterfactuals import Interval
from sourcewise.acting.curation import Curation, ExpectedGain
from sourcewise.core.errors import SourcewiseError
from sourcewise.records.reading import LeftOut
from sourcewise.report import contents, figures
from sourcewise.report.sections import SECTIONS


@pytest.fixture(scope="module")
def page() -> Page:
    return Page(render(*make()))


def test_the_verdict_comes_first_and_everything_else_is_there(page: Page) -> None:
    assert re.search(r"\d+ of 360 influences of a group on a class of digits are significant\.", page.text)
    order = [
        "reliability",
        "results",
        "target-digits-classes",
        "target-digits-overall",
        "costs",
        "reproduce",
        "left-out",
    ]
    assert [i for i in page.ids() if i in order] == order
    for words in (
        "96 models were pretrained on characters",
        "849 examples, 10 classes",
        "relative to the average group",
        "python estimate.py records=runs/characters-1a2b3c4d out=outputs/demo",
        "1a2b3c4d5e6f7890",
        "b5226d3f00",
        "truncated: 311 of 9,120 bytes",
        "Wall time by stage",
    ):
        assert words in page.text


def test_ids_are_unique_and_tables_figures_and_inputs_are_named(page: Page) -> None:
    ids = page.ids()
    assert len(ids) == len(set(ids))
    for tag, attributes in page.elements:
        if tag == "th":
            assert attributes["scope"] in ("row", "col")
        if attributes.get("role") == "img":
            assert len(str(attributes["aria-label"])) > 40
        for reference in ("aria-labelledby", "aria-controls", "aria-describedby", "for"):
            assert reference not in attributes or attributes[reference] in ids
    tags = [tag for tag, _ in page.elements]
    assert tags.count("caption") == tags.count("table") == 5
    assert tags.count("figcaption") == tags.count("figure") == 3
    assert tags.count("h1") == tags.count("main") == 1


def test_nothing_is_fetched(page: Page) -> None:
    for tag, attributes in page.elements:
        assert tag not in ("link", "img", "iframe", "object", "embed", "base")
        assert "src" not in attributes
        assert not any(name.startswith("on") or (name == "style" and "url" in str(v)) for name, v in attributes.items())
        assert tag != "a" or str(attributes["href"]).startswith("#")
    policy = next(str(a["content"]) for t, a in page.elements if t == "meta" and "http-equiv" in a)
    assert policy.startswith("default-src 'none'")
    assert "unsafe-eval" not in policy
    assert "http" not in policy


@pytest.mark.parametrize(
    "evil", [EVIL, "</script><img src=x onerror=alert(1)>", '"><b>x</b>', "{{ 7*7 }}", "a\u2028b<!--"]
)
def test_every_string_is_escaped(evil: str) -> None:
    dataset, facts = make_target(name=f"t{evil}", groups=["a", "b", f"g{evil}"], classes=["a", f"c{evil}"], examples=9)
    checks = replace(facts.checks["class"], verdict=evil, estimator=evil, candidates={evil: 0.5})
    facts = replace(facts, verdict=evil, checks={**facts.checks, "class": checks})
    texts = {key: f"{key}{evil}" for key in ("study", "source", "estimator", "command", "recipe", "commit")}
    summary = make_summary(
        {f"t{evil}": facts},
        3,
        designs={evil: 3},
        left_out=[LeftOut(evil, evil)],
        config={evil: [evil]},
        versions={evil: evil},
        seconds={evil: 1.0},
        notes=[evil],
        **texts,
    )
    text = render({f"t{evil}": dataset}, summary)
    page = Page(text)
    summary = replace(summary, targets={"t": replace(facts, verdict="x")}, source="s", notes=["x"])
    plain = Page(render({"t": dataset}, summary))
    tags = [tag for tag, _ in page.elements]
    assert len(tags) == len(plain.elements)
    assert tags.count("script") == 6
    assert not {"img", "b", "a "} & set(tags)
    assert "\u2028" not in "".join(body for attributes, body in page.scripts if "type" in attributes)
    for attributes, body in page.scripts:
        if attributes.get("type") == "application/json":
            assert not set("<>&\u2028") & set(body)
            json.loads(body)
    if evil == EVIL:
        assert page.text.count(EVIL) >= 20


def test_plotly_never_sees_markup_in_a_name() -> None:
    dataset, _ = make_target(groups=["a", EVIL, "<b>x</b>"], classes=[EVIL, "<a href='http://x'>y</a>"], examples=4)
    for figure in (figures.heatmap(dataset), figures.overall_bars(dataset)):
        shown = json.loads(figure.to_json())
        del shown["layout"]["meta"]["groups"]
        shown["layout"]["meta"].pop("classes", None)
        assert "<script" not in json.dumps(shown)
        assert "<a " not in json.dumps(shown)
        assert "&lt;b&gt;x" in json.dumps(shown)


def test_size_is_bounded_with_many_groups_classes_and_examples() -> None:
    text = render(*make_big())
    size = len(text.encode()) / 1e6
    print(f"big page: {size:.1f} MB")
    assert size <= 15
    assert "Shown are the 100 classes and 400 groups with the strongest evidence, of 1,000 and 1,000" in text


def test_what_the_data_cannot_show_is_said() -> None:
    page = Page(render(*make(missing=(3, 11))))
    assert "The influence of 2 groups is not identifiable; the notes say why." in page.text
    assert page.text.count("not identifiable") >= 4
    assert "nan" not in page.text.lower().replace("finance", "")
    traces = figures.heatmap(make_target(missing=(3,))[0]).data
    assert [trace.meta for trace in traces] == ["muted", "significant", "missing"]


def test_an_influence_without_an_error_claims_nothing() -> None:
    influences, summary = make(groups=["a", "b"], classes=["a"], examples=3)
    summary = changed(summary, metric_std=None)
    for field in ("stderr", "qvalue"):
        for suffix in ("class", "overall"):
            influences["digits"][f"{field}_{suffix}"][..., 1] = np.nan
    influences["digits"]["interval_overall"][1] = np.nan
    page = Page(render(influences, summary))
    assert "92.1%" in page.text
    assert "nan" not in page.text
    assert figures.heatmap(influences["digits"]).data[-1].meta == "missing"
    assert figures.overall_bars(influences["digits"]).layout.meta["interval"].count(None) == 1


def test_without_significance_the_page_says_so_plainly() -> None:
    influences, summary = make(signal=False)
    summary = changed(summary, significant_class=0, significant_example=0, significant_overall=0)
    page = Page(render(influences, summary))
    assert "These data cannot support a claim about digits." in page.text
    assert "cannot be told from noise" in page.text
    assert ("div", {"class": "verdict unsupported"}) in page.elements


def test_a_metric_is_shown_by_its_name_in_its_own_unit() -> None:
    influences, summary = make(examples=3)
    summary = changed(summary, metric_mean=2.0391, metric_std=0.23, score="target/digits/loss")
    summary = replace(summary, output="metric:target/digits/loss")
    page = Page(render(influences, summary))
    assert "target/digits/loss, mean ± sd 2.039 ± 0.23 " in page.text
    assert "Accuracy" not in page.text


def test_costs_are_those_of_all_runs() -> None:
    influences, summary = make(examples=3)
    summary = replace(
        summary, designs={"random": 30, "full": 90}, models=30, seconds={"pretraining": 60.0}, elapsed=3720.0
    )
    page = Page(render(influences, summary))
    assert "Wall time, summed over all runs 2.0 h" in page.text
    assert "Wall time that elapsed, parallel runs counted once 1.0 h" in page.text
    assert "pretraining 60.00 2.0 h" in page.text


def test_a_proposal_for_other_targets_makes_no_empty_section() -> None:
    one, two = make_target("digits", examples=3), make_target("letters", examples=3)
    gain = Interval(0.1, 0.05, 0.15)
    proposal = Curation({"digits": 1.0}, ("a",), ("b",), ExpectedGain(gain, gain, 1), {"digits": None}, "x", {}, "")
    summary = make_summary({"digits": one[1], "letters": two[1]}, curation=proposal)
    built = build({"digits": one[0], "letters": two[0]}, summary, ["counterfactuals"])
    assert [[part.id for part in item.sections] for item in built] == [["counterfactuals"], []]


def test_several_targets_become_tabs() -> None:
    one, two = make_target("digits"), make_target("letters", classes=["A", "B"], examples=200, seed=1)
    page = Page(render({"digits": one[0], "letters": two[0]}, make_summary({"digits": one[1], "letters": two[1]})))
    roles = [attributes.get("role") for _, attributes in page.elements]
    assert roles.count("tab") == roles.count("tabpanel") == 2
    assert "help digits and letters" in page.text


def test_heatmap_holds_the_influences_in_percentage_points() -> None:
    dataset, _ = make_target()
    figure = figures.heatmap(dataset)
    meta = figure.layout.meta
    column, row = meta["groups"].index("E"), meta["classes"].index("7")
    cell = dataset.sel({"class": "7", "group": "E"})
    assert figure.data[0].z[row][column] == pytest.approx(100 * float(cell.influence_class), abs=1e-3)
    assert figure.data[0].customdata[row][column][0] == pytest.approx(100 * float(cell.stderr_class), abs=1e-3)
    assert (figure.data[1].z[row][column] is not None) == (float(cell.qvalue_class) <= 0.05)
    assert [meta["groups"][i] for i in meta["original"]] == dataset["group"].values.tolist()
    assert figure.data[0].zmin == -figure.data[0].zmax


def test_clustering_puts_alike_groups_together() -> None:
    columns = np.array([[1.0, 0], [0, 1], [1.1, 0], [0, 1.1], [0.9, 0]])
    order = figures.cluster(columns).tolist()
    assert {frozenset(order[:3]), frozenset(order[2:])} & {frozenset({0, 2, 4})}


def test_bars_show_both_ends_of_many_groups() -> None:
    dataset, _ = make_target(groups=[f"g{i}" for i in range(100)], classes=["a"], examples=3)
    figure = figures.overall_bars(dataset, ends=5)
    assert len(figure.data[0].y) == 10
    assert len(figure.layout.meta["groups"]) == 100
    assert list(figure.data[0].x) == sorted(figure.data[0].x, reverse=True)


def test_the_page_is_replaced_or_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    influences, summary = make(groups=["a", "b"], classes=["a"], examples=3)
    path = write(tmp_path / "deep" / "report.html", influences, summary)
    assert path.read_text("utf-8") == render(influences, summary)
    before = path.read_bytes()

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        write(path, influences, summary)
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == ["report.html"]


def test_sections_can_be_chosen_and_those_without_records_say_what_they_need(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SECTIONS, "curves", lambda target: "Needs counterfactual runs: python train.py -m x")
    page = Page(render(*make(), sections=["overall", "curves"]))
    shown = [i for i in page.ids() if i in ("target-digits-classes", "target-digits-overall", "target-digits-trust")]
    assert shown == ["target-digits-overall"]
    assert "curves Needs counterfactual runs: python train.py -m x" in page.text
    with pytest.raises(SourcewiseError, match=r"no section 'clases'; did you mean classes\?"):
        contents.check_sections(["clases"])
