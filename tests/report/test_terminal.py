"""Sections as text: aligned, narrow enough, harmless, and with commands that can be pasted."""

from __future__ import annotations

import shlex
import subprocess
from dataclasses import replace

import numpy as np
import pytest
from fake_reports import build, changed, make
from hypothesis import given, settings
from hypothesis import strategies as st

from sourcewise.core.overrides import command
from sourcewise.records.reading import LeftOut
from sourcewise.report import contents, terminal
from sourcewise.report.parts import Effect, Row, Section, Table, as_code


def text(section: Section) -> list[str]:
    return list(terminal.lines(section))


def table(*rows: Row) -> Table:
    return Table("id", "Some groups", ["Group", "Overall", "Helps"], rows, numeric=(1,))


def test_a_table_is_aligned_and_stars_are_what_is_significant() -> None:
    helps = [Effect("cat", "+10.25", "1.50"), Effect("dog", "−1.00", "0.75", significant=False)]
    first, second = Row("crane", ["−0.50", helps], True), Row("a", ["+12.00", []], False)
    assert text(Section("id", "Title", tables=[table(first, second)])) == [
        "Title",
        "  Some groups. *: significant.",
        "",
        "    Group   Overall   Helps",
        "  * crane     -0.50   cat +10.25 ± 1.50*  dog -1.00 ± 0.75",
        "    a        +12.00   -",
    ]


def test_a_table_of_plain_rows_has_no_stars() -> None:
    shown = text(Section("id", "Title", tables=[table(Row("a", ["1", "x"]))]))
    assert shown[1:] == ["  Some groups.", "", "  Group   Overall   Helps", "  a             1   x"]


def test_paragraphs_facts_and_commands_stand_apart() -> None:
    section = Section("id", "Title", ["One −0.5 – two…"], [("Term", "value")], [("To do it", "python train.py -m a=1")])
    assert text(section) == [
        "Title",
        "  One -0.5 - two...",
        "",
        "  Term: value",
        "",
        "  To do it:",
        "    python train.py -m a=1",
    ]


NAMES = st.text(max_size=80)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(NAMES, NAMES, st.sampled_from([True, False, None])), min_size=1, max_size=4), NAMES)
def test_no_name_widens_a_line_or_reaches_the_terminal(names: list[tuple[str, str, bool | None]], other: str) -> None:
    rows = [Row(header, ["1", [Effect(name, "+1.00", "0.50")]], flag) for header, name, flag in names]
    section = Section("id", other, [other], [(other, other)], tables=[table(*rows)])
    for line in text(section):
        assert terminal.columns(line) <= terminal.WIDTH
        assert line.isprintable()


def test_wide_characters_take_two_columns() -> None:
    shown = text(Section("id", "Title", tables=[table(Row("猿の写真", ["1", "x"]), Row("ape", ["2", "y"]))]))
    assert shown[-2:] == ["  猿の写真         1   x", "  ape              2   y"]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.text(st.characters(codec="utf-8", categories=("L", "N", "P", "S", "Zs")), max_size=60), max_size=6))
def test_commands_can_be_pasted_whatever_their_words_are(words: list[str]) -> None:
    line = command("train.py -m", [f"a={word}" for word in words if word.isprintable()])
    shown = text(Section("id", "Title", code=[("Label", line)]))[2:]
    pasted = "\n".join(shown)
    done = subprocess.run(
        ["bash", "-c", f"set -- {pasted.lstrip()}\nprintf '%s\\0' \"$@\""], capture_output=True, check=True
    )
    assert done.stdout.decode().split("\0")[:-1] == shlex.split(line)


def test_long_commands_are_broken_between_words() -> None:
    line = command("train.py -m", [f"setting.{i}=value" for i in range(20)])
    shown = text(Section("id", "Title", code=[("Label", line)]))[2:]
    assert len(shown) > 1
    assert all(len(part) <= terminal.WIDTH for part in shown)
    assert all(part.endswith(" \\") for part in shown[:-1])


@pytest.mark.parametrize("width", [5, 12])
def test_long_names_are_shortened(width: int) -> None:
    names = [f"{'x' * 200}{i}" for i in range(width)]
    rows = [Row(name, [[Effect(name, "+1.00", "0.50")] * 2] * 2) for name in names]
    shown = text(Section("id", "Title", tables=[Table("id", "Caption", ["A", "B", "C"], rows)]))
    assert all(len(line) <= terminal.WIDTH for line in shown)
    assert all(line.count("...") == 5 for line in shown[-width:])


