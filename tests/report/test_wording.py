"""What the page calls things: data by their folders, examples by their files, and harm only what is harm."""

from __future__ import annotations

import csv
import io
from dataclasses import replace
from pathlib import Path

import fake_records as records
import numpy as np
import pytest
from fake_reports import EVIL, Page, build, changed, context, make, make_summary, make_target, render
from numpy.typing import NDArray
from planted_models import planted_summary

from sourcewise.acting.counterfactuals import Comparison, Interval, ListedPoint, RemovalCurve, RemovalPoint
from sourcewise.acting.curation import Curation, ExpectedGain, VerifiedGain
from sourcewise.commands import results
from sourcewise.data import regroup
from sourcewise.data.load import stored
from sourcewise.data.store import Listing, prepared
from sourcewise.estimation.scoring import Score
from sourcewise.report import terminal
from sourcewise.report.figures import removal
from sourcewise.report.formatting import display_unit
from sourcewise.report.parts import Effect, Row, Table
from sourcewise.report.sections.groups import overall_section
from sourcewise.report.sections.trust import trust_section
from sourcewise.report.summary import dataset_titles
from sourcewise.study.pilot import Choice, Pilot
from sourcewise.study.priors import PriorScore
from tests.report.test_pictures import dataset, facts, half_and_half, review_rows


def titles(source: dict[str, str], **targets: dict[str, str]) -> dict[str, str]:
    names = {name: ["a"] for name in targets}
    return dataset_titles(records.header(config={"source": source, "target": targets, "subset": {}}, class_names=names))


def test_data_of_ones_own_are_called_by_their_folders() -> None:
    folder = {"name": "imagefolder", "root": "/data/mine/"}
    assert titles(folder, imagefolder={"root": "photos/theirs"}) == {"": "mine", "imagefolder": "theirs"}
    assert titles(folder, birds={"root": "photos/theirs"}) == {"": "mine", "birds": "birds"}  # a name that was chosen
    same = {"root": "/other/mine"}
    assert titles(folder, imagefolder=same) == {"": "imagefolder", "imagefolder": "imagefolder"}
    assert titles({"name": "cifar10", "root": "/data/x"}, digits={}) == {"": "cifar10", "digits": "digits"}
    header = records.header()  # without settings of targets
    assert dataset_titles(header) == {"": "made-up", "pets": "pets"}


def test_the_page_shows_the_titles() -> None:
    influences, summary = make(examples=3)
    page = Page(render(influences, changed(replace(summary, source="mine"), title="theirs")))
    assert "Which parts of mine help theirs , and which hurt?" in page.text.replace("theirs,", "theirs ,")
    assert "of digits" not in page.text


def test_a_proposal_and_runs_that_verify_it_go_by_the_titles() -> None:
    influences, summary = make(examples=3)
    gain = Interval(0.1, 0.05, 0.15)
    verified = VerifiedGain(full=gain, random=None, every=gain, output=gain, runs=3, runs_full=3)
    point = ListedPoint(
        removed=1, runs=3, score=gain, full=gain, random=None, every=gain, output=gain, name="without b"
    )
    summary = replace(summary, counterfactuals=[Comparison("", "digits", None, (), (point,))])
    for known in (None, verified):
        curation = Curation(
            {"digits": 1.0}, ("a",), ("b",), ExpectedGain(gain, gain, 1), {"digits": known}, "x", {}, ""
        )
        text = Page(render(influences, changed(replace(summary, curation=curation), title="theirs"))).text
        assert "erified on theirs" in text.replace("not verified", "verified")
        assert "Score on theirs after" in text
        assert "on digits" not in text


def test_a_prediction_for_one_number_of_groups_can_be_seen() -> None:
    """A verification removes one number of groups, and a line needs two."""
    gain = Interval(0.1, 0.05, 0.15)
    point = RemovalPoint(removed=2, runs=3, score=gain, full=gain, random=None, every=gain, output=gain, predicted=0.2)
    unit = display_unit("prob")
    traces = removal(Comparison("", "digits", None, (RemovalCurve("worst", (point,)),), ()), unit).data
    (shown,) = (trace for trace in traces if trace.line.dash == "dash")
    assert list(shown.y) == [20.0]
    assert "markers" in shown.mode


def relative(**changes: object) -> str:
    influences, summary = make(examples=3)
    influences["digits"].attrs["reference"] = "the average group"
    return Page(render(influences, changed(summary, **changes))).text


def test_relative_influences_are_no_harm() -> None:
    text = relative(harmful=None)
    assert "less useful than the average group is" in text
    assert "what hurts most" not in text
    assert "That is no harm yet" in text
    assert "Helped least by" in text
    assert "no group significantly hurts" in relative(harmful=())
    assert "these really hurt: A, B, C, D, E and 1 more." in relative(harmful=tuple("ABCDEF"))
    plain = Page(render(*make(examples=3))).text
    assert "what hurts most is" in plain
    assert "Hurt most by" in plain
    assert "average" not in plain.partition("Which groups help which classes")[2].partition("How far to trust")[0]


