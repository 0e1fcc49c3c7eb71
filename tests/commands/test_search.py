"""python train.py -m experiment=search: killed and repeated, it ends as if nothing had happened, and a report shows it."""

import html
import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, TINY
from fake_records import make
from warm_python import interpreter

from sourcewise.acting.counterfactuals import Interval
from sourcewise.acting.search import account
from sourcewise.acting.search.account import SearchAccount
from sourcewise.acting.search.settings import SearchSettings
from sourcewise.acting.search.trials import Trial
from sourcewise.commands.search import FAILED, Training
from sourcewise.core import settings
from sourcewise.core.errors import RunFailed, SourcewiseError
from sourcewise.records import record
from sourcewise.study.recipes import train_command
from sourcewise.sweep.runs import Run

SEARCH = (
    "-m",
    "experiment=search",
    *TINY,
    "search.budget=24",
    "search.verify=6",
    "search.seed=1",
    "hydra.launcher.slots=2",
)


def start(script: str, *arguments: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [interpreter(), str(ROOT / script), *arguments],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def run(script: str, *arguments: str, status: int = 0) -> tuple[str, str]:
    process = start(script, *arguments)
    out, err = process.communicate()
    assert process.returncode == status, err
    return out, err


def records(folder: Path) -> set[str]:
    return {path.parent.name for path in folder.glob("runs/*/*/record.safetensors")}


@pytest.mark.slow  # a search of tiny runs, twice
def test_a_search_that_is_killed_five_times_ends_as_one_that_is_not_and_the_report_shows_it(tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    out, _ = run("train.py", *SEARCH, f"runs_dir={whole / 'runs'}")
    assert str(whole / "search/search.json") in out.splitlines()
    assert "to estimate influences: " in out
    assert len(records(whole)) > 25  # so the last kill is in the verification
    for done in (2, 8, 13, 19, 25):
        process = start("train.py", *SEARCH, f"runs_dir={killed / 'runs'}")
        while len(records(killed)) < done and process.poll() is None:
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    run("train.py", *SEARCH, f"runs_dir={killed / 'runs'}")
    assert records(killed) == records(whole)
    for name in ("search.json", "keep.txt", "drop.txt"):
        assert (killed / "search" / name).read_bytes() == (whole / "search" / name).read_bytes()
    search = account.read(whole / "search/search.json")
    assert len(search.keep) + len(search.drop) == 36
    assert search.spent <= 24
    run("estimate.py", f"records={whole / 'runs'}", f"out={whole}", "logger=none", "priors=null")
    page = (whole / "report.html").read_text()
    assert page.count(html.escape(account.sentences(search)[0], quote=False)) == 2  # first screen, and section
    summary = json.loads((whole / "summary.json").read_text())
    assert summary["search"]["keep"] == list(search.keep)
    made = record.read(next(whole.glob("runs/*/*/record.safetensors"))).header
    assert train_command(made, "subset=full").startswith("python train.py -m experiment=search")
    assert " search=null " in train_command(made, "subset=full")


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"budget": 0}, "search.budget=0: input should be greater than 0"),
        ({"choose": 0.3}, "search.choose=0.3: input should be a multiple of 0.125"),
        ({"explore": 1.0}, "search.explore=1.0: input should be less than or equal to 0.9"),
        ({"speed": 1}, "search.speed: there is no such setting"),
        ({"hours": float("inf")}, "search.hours=inf: input should be a finite number"),
        ({"weights": {"digits": float("inf")}}, "input should be a finite number"),
    ],
)
def test_a_wrong_setting_is_one_line(setting: dict[str, float], message: str) -> None:
    with pytest.raises(SourcewiseError, match=re.escape(message)):
        settings.check_arguments(SearchSettings, setting, "search")


@pytest.mark.slow  # starts commands
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("-m", "experiment=search", "search.weights={pets: 1}"), "search.weights.pets: no such target"),
        (("-m", "experiment=search", "subset.seed=0,1"), "a search is one study"),
        (("-m", "experiment=search", "subset.seed=5"), "it chooses subsets and training seeds itself"),
        (("-m", "experiment=search", "search.cost=no.csv"), "search.cost=no.csv: cannot read"),
        (("-m", "experiment=search", "search.candidates=[no.txt]"), "in brackets: 'search.candidates=[[no.txt]]'"),
        (("experiment=search",), "search: it needs -m"),
        (("-m", "experiment=search", "hydra.launcher.status=true"), "counts the runs of a sweep"),
    ],
)
def test_what_cannot_be_searched_is_one_line(tmp_path: Path, arguments: Sequence[str], message: str) -> None:
    _, err = run("train.py", *arguments, f"runs_dir={tmp_path / 'runs'}", status=2)
    assert message in err
    assert len(err.strip().splitlines()) == 1


