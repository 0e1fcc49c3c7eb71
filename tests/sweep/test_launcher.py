"""`python tests/fake_task.py -m ...`: the launcher and the sweeper as a user meets them, with runs that only pretend."""

# ruff: noqa: F401, F811  (fixtures are imported, and named again as arguments)

import json
import os
import re
import shlex
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import fake_task
import pytest
from fake_sweeps import sweeps, until

from sourcewise.core import names
from sourcewise.records import record
from sourcewise.sweep import leases

ROOT = Path(__file__).parents[2]


def test_a_sweep_its_repetition_and_a_larger_one(sweeps):
    done = sweeps.run(seeds=6)
    assert done.returncode == 0, done.stderr
    assert sweeps.records() == {seed: seed for seed in range(6)}
    assert "6/6 runs" in done.stderr
    assert sweeps.leftovers() == []
    assert sorted(path.name for path in sweeps.runs.iterdir() if path.is_file()) == ["starts.txt"]
    workers = {seed: pid for seed, pid, _ in sweeps.starts()}
    assert f"run 3 by {workers[3]}" in (sweeps.folder(3) / "log.txt").read_text()

    again = sweeps.run(seeds=6)
    assert again.returncode == 0
    assert "6 of 6 runs are done already" in again.stderr
    larger = sweeps.run(seeds=9)
    assert larger.returncode == 0
    assert len(sweeps.records()) == 9
    assert Counter(seed for seed, _, _ in sweeps.starts()) == dict.fromkeys(range(9), 1)


def test_a_run_named_twice_is_one_run(sweeps):
    assert sweeps.run("subset.seed=1,1,0,1").returncode == 0
    assert sorted(seed for seed, _, _ in sweeps.starts()) == [0, 1]


def test_failures_cost_their_runs_only_and_are_listed(sweeps):
    deeds = {
        "1": "raise",
        "2": "kill",
        "3": "kill_once",
        "4": "exit",
        "5": "hang",
        "6": "nothing",
        "7": "late",
    }
    done = sweeps.run("hydra.launcher.timeout=4", "hydra.launcher.grace=0.5", seeds=9, deeds=deeds)
    assert done.returncode == 1
    assert set(sweeps.records()) == {0, 3, 7, 8}
    last = done.stderr.rpartition("are done already")[2]
    for seed, cause in {
        1: "ValueError: this went wrong",
        2: "killed by SIGKILL (out of memory?)",
        4: "SystemExit: 3",
        5: "hung: stopped after 4 s",
        6: "it ended without a record",
    }.items():
        entry = f"  cause: {cause}\n  log:   {sweeps.folder(seed) / 'log.txt'}\n"
        assert entry in last
        assert f"failed: subset.seed={seed} " in last
    assert done.stderr.strip().endswith("fake_task.py: 4 of 9 runs are done, 5 failed, 0 are left")
    assert "Traceback" not in done.stderr
    assert "Traceback" in (sweeps.folder(1) / "log.txt").read_text()
    attempts = Counter(seed for seed, _, _ in sweeps.starts())
    assert attempts == {0: 1, 1: 1, 2: 2, 3: 2, 4: 1, 5: 1, 6: 1, 7: 1, 8: 1}
    assert not list(sweeps.runs.glob("*/*/lease*"))


def test_retries_are_settings(sweeps):
    settings = ("hydra.launcher.retries=0", "hydra.launcher.retries_on_error=1")
    done = sweeps.run(*settings, seeds=3, deeds={"0": "kill_once", "1": "raise_once"})
    assert done.returncode == 1
    assert set(sweeps.records()) == {1, 2}


def test_fail_fast(sweeps):
    settings = ("hydra.launcher.fail_fast=true", "hydra.launcher.slots=1")
    done = sweeps.run(*settings, seeds=5, deeds={"1": "raise"})
    assert done.returncode == 1
    assert set(sweeps.records()) == {0}
    assert "1 of 5 runs are done, 1 failed, 3 are left; the same command goes on" in done.stderr


