"""python train.py -m experiment=search: killed and repeated, it ends as if nothing had happened, and a report shows it."""

import html
import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from conftest import ROOT, TINY
from warm_python import interpreter

from sourcewise.acting.search import account
from sourcewise.acting.search.program import SearchSettings
from sourcewise.core import settings
from sourcewise.core.errors import SourcewiseError
from sourcewise.records import record
from sourcewise.study.recipes import train_command

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
        (("experiment=search",), "search: it needs -m"),
        (("-m", "experiment=search", "hydra.launcher.status=true"), "counts the runs of a sweep"),
    ],
)
def test_what_cannot_be_searched_is_one_line(tmp_path: Path, arguments: Sequence[str], message: str) -> None:
    _, err = run("train.py", *arguments, f"runs_dir={tmp_path / 'runs'}", status=2)
    assert message in err
    assert len(err.strip().splitlines()) == 1


@pytest.mark.parametrize("content", ["", "[]", '{"keep": 1}', '{"weights": {}, "settings": {"budget": -1}}'])
def test_a_file_that_no_search_wrote_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "search.json"
    path.write_text(content)
    with pytest.raises(SourcewiseError, match="not the account of a search"):
        account.read(path)