def test_a_goal_that_one_verification_may_overrun_is_refused() -> None:
    with pytest.raises(SourcewiseError, match=r"search.at_most=259: the budget and a verification may take 260 runs"):
        SearchSettings(at_most=259)
    assert SearchSettings(at_most=260).most_verified == 160


def training(**settings: Any) -> Training:
    """A search's trainer that has seen a record, without a launcher."""
    return Training(None, [], {"pets": 1.0}, SearchSettings(**settings), first=make(0))  # type: ignore[arg-type]  # none is needed


def test_every_list_of_groups_is_a_candidate_of_its_own(tmp_path: Path) -> None:
    first, second, third = training().groups[:3]
    (tmp_path / "drop.txt").write_text(f"# a list\n{third}\n")
    lists = training(candidates=[[first], [second, third], str(tmp_path / "drop.txt")]).listed()
    dropped = [
        [name for name, kept in zip(training().groups, keep, strict=True) if not kept] for keep in lists.values()
    ]
    assert dropped == [[first], [second, third], [third]]
    with pytest.raises(SourcewiseError, match="search.candidates: list 1: no group is called 'nobody'"):
        training(candidates=[["nobody"]]).listed()


def test_costs_and_rankings_that_do_not_fit_the_source_are_one_line(tmp_path: Path) -> None:
    names, path = training().groups, tmp_path / "a.csv"

    def message(setting: str, numbers: Sequence[object]) -> str:
        path.write_text(
            "\n".join(["group,score", *(f"{name},{number}" for name, number in zip(names, numbers, strict=False))])
        )
        with pytest.raises(SourcewiseError) as caught:
            training(cost=str(path)).costs() if setting == "cost" else training(rankings=[str(path)]).rankings()
        return str(caught.value)

    ones = [1.0] * len(names)
    assert (
        message("cost", [-1, *ones[1:]])
        == f"search.cost={path}: each cost must be 0 or more, one above 0; not for '{names[0]}'"
    )
    assert message("cost", [0.0] * len(names)).endswith("all are 0")
    assert message("cost", ones[1:]) == f"search.cost={path}: it has no number for '{names[-1]}'"
    assert message("rankings", ["", *ones[1:]]).startswith(f"search.rankings={path}: it has no score of '{names[0]}'")


@pytest.mark.parametrize(("state", "is_decided"), [("failed", True), ("missing", False)])
def test_runs_that_were_not_tried_decide_nothing(tmp_path: Path, state: str, is_decided: bool) -> None:
    first, second = (Run(place, {}, tmp_path / f"{place}/run.log") for place in range(2))

    class Launcher:
        def perform(self, runs: Sequence[Run], label: str = "") -> None:
            first.state, second.state = "done", state
            raise RunFailed("a run failed")

    class Known(Training):
        def _run(self, trial: Trial) -> Run:
            return (first, second)[trial.seed]

    second.folder.mkdir()
    train = Known(Launcher(), [], {"pets": 1.0}, SearchSettings())  # type: ignore[arg-type]  # it performs, and no more
    trials = [Trial("race", 0, None, None, seed) for seed in range(2)]
    with nullcontext() if is_decided else pytest.raises(RunFailed):
        assert train(trials) == [None, None]
    assert (second.folder / FAILED).exists() == is_decided


@pytest.mark.parametrize("content", ["", "[]", '{"keep": 1}', '{"weights": {}, "settings": {"budget": -1}}'])
def test_a_file_that_no_search_wrote_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "search.json"
    path.write_text(content)
    with pytest.raises(SourcewiseError, match="not the account of a search"):
        account.read(path)


def test_an_account_without_a_race_is_refused(tmp_path: Path) -> None:
    gain = Interval(0.0, None, None)
    account.write(tmp_path / account.FILE, SearchAccount({"digits": 1.0}, SearchSettings(), ["a"], [], 0, 2, [], gain))
    with pytest.raises(SourcewiseError, match=r"not the account of a search \(races: "):
        account.read(tmp_path / account.FILE)