@pytest.mark.slow
def test_a_sweep_whose_runs_all_fail_alike_stops_after_a_few(sweeps):
    deeds = {str(seed): "raise" for seed in range(40)}
    done = sweeps.run("hydra.launcher.slots=2", seeds=40, deeds=deeds)
    assert done.returncode == 1
    attempts = {seed for seed, _, _ in sweeps.starts()}
    assert 3 <= len(attempts) <= 5
    last = done.stderr.strip().splitlines()[-1]
    assert re.search(r"0 of 40 runs are done, [34] failed, 3[67] are left; no other is tried, since", last), last
    assert "failed alike: ValueError: this went wrong" in last
    assert done.stderr.count("ValueError: this went wrong") <= 5  # a line for each, and the last one
    assert not list(sweeps.runs.glob("*/*/lease*"))

    done = sweeps.run("hydra.launcher.slots=2", "hydra.launcher.give_up_after=null", seeds=40, deeds=deeds)
    assert {seed for seed, _, _ in sweeps.starts()} == set(range(40))
    assert done.stderr.strip().endswith("0 of 40 runs are done, 40 failed, 0 are left")


@pytest.mark.slow
@pytest.mark.parametrize("bad", [range(0, 20), range(0, 13), range(7, 40), range(1, 40), [0, 1, 2]])
def test_one_wrong_value_among_several_does_not_end_a_sweep(sweeps, bad):
    deeds = {str(seed): "raise" for seed in bad}
    done = sweeps.run("hydra.launcher.slots=4", seeds=40, deeds=deeds)
    assert done.returncode == 1
    assert set(sweeps.records()) == set(range(40)) - set(bad)


@pytest.mark.slow
def test_too_little_memory_is_one_line(sweeps):
    """The heavy libraries do not fit into 2 GB of addresses, for a sweep or for one run."""
    command = shlex.join([sys.executable, str(ROOT / "train.py"), "logger=none", f"runs_dir={sweeps.runs}"])
    for line in (command, command.replace("train.py", "train.py -m subset.seed=0,1")):
        done = subprocess.run(
            ["bash", "-c", f"ulimit -v 2000000; {line}"], capture_output=True, text=True, timeout=200, env=sweeps.env()
        )
        assert done.returncode in (1, 2)
        assert "Traceback" not in done.stderr, done.stderr
        assert len(done.stderr.strip().splitlines()) == 1, done.stderr
        assert "failed to map segment" in done.stderr


@pytest.mark.slow
def test_a_place_where_nothing_can_be_written_is_one_line_before_anything_starts(sweeps, tmp_path):
    (tmp_path / "file").touch()
    done = sweeps.run(f"runs_dir={tmp_path / 'file' / 'runs'}")
    assert done.returncode == 2
    assert f"{tmp_path / 'file'}: it is not a folder; choose another place" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_two_sweeps_share_the_work(sweeps):
    both = [sweeps.start(seeds=30, sleep=0.02) for _ in range(2)]
    for process in both:
        _, err = process.communicate(timeout=200)
        assert process.returncode == 0, err
    assert Counter(seed for seed, _, _ in sweeps.starts()) == dict.fromkeys(range(30), 1)
    assert len(sweeps.records()) == 30
    assert sweeps.leftovers() == []


def test_a_run_held_by_someone_else_is_waited_for(sweeps):
    assert sweeps.run(seeds=1, deeds={"0": "raise"}).returncode == 1
    folder = sweeps.folder(0)
    with leases.lease(folder):
        process = sweeps.start(seeds=3)
        until(lambda: len(sweeps.records()) == 2)
        time.sleep(0.3)
        assert process.poll() is None
        config = dict(record.read(sweeps.folder(1) / names.RECORD).header.config)
        fake_task.write({**config, "subset": {**config["subset"], "seed": 0}}, 77)
    process.communicate(timeout=200)
    assert process.returncode == 0
    assert sweeps.records()[0] == 77


