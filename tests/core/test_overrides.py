"""Quoting against the readers themselves: Hydra's parser of overrides, and the shell."""

import math
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import example, given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from sourcewise.core.errors import SourcewiseError
from sourcewise.core.overrides import check_targets, command, names_as_typed, quote

OPTIONS = Path(__file__).parents[2] / "conf" / "target"
PARSER = OverridesParser.create()

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
TRICKY = st.text(st.sampled_from(list("\\\"'${}[](),:=~@!#&|*?<> \t\n.-+01enaultrfi")), max_size=8).filter(
    lambda text: text != "???"  # which OmegaConf takes for a missing value, in quotes too
)
SCALARS = st.one_of(
    TEXT,
    TRICKY,
    st.sampled_from(["null", "True", "NaN", "-inf", "1e5", "0x1", "1_000", "", "${a}", "\\${", "a,b", "range(0,3)"]),
    st.integers(),
    st.floats(),
    st.booleans(),
    st.none(),
)
VALUES = st.recursive(
    SCALARS,
    lambda items: st.one_of(
        st.lists(items, max_size=4), st.dictionaries(st.from_regex(r"[a-z_][a-z_0-9]{0,4}[_x]", fullmatch=True), items)
    ),
    max_leaves=6,
)


def alike(first: Any, second: Any) -> bool:
    """Whether two values are equal, and of the same types (1 is not 1.0, nor True; NaN is NaN)."""
    if type(first) is not type(second):
        return False
    if isinstance(first, list):
        return len(first) == len(second) and all(map(alike, first, second))
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(alike(first[key], second[key]) for key in first)
    return first == second or (isinstance(first, float) and math.isnan(first) and math.isnan(second))


@given(VALUES)
@example({"_target_": "sourcewise.Flip", "pixels": [2, -0.0]})
@example(["1", "\\", "Tr,ue"])
@example(["${a}", "\\${oc.env:HOME}", "\\\\${", "a\\"])
@example(math.inf)
def test_hydra_reads_any_value_back(value: Any) -> None:
    (override,) = PARSER.parse_overrides([f"key={quote(value)}"])
    assert not override.is_sweep_override()
    config = OmegaConf.create({"key": override.value()})
    assert alike(OmegaConf.to_container(config, resolve=True), {"key": value})


@given(st.lists(st.one_of(TEXT, TRICKY)))
def test_a_shell_reads_a_command_back(words: list[str]) -> None:
    assert shlex.split(command("train.py -m", words)) == ["python", "train.py", "-m", *words]


def test_a_real_shell_does_so_too() -> None:
    words = [f"key={quote(text)}" for text in ("it's", 'a "b" $HOME `id` \\', "*", "line\nbreak", "~", "!x", "ü")]
    line = command("-c 'import sys; print(sys.argv)'", words).replace("python", "printf '%s\\0'", 1)
    done = subprocess.run(["sh", "-c", line], capture_output=True, text=True, check=True)
    assert done.stdout.split("\0")[-len(words) - 1 : -1] == words


def test_what_needs_no_quotes_has_none() -> None:
    plain = ["cats", "a/b.csv", "/data/x-1", "_a+b"]
    assert [quote(text) for text in plain] == plain
    assert command("estimate.py", ["out=a/b", "seed=range(0,3)"]) == "python estimate.py out=a/b 'seed=range(0,3)'"


@pytest.mark.parametrize("key", ["", "a b", "1", "null", 'a"', "a:b"])
def test_a_key_that_the_grammar_cannot_hold_is_refused(key: str) -> None:
    with pytest.raises(ValueError, match="key of a mapping"):
        quote({key: 1})


@given(st.lists(st.text("0159_.eE+-xnul", min_size=1), min_size=1), st.sampled_from(["", " "]))
@example(["1_1", "1e3", "null", "True", "-inf", "+5", "11", "007", "1.5", "-0", "NaN"], "")
def test_names_of_groups_are_read_as_they_are_typed(names: list[str], space: str) -> None:
    (line,) = names_as_typed([f"subset.drop=[{','.join(f'{space}{name}{space}' for name in names)}]"])
    value = OverridesParser.create().parse_overrides([line])[0].value()
    assert [str(item) for item in value] == names
    assert names_as_typed([line]) == [line]


@pytest.mark.parametrize(
    ("typed", "read"),
    [
        ("subset.keep=[1_1],[b,1e3]", 'subset.keep=["1_1"],[b,"1e3"]'),
        ("""+subset.drop=["1_1",'a,1_1,b',x 1_1]""", """+subset.drop=["1_1",'a,1_1,b',x 1_1]"""),
        ("subset.drop=1_1,11,a.txt", 'subset.drop="1_1","11",a.txt'),
        ("subset.drop=null", "subset.drop=null"),
        ("subset.drop='1_1'", "subset.drop='1_1'"),
        ("subset.remove=[1_1]", "subset.remove=[1_1]"),
    ],
)
def test_nothing_else_gets_quotes(typed: str, read: str) -> None:
    assert names_as_typed([typed]) == [read]


@pytest.mark.parametrize(
    "word", ["target=[pets,pets]", "target=[flowers, pets, flowers]", "target=[pets],[flowers,flowers]"]
)
def test_a_target_that_is_chosen_twice_is_one_line(word: str) -> None:
    with pytest.raises(SourcewiseError, match=r"(pets|flowers) is there twice, .*\+target@target.birds=named_folder"):
        check_targets(["seed=0", word], OPTIONS)
    check_targets(["target=[pets,flowers],[pets]", "subset.drop=[a,a]", "target.pets.transfer.lr=[1,1]"], OPTIONS)


def test_two_files_of_one_target_are_one_line() -> None:
    with pytest.raises(SourcewiseError, match="imagefolder and folders are both imagefolder, which is one target"):
        check_targets(["target=[folders,digits,imagefolder]"], OPTIONS)