def paths(count: int) -> NDArray[np.object_]:
    return np.array([f"{'ab'[i % 2]}/{i:03d}.png" for i in range(count)], object)


def test_examples_go_by_their_files_everywhere() -> None:
    target, about = make_target(name="pets", groups=["a", "b"], classes=["a", "b"], examples=90)
    target = target.assign_coords(example=3 * np.arange(90), path=("example", paths(270)[::3]))
    summary = make_summary({"pets": replace(about, **facts(name="a"))}, 2)
    page = Page(render({"pets": target}, summary, ["subpopulations", "brittle"], {"pets": dataset()}))
    assert "b/003.png (class a)" in page.text  # helped most: the id is 3
    assert "by path" in page.text
    assert "by id" not in page.text
    words = [str(attributes["alt"]) for tag, attributes in page.elements if tag == "img"]
    assert words[0] == "b/003.png, class b"
    assert not any("example" in word for word in words)
    evil = target.assign_coords(path=("example", np.array([EVIL] * 90, object)))
    text = render({"pets": evil}, summary, ["subpopulations", "brittle"])
    assert EVIL not in text
    assert Page(text).text.count(EVIL) > 5


def test_examples_to_review_go_by_their_files() -> None:
    target, about = make_target(name="pets", groups=list(map(str, range(30))), classes=["a", "b"], examples=90)
    target = target.assign_coords(path=("example", paths(90)), group_path=("group", paths(30)))
    summary = make_summary({"pets": about}, 30, review=review_rows("pets"))
    page = Page(render({"pets": target}, summary, ["review"], {"pets": dataset(), "": dataset()}))
    assert "a/004.png (class a)" in page.text  # the source example 4
    assert "b/009.png (class b)" in page.text  # it is a copy of the example with id 9


def test_groups_that_are_examples_go_by_their_files() -> None:
    target, about = make_target(groups=[str(i) for i in range(30)], examples=9)
    target = target.assign_coords(group_path=("group", ["", *paths(30)[1:]]))
    influences = build({"digits": target}, make_summary({"digits": about}, 30))[0].target.influences
    assert influences["group"].values.tolist() == ["0", *paths(30)[1:]]


def test_a_source_whose_examples_are_groups_is_known_by_its_fingerprint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (tmp_path / "sourcewise").mkdir()
    listing = Listing(half_and_half, [0, 1], ("a", "b"))
    made = prepared(lambda: listing, str(tmp_path / "sourcewise" / "a.arrow"), side=40)
    fingerprint = regroup(made, "example").fingerprint
    assert stored(fingerprint) is None
    found = stored(fingerprint, "example")
    assert found is not None
    assert list(found.group_names) == ["0", "1"]


def test_an_error_never_rounds_to_zero() -> None:
    assert display_unit("prob").pair(0.048123456, 0.000034) == ("+4.8123", "0.0034")
    influences, summary = make(examples=3)
    for suffix in ("_class", "_overall"):
        influences["digits"][f"stderr{suffix}"] *= 0.001
    influences["digits"]["interval_overall"] *= 0.001
    reports = build(influences, summary)
    shown = [effect.error for part in reports[0].sections for table in part.tables for effect in table.effects]
    assert shown
    assert all(float(error) > 0 for error in shown)
    lines = "\n".join(line for part in reports[0].sections if part.brief for line in terminal.lines(part.brief))
    assert "± 0.00 " not in lines
    assert "± 0.00*" not in lines


def test_brittle_examples_are_folded_and_significant() -> None:
    summary = planted_summary()
    influences, _ = make(groups=list(records.GROUPS), classes=["cat", "dog", "eel"], examples=3, name="pets")
    (report,) = build(influences, summary, ["brittle"])
    (section,) = report.sections
    assert section.folded
    assert section.tables
    assert all(row.significant for table in section.tables for row in table.rows)
    assert "Real" in section.tables[0].columns
    text = render(influences, summary, ["brittle"])
    assert '<details class="section">' in text
    none = replace(summary.targets["pets"].brittle.harmed, examples=())  # type: ignore[union-attr]
    both = replace(summary.targets["pets"].brittle, harmed=none, supported=none)  # type: ignore[type-var]
    silent = replace(summary, targets={"pets": replace(summary.targets["pets"], brittle=both)})
    (section,) = build(influences, silent, ["brittle"])[0].sections
    assert not section.tables
    assert "No such influence is significant here" in " ".join(section.lead)