def test_a_run_that_its_holder_gives_up_is_done_here(sweeps):
    assert sweeps.run(seeds=1, deeds={"0": "raise"}).returncode == 1
    with leases.lease(sweeps.folder(0)):
        process = sweeps.start(seeds=2)
        until(lambda: len(sweeps.records()) == 1)
    process.communicate(timeout=200)
    assert process.returncode == 0
    assert sweeps.records()[0] == 0


def test_leftovers_of_a_complete_run_are_removed(sweeps):
    assert sweeps.run(seeds=1).returncode == 0
    (sweeps.folder(0) / "lease").write_text("{}")
    (sweeps.folder(0) / ".record.safetensors.x.tmp").touch()
    assert sweeps.run(seeds=1).returncode == 0
    assert sweeps.leftovers() == []


@pytest.mark.parametrize(
    ("override", "text"),
    [
        ("no.such=1", "no: there is no such setting"),
        ("subset=no_such", "no_such"),
        ("subset.fraction=???", "subset.fraction"),
        ("hydra.launcher.slots=none", "hydra.launcher.slots=none"),
        ("trainer.devices=auto", "trainer.devices=auto"),
    ],
)
def test_a_wrong_setting_is_one_line_before_anything_starts(sweeps, override, text):
    done = sweeps.run(override)
    assert done.returncode == 2
    assert text in done.stderr
    assert "Traceback" not in done.stderr
    assert list(sweeps.runs.iterdir()) == []


def test_a_task_that_cannot_be_imported(sweeps):
    done = sweeps.run("hydra.launcher.task=no_such_module:train")
    assert done.returncode == 2
    assert "worker processes cannot start: ModuleNotFoundError: No module named 'no_such_module'" in done.stderr


def test_the_experiment_may_hold_the_sweep(sweeps):
    command = [word for word in sweeps.command("experiment=demo", "hydra.sweeper.also=null") if "range" not in word]
    done = subprocess.run(command, cwd=ROOT, env=sweeps.env(), check=True, capture_output=True, text=True)
    assert len(sweeps.records()) == 96, done.stderr


def test_a_run_on_several_devices_is_one_command_of_its_own(sweeps):
    settings = ("trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=3", "+fake.note='a b'")
    done = sweeps.run(*settings, seeds=2, deeds={})
    assert done.returncode == 0, done.stderr
    assert set(sweeps.records()) == {0, 1}
    text = (sweeps.folder(1) / "log.txt").read_text()
    (line,) = [line for line in text.splitlines() if line.startswith("argv ")]
    config = json.loads(line.split(" ", 4)[-1])["config"]
    assert config["subset"]["seed"] == 1
    assert config["fake"]["note"] == "a b"
    assert " -m" not in line


def test_failures_of_runs_on_several_devices(sweeps):
    settings = (
        "trainer=ddp",
        "trainer.accelerator=cpu",
        "hydra.launcher.timeout=20",
        "hydra.launcher.slots=2",
    )
    done = sweeps.run(*settings, seeds=4, deeds={"0": "raise", "1": "kill_once", "2": "kill"})
    assert done.returncode == 1
    assert set(sweeps.records()) == {1, 3}
    assert "exit status 1: and more of it" in done.stderr
    assert "ValueError: this went wrong" in (sweeps.folder(0) / "log.txt").read_text()
    assert "killed by SIGKILL" in done.stderr


def test_gpus_are_handed_out(sweeps, monkeypatch):
    monkeypatch.setattr(sweeps, "env", lambda: {**os.environ, "CUDA_VISIBLE_DEVICES": "4,6"})
    assert sweeps.run("trainer=gpu", seeds=6, sleep=0.1).returncode == 0
    by_gpu = {(gpus, pid) for _, pid, gpus in sweeps.starts()}
    assert {gpus for gpus, _ in by_gpu} == {"4", "6"}
    assert len(by_gpu) == 2