def first_name(row: str) -> str:
    return row.lstrip(" *").split()[0]


def test_the_command_prints_the_verdict_and_few_rows_of_each_section() -> None:
    influences, summary = make(groups=[f"g{i}" for i in range(40)], classes=[f"c{i}" for i in range(30)])
    shown = contents.as_text(build(influences, summary))
    order = [
        "characters to digits: 96 models of subsets of 40 groups; accuracy 92.1% ± 1.3",
        "are significant.",
        "Which groups help which classes",
        "The first 20 of 30 classes",
        "Which groups hurt overall",
        "Influences at class level are reliable.",
        "Left out: runs/characters-1a2b3c4d/random-17/record.safetensors: truncated",
    ]
    places = [shown.index(part) for part in order]
    assert places == sorted(places)
    assert "c19 " in shown
    assert "c20 " not in shown
    overall = influences["digits"]["influence_overall"]
    worst = str(overall["group"].values[np.argmin(overall.values)])
    rows = shown[shown.index("q-value") :].splitlines()[1:6]
    assert first_name(rows[0]) == worst
    assert f"{100 * float(overall.min()):+.2f}" in rows[0]
    significant = influences["digits"]["qvalue_overall"].sel(group=[first_name(row) for row in rows]).values <= 0.05
    assert [row.startswith("  * ") for row in rows] == significant.tolist()


def test_the_text_stars_exactly_the_significant_effects() -> None:
    influences, summary = make(groups=["a", "b", "c"], classes=["x", "y"], examples=5)
    data = influences["digits"]
    data["influence_class"].values[:] = [[0.1, -0.1, -0.05], [0.2, 0.1, -0.2]]
    data["stderr_class"].values[:] = 0.01
    data["qvalue_class"].values[:] = [[0.01, 0.2, 0.05], [0.06, 0.04, 0.5]]
    shown = contents.as_text(build(influences, summary))
    rows = [line.split("  ") for line in shown.splitlines() if line.startswith(("  x ", "  y "))]
    assert [[part.strip() for part in row if part.strip()] for row in rows] == [
        ["x", "a +10.00 ± 1.00*", "b -10.00 ± 1.00", "c -5.00 ± 1.00*"],
        ["y", "a +20.00 ± 1.00", "b +10.00 ± 1.00*", "c -20.00 ± 1.00"],
    ]


def test_groups_without_an_influence_are_not_among_those_that_hurt() -> None:
    influences, summary = make(missing=(3, 11))
    shown = contents.as_text(build(influences, summary))
    rows = shown[shown.index("q-value") :].splitlines()[1:6]
    assert not {"3", "B"} & {first_name(row) for row in rows}
    assert "not identifiable" in shown
    influences["digits"]["influence_overall"].values[:] = np.abs(influences["digits"]["influence_overall"].values)
    assert "No group hurts digits overall." in contents.as_text(build(influences, summary))


@pytest.mark.parametrize("level", ["example", "class", "overall", None])
def test_a_claim_is_denied_only_where_nothing_is_significant(level: str | None) -> None:
    influences, summary = make(examples=9)
    counts = {f"significant_{name}": int(name == level) for name in ("example", "class", "overall")}
    shown = contents.as_text(build(influences, changed(summary, **counts)))
    assert ("These data cannot support a claim about digits." in shown) == (level is None)


def test_records_left_out_are_listed_up_to_a_number() -> None:
    influences, summary = make(examples=9)
    left_out = [LeftOut(f"runs/{i}", "truncated\x1b[2J\nforged: line") for i in range(25)]
    shown = contents.as_text(build(influences, replace(summary, left_out=left_out)))
    assert shown.count("Left out: runs/") == 20
    assert "  Left out: 5 more, all in summary.json" in shown
    assert "\x1b" not in shown
    assert "truncated?[2J forged: line" in shown


def test_sections_that_are_not_on_the_page_are_not_in_the_terminal() -> None:
    shown = contents.as_text(build(*make(examples=9), ["trust"]))
    assert "How far to trust this" in shown
    assert "Which groups" not in shown


def test_a_phrase_in_place_of_a_command_is_a_paragraph() -> None:
    commands = [("Models", "train.py -m with the overrides of these runs and a=1"), ("Others", "python train.py a=1")]
    assert as_code(commands) == (["Models: train.py -m with the overrides of these runs and a=1."], commands[1:])