def test_what_groups_do_to_examples_comes_before_how_far_to_trust_it() -> None:
    from sourcewise.report.sections import SECTIONS

    order = list(SECTIONS)
    assert order.index("subpopulations") < order.index("trust") < order.index("brittle")


def test_an_influence_stands_beside_the_images_that_bring_it() -> None:
    influences, summary = make()
    name, dataset = next(iter(influences.items()))
    groups = dataset.sizes["group"]
    plain = overall_section(context(name, dataset, summary)).tables[0]
    assert "Images" not in plain.columns
    sizes = np.full(groups, 50)
    sizes[0] = 400
    sized = dataset.assign_coords(group_size=("group", sizes))
    table = overall_section(context(name, sized, summary)).tables[0]
    row = next(row for row in table.rows if row.header == str(dataset["group"].values[0]))
    cells = dict(zip(table.columns[1:], row.cells, strict=True))
    value = 100 * float(dataset["influence_overall"].values[0])
    assert cells["Images"] == "400"
    assert float(str(cells["Per 100 images"]).replace("\u2212", "-")) == pytest.approx(value / 4, abs=0.01)


def test_tables_are_files_too(tmp_path: Path) -> None:
    influences, summary = make(examples=3, groups=["a, b", EVIL, "c"], classes=["x", "y"])
    results.write(tmp_path, {}, summary, [], build(influences, summary), 10)
    names = {path.name for path in (tmp_path / "tables").iterdir()}
    assert {"digits-by-class.csv", "digits-by-group.csv", "digits-checks.csv"} <= names
    assert {"digits-by-class.tex", "digits-by-group.tex", "digits-checks.tex"} <= names
    rows = list(csv.reader((tmp_path / "tables/digits-influence_class.csv").read_text().splitlines()))
    assert rows[0] == ["class", "a, b", EVIL, "c"]
    np.testing.assert_allclose(
        np.array(rows[1:])[:, 1:].astype(float), influences["digits"]["influence_class"], rtol=1e-4
    )
    assert {f"digits-{key}_class.csv" for key in ("influence", "stderr", "qvalue")} <= names
    assert not (tmp_path / "figures").exists()


def test_cells_of_a_table_become_text() -> None:
    cell = [Effect("a\n(class b)", "−1.00", "0.10"), Effect("c")]
    table = Table("t", "caption", ["Group", "Effects"], [Row('say "x"', [cell])])
    assert list(csv.reader(io.StringIO(table.csv()))) == [
        ["Group", "Effects"],
        ['say "x"', "a (class b) -1.00 ± 0.10; c"],
    ]


def test_figures_are_files_where_they_are_asked_for(tmp_path: Path) -> None:
    influences, summary = make(examples=3)
    results.write(tmp_path, {}, summary, [], build(influences, summary), 10, "pdf")
    files = sorted((tmp_path / "figures").iterdir())
    assert [path.name for path in files] == ["digits-bars.pdf", "digits-convergence.pdf", "digits-heatmap.pdf"]
    assert all(path.read_bytes().startswith(b"%PDF") for path in files)


def test_what_else_is_known_says_how_well_it_predicts_the_models() -> None:
    datasets, summary = make(examples=3)
    priors = {
        "label_mapping": PriorScore(None, None, Score(0.4, 0.3, 0.5)),
        "digits-short_halves-0123456789": PriorScore(96, 16.04, Score(0.55, 0.5, 0.6)),
    }
    split = Choice("short", 24, 8, Score(0.52, 0.42, 0.62), Score(-0.03, -0.1, 0.04))
    pilot = Pilot(16.04, [Choice("short_halves", 96, 0, Score(0.55, 0.5, 0.6), None), split], "Take short_halves.")
    facts = replace(summary.targets["digits"], priors=priors, pilot=pilot)
    section = trust_section(context("digits", datasets["digits"], replace(summary, targets={"digits": facts})))
    assert section.brief is not None
    text = "LDS: digits-short_halves-0123456789 0.55 (0.50 to 0.60); label mapping 0.40 (0.30 to 0.50)."
    assert section.lead[-2].endswith(text)
    assert section.brief.lead[-2].endswith(text)
    assert section.lead[-1] == section.brief.lead[-1] == "Take short_halves."
    table, bought = section.tables[1:]
    assert "the cost of 16.0 models" in bought.caption
    assert [(row.header, *row.cells) for row in bought.rows] == [
        ("short_halves", "96", "–", "0.55 (0.50 to 0.60)", "–"),
        ("short and the recipe", "24", "8", "0.52 (0.42 to 0.62)", "−0.03 (−0.10 to 0.04)"),
    ]
    assert [(row.header, *row.cells) for row in table.rows] == [
        ("digits-short_halves-0123456789", "96", "16.0", "0.55 (0.50 to 0.60)"),
        ("label mapping", "–", "–", "0.40 (0.30 to 0.50)"),
    ]
