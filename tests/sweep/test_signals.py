"""Sweeps that are asked to stop, once or twice."""

# ruff: noqa: F401, F811  (fixtures are imported, and named again as arguments)

import os
import re
import signal
from datetime import datetime

import pytest
from fake_sweeps import sweeps, until

from sourcewise.sweep import leases


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_stops_cleanly_and_the_same_command_resumes(sweeps, number, status):
    settings = ("hydra.launcher.slots=2", "hydra.launcher.finish_within=0.5")
    process = sweeps.start(*settings, seeds=4, deeds={"2": "hang_once", "3": "hang_once"})
    until(lambda: len(sweeps.starts()) == 4)
    process.send_signal(number)
    _, err = process.communicate(timeout=200)
    assert process.returncode == status
    assert "2 of 4 runs are done, 0 failed, 2 are left; the same command goes on where this one stopped" in err
    assert "Traceback" not in err
    assert "KeyboardInterrupt" in (sweeps.folder(2) / "log.txt").read_text()
    assert not list(sweeps.runs.glob("*/*/lease*"))  # the runs ended by themselves
    done = sweeps.run("hydra.launcher.slots=2", seeds=4, deeds={"2": "hang_once", "3": "hang_once"})
    assert done.returncode == 0
    assert set(sweeps.records()) == {0, 1, 2, 3}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.slow
def test_the_first_signal_lets_running_runs_end(sweeps, number):
    """Both running runs get their records, no further one begins, and the line says until when they have time."""
    process = sweeps.start("hydra.launcher.slots=2", "hydra.launcher.finish_within=1000", seeds=4, sleep=5)
    until(lambda: len(sweeps.starts()) == 2)
    before = datetime.now()
    process.send_signal(number)
    _, err = process.communicate(timeout=200)
    assert process.returncode == 128 + number
    assert set(sweeps.records()) == {seed for seed, _, _ in sweeps.starts()} == {0, 1}
    assert f"{number.name}: no further run begins, and the 2 running ones have until " in err
    said = datetime.strptime(re.search(r"have until (\d\d:\d\d:\d\d) to end \(1000 s", err)[1], "%H:%M:%S")
    assert 995 < (said - before.replace(microsecond=0)).seconds < 1100
    assert "2 of 4 runs are done, 0 failed, 2 are left; the same command goes on" in err


@pytest.mark.slow
@pytest.mark.parametrize("finish_within", [0, 1000])
def test_a_second_signal_is_immediate(sweeps, finish_within):
    settings = ("hydra.launcher.grace=1000", f"hydra.launcher.finish_within={finish_within}")
    process = sweeps.start(*settings, seeds=2, deeds={"0": "stubborn", "1": "stubborn"})
    until(lambda: len(sweeps.starts()) == 2)
    pids = [pid for _, pid, _ in sweeps.starts()]
    process.send_signal(signal.SIGINT)
    assert process.stderr is not None
    until(lambda: "SIGINT: " in process.stderr.readline())
    if not finish_within:
        until(lambda: "I shall not stop" in (sweeps.folder(0) / "log.txt").read_text())
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=200)
    assert process.returncode == 130
    until(lambda: all(leases._birth(pid) == "gone" for pid in pids))
    assert not list(sweeps.runs.glob("*/*/lease*"))


def test_a_signal_while_workers_still_import(sweeps, tmp_path, monkeypatch):
    (tmp_path / "slow_module.py").write_text(
        f"import pathlib, time\npathlib.Path({str(tmp_path)!r}, 'importing').touch()\ntime.sleep(1000)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    process = sweeps.start("hydra.launcher.preload=[slow_module]", seeds=2)
    until(lambda: (tmp_path / "importing").exists())
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=200)
    assert process.returncode == 130
