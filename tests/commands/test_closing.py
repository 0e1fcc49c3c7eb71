"""The last lines of a sweep."""

import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, TINY, Compose
from warm_python import interpreter

from sourcewise.commands.closing import closing
from sourcewise.core import names


def complete(config: dict) -> dict:
    folder = names.run_dir(config)
    folder.mkdir(parents=True)
    (folder / names.RECORD).touch()
    return config


def test_it_says_where_records_are_and_how_to_estimate(tiny: Compose, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["train.py", "-m"])
    configs = [complete(tiny(f"subset.seed={seed}")) for seed in range(2)]
    study = names.run_dir(configs[0]).parent
    assert closing(configs).splitlines() == [
        f"records of this study: 2, in {study}",
        f"to estimate influences: python estimate.py records={study} out={study.parents[1]} logger=none",
    ]
    monkeypatch.setattr(sys, "argv", ["/some/bin/sourcewise-train", "-m"])
    assert "to estimate influences: sourcewise-estimate records=" in closing(configs)


def test_without_random_subsets_there_is_nothing_to_estimate(tiny: Compose) -> None:
    chosen = [complete(tiny("subset=full", f"seed={seed}")) for seed in range(3)]
    assert "estimate" not in closing(chosen)
    complete(tiny("subset.seed=0"))
    assert "estimate" not in closing(chosen)  # a single one is not enough
    complete(tiny("subset=hadamard"))
    assert "records of this study: 5, in " in closing(chosen)
    assert "to estimate influences: " in closing(chosen)


def test_each_study_has_its_lines_up_to_a_few(tiny: Compose) -> None:
    configs = [
        complete(tiny(f"model.width={width}", f"subset.seed={seed}")) for width in range(4, 11) for seed in (0, 1)
    ]
    text = closing(configs)
    assert text.count("to estimate influences: ") == 5
    assert text.splitlines()[-1] == "and 2 more studies"


@pytest.mark.slow
def test_the_command_at_the_end_of_a_sweep_runs_as_printed(tmp_path: Path) -> None:
    places = {"cwd": tmp_path, "capture_output": True, "text": True, "timeout": 250}
    command = [interpreter(), str(ROOT / "train.py"), "-m", "subset.seed=range(0,3)", "runs_dir=my runs", *TINY]
    done = subprocess.run(command, check=False, **places)
    assert done.returncode == 0, done.stderr
    _, line = done.stdout.splitlines()
    start, *words = shlex.split(line.removeprefix("to estimate influences: "))
    assert start == "python"
    done = subprocess.run([interpreter(), *words], check=False, **places)
    assert done.returncode == 0, done.stderr
    (page,) = tmp_path.glob("outputs/*/report.html")
    assert "3 models" in page.read_text()
