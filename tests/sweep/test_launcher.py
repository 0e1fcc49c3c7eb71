"""`python tests/fake_task.py -m ...`: the launcher and the sweeper as a user meets them, with runs that only pretend."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections import Counter
from datetime import datetime
from pathlib import Path

import fake_task
import pytest
from warm_python import interpreter

from sourcewise.core import names
from sourcewise.core.errors import SourcewiseError
from sourcewise.records import record, uploads
from sourcewise.sweep import leases, runs, slots
from sourcewise.sweep.slots import Shape

ROOT = Path(__file__).parents[2]


class Sweeps:
    """Commands whose runs go to one folder."""

    def __init__(self, folder: Path) -> None:
        self.runs = folder / "runs"
        self.runs.mkdir()
        self.started: list[subprocess.Popen[str]] = []

    def command(self, *overrides: str, seeds: int = 4, multirun: bool = True, **fake: object) -> list[str]:
        return [
            interpreter(),
            str(ROOT / "tests" / "fake_task.py"),
            *(["-m", f"subset.seed=range(0,{seeds})", "hydra.launcher.preload=[]"] if multirun else []),
            f"hydra.launcher.task={ROOT / 'tests' / 'fake_task.py'}:train",
            f"runs_dir={self.runs}",
            f"+fake={json.dumps(fake).replace(chr(34), '')}",
            *overrides,
        ]

    def start(self, *overrides: str, **settings: object) -> subprocess.Popen[str]:
        pipe = subprocess.PIPE
        command = self.command(*overrides, **settings)  # type: ignore[arg-type]
        process = subprocess.Popen(command, cwd=ROOT, stdout=pipe, stderr=pipe, text=True, env=self.env())
        self.started.append(process)
        return process

    def run(self, *overrides: str, **settings: object) -> subprocess.CompletedProcess[str]:
        process = self.start(*overrides, **settings)
        out, err = process.communicate(timeout=400)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def env(self) -> dict[str, str]:
        return {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}

    def records(self) -> dict[int, float]:
        """What the records say, by subset seed: the same, unless a test wrote something else."""
        found = {}
        for path in self.runs.glob(f"*/*/{names.RECORD}"):
            found[int(path.parent.name.split("-")[1])] = fake_task.recorded_value(path)
        return found

    def folder(self, seed: int) -> Path:
        (path,) = self.runs.glob(f"*/random-{seed}-*")
        return path

    def starts(self) -> list[tuple[int, int, str]]:
        """Every run that was really begun: subset seed, process, GPUs."""
        path = self.runs / "starts.txt"
        lines = path.read_text().split("\n")[:-1] if path.exists() else []
        return [(int(seed), int(pid), gpus) for seed, pid, gpus in (line.split() for line in lines)]

    def leftovers(self) -> list[Path]:
        return [path for path in self.runs.glob("*-*/*/*") if path.name not in (names.RECORD, names.LOG, uploads.NOTE)]


@pytest.fixture
def sweeps(tmp_path):
    sweeps = Sweeps(tmp_path)
    yield sweeps
    for process in sweeps.started:
        process.kill()
        process.communicate()


def until(condition, seconds: float = 200) -> None:  # long, for a machine that others use as well
    limit = time.monotonic() + seconds
    while time.monotonic() < limit:
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError(f"it did not happen in {seconds:g} seconds")


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
    command = [word for word in sweeps.command("experiment=demo") if "range" not in word]
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


def test_status(sweeps):
    failing = {"1": "raise", "3": "raise", "5": "kill"}
    assert sweeps.run("hydra.launcher.retries=0", seeds=6, deeds=failing).returncode == 1
    with (sweeps.folder(4) / names.RECORD).open("r+b") as file:
        file.truncate(100)
    started = sweeps.start("subset.seed=6", seeds=1, deeds={"6": "hang"})
    until(lambda: any(seed == 6 for seed, _, _ in sweeps.starts()))
    started.kill()
    started.communicate()
    until(lambda: leases.abandoned(sweeps.folder(6)))
    before = sweeps.starts()
    with leases.lease(sweeps.folder(3)):
        done = sweeps.run("hydra.launcher.status=true", seeds=8)
    assert done.returncode == 0, done.stderr
    study_folder, *lines = done.stdout.splitlines()
    assert study_folder == str(sweeps.folder(0).parent)
    counts = {"done": "2", "running": "1", "failed": "2", "damaged": "1", "missing": "2"}
    assert dict(line.split() for line in lines[:5]) == counts
    assert lines[5].startswith(f"running  subset.seed=3  process {os.getpid()} on ")
    assert lines[6] == f"failed   subset.seed=1  ValueError: this went wrong (see {sweeps.folder(1) / 'log.txt'})"
    assert lines[7].startswith("failed   subset.seed=5  killed by SIGKILL (out of memory?) (see ")
    assert lines[8].startswith("damaged  subset.seed=4  ")
    assert "truncated" in lines[8]
    assert lines[9:11] == ["missing  subset.seed=6", "missing  subset.seed=7"]
    assert lines[11].startswith("to complete it: python ")
    assert "hydra.launcher.status" not in lines[11]
    assert "'subset.seed=range(0,8)'" in lines[11]
    assert sweeps.starts() == before


@pytest.mark.parametrize("damage", ["truncate", "change", "empty", "another kind"])
def test_a_damaged_record_is_made_again(sweeps, damage):
    assert sweeps.run(seeds=3).returncode == 0
    path = sweeps.folder(1) / names.RECORD
    content = path.read_bytes()
    changed = bytes([content[100] ^ 1])
    path.write_bytes(
        {
            "truncate": content[:-7],
            "change": content[:100] + changed + content[101:],
            "empty": b"",
            "another kind": b"hello\n" * 100,
        }[damage]
    )
    done = sweeps.run(seeds=3)
    assert done.returncode == 0, done.stderr
    assert f"{path}: " in done.stderr
    assert "the run is done again" in done.stderr
    assert path.read_bytes() == content
    assert Counter(seed for seed, _, _ in sweeps.starts()) == {0: 1, 1: 2, 2: 1}
    assert sweeps.leftovers() == []


def test_a_copy_of_another_runs_record_counts_for_nothing(sweeps):
    assert sweeps.run(seeds=3).returncode == 0
    path, content = sweeps.folder(1) / names.RECORD, (sweeps.folder(1) / names.RECORD).read_bytes()
    path.write_bytes((sweeps.folder(0) / names.RECORD).read_bytes())
    assert "damaged      1" in sweeps.run("hydra.launcher.status=true", seeds=3).stdout
    done = sweeps.run(seeds=3)
    assert done.returncode == 0, done.stderr
    assert f"{path}: the record of another run" in done.stderr
    assert "2 of 3 runs are done already" in done.stderr
    assert path.read_bytes() == content
    (kept,) = sweeps.leftovers()  # it may be the only copy of someone's work
    assert kept.read_bytes() == (sweeps.folder(0) / names.RECORD).read_bytes()
    assert Counter(seed for seed, _, _ in sweeps.starts()) == {0: 1, 1: 2, 2: 1}


@pytest.mark.slow
def test_records_of_other_data_are_not_done_and_nothing_is_trained_unasked(sweeps, tmp_path):
    groups = tmp_path / "groups.csv"

    def sweep(*overrides: str, seeds: int = 3) -> subprocess.CompletedProcess[str]:
        return sweeps.run(f"source.groups={groups}", *overrides, seeds=seeds)

    groups.write_text("one")
    assert sweep().returncode == 0
    assert "3 of 3 runs are done already" in sweep().stderr
    before = {path: path.read_bytes() for path in sweeps.runs.glob(f"*/*/{names.RECORD}")}
    groups.write_text("two")
    done = sweep(seeds=5)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "3 of 5 runs have records of other data" in line
    assert "source changed since; nothing was trained" in line
    assert "study=<another name>" in line
    assert len(sweeps.starts()) == 3
    status = sweep("hydra.launcher.status=true", seeds=5).stdout
    assert "other data   3" in status
    assert "missing      2" in status

    assert sweep("study=mended", seeds=5).returncode == 0
    assert len(list(sweeps.runs.glob("mended-*/*"))) == 5
    assert {path: path.read_bytes() for path in before} == before

    assert sweep("retrain=true", seeds=5).returncode == 0
    assert [path.read_bytes() for path in sweeps.leftovers()] == [
        before[path.parent / names.RECORD] for path in sweeps.leftovers()
    ]
    assert len(sweeps.leftovers()) == 3
    assert "5 of 5 runs are done already" in sweep(seeds=5).stderr
    assert Counter(seed for seed, _, _ in sweeps.starts()) == {0: 3, 1: 3, 2: 3, 3: 2, 4: 2}


def test_records_in_a_renamed_folder_of_the_same_recipe_are_done(sweeps):
    assert sweeps.run("study=first", seeds=2).returncode == 0
    (study,) = sweeps.runs.glob("first-*")
    study.rename(study.with_name(study.name.replace("first", "second")))
    done = sweeps.run("study=second", seeds=2)
    assert "2 of 2 runs are done already" in done.stderr


def test_a_record_of_another_version_is_never_touched(sweeps):
    assert sweeps.run(seeds=2).returncode == 0
    path = sweeps.folder(1) / names.RECORD
    content = path.read_bytes().replace(b'schema\\": 1', b'schema\\": 7')
    path.write_bytes(content)
    done = sweeps.run(seeds=2)
    assert done.returncode == 1
    assert "a record of schema 7" in done.stderr
    assert path.read_bytes() == content


@pytest.mark.parametrize(
    ("shape", "asked", "expected"),
    [
        (Shape("gpu", 1), "auto", ["0", "1", "2", "3"]),
        (Shape("gpu", 2), "auto", ["0,1", "2,3"]),
        (Shape("gpu", 3), "auto", ["0,1,2"]),
        (Shape("gpu", 1), 6, ["0", "1", "2", "3", "0", "1"]),
        (Shape("gpu", 1), [0, 2], ["0", "2"]),
        (Shape("gpu", 2), [[0, 3], [1, 2]], ["0,3", "1,2"]),
        (Shape("auto", 1), "auto", ["0", "1", "2", "3"]),
        (Shape("cpu", 1), 3, [None] * 3),
        (Shape("cpu", 1), "auto", [None] * 8),
        (Shape("cpu", 2, 2), "auto", [None] * 2),
        (Shape("cpu", 64), "auto", [None]),
    ],
)
def test_slots(monkeypatch, shape, asked, expected):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3")
    monkeypatch.setattr(slots, "cores", lambda: 8)
    assert [slot.get("CUDA_VISIBLE_DEVICES") for slot in shape.slots(asked)] == expected


@pytest.mark.parametrize(
    ("shape", "asked"),
    [
        (Shape("gpu", 5), "auto"),
        (Shape("gpu", 2), [0, 1]),
        (Shape("cpu", 1), 0),
        (Shape("cpu", 1), []),
        (Shape("cpu", 1), True),
    ],
)
def test_slots_that_cannot_be(monkeypatch, shape, asked):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3")
    with pytest.raises(SourcewiseError):
        shape.slots(asked)


def test_names_can_be_pasted_into_a_shell():
    run = runs.Run(0, {}, Path("log.txt"), ["a=[1,2]", "b='x y'", "hydra.job.name=z"])
    assert shlex.split(run.name) == ["a=[1,2]", "b='x y'"]
