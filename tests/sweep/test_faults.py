"""Sweeps of real runs (`python train.py -m ...`) when the machine lets them down."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import TINY
from fake_sweeps import ROOT, Sweeps, until

from sourcewise.core import names
from sourcewise.records import record
from sourcewise.sweep import leases

pytestmark = pytest.mark.stress

TASK = f"hydra.launcher.task={ROOT / 'tests' / 'fake_task.py'}:real"


class RealSweeps(Sweeps):
    """`python train.py -m`, with short runs; the task is train.py's own, which may be disturbed and notes its starts."""

    deeds: dict[int, str] = {}  # noqa: RUF012
    environment: dict[str, str] = {}  # noqa: RUF012
    prefix: tuple[str, ...] = ()

    def command(self, *overrides: str, seeds: int = 4, multirun: bool = True, **fake: object) -> list[str]:
        sweep = ["-m", f"subset.seed=range(0,{seeds})", TASK] if multirun else []
        script = str(ROOT / "train.py")
        return [*self.prefix, sys.executable, script, *sweep, *TINY, f"runs_dir={self.runs}", *overrides]

    def env(self) -> dict[str, str]:
        clean = {name: value for name, value in os.environ.items() if not name.startswith("WANDB")}
        fixed = {"OMP_NUM_THREADS": "1", "NETRC": os.devnull, "DEEDS": json.dumps(self.deeds)}
        return {**clean, **fixed, **self.environment}

    def records(self) -> dict[int, str]:  # type: ignore[override]
        """What every record holds, but for wall time and the git commit, which someone may make during a test.

        By subset seed. Raises RecordError for one that is not whole.
        """
        items = [record.read(path) for path in self.runs.glob(f"*/*/{names.RECORD}")]
        items = [replace(item, header=replace(item.header, commit=None)) for item in items]
        assert len({item.header.subset_seed for item in items}) == len(items)
        return {int(item.header.subset_seed or 0): record.digest(item) for item in items}


@pytest.fixture
def sweeps(tmp_path: Path) -> Iterator[RealSweeps]:
    sweeps = RealSweeps(tmp_path)
    yield sweeps
    for process in sweeps.started:
        process.kill()
        process.communicate()


@contextlib.contextmanager
def file_system(folder: Path, size: str) -> Iterator[Path]:
    """A small file system of its own in this folder; remount it with `remount`."""
    if os.geteuid():
        pytest.skip("mounting a file system needs root")
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def remount(folder: Path, option: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{option}", str(folder)], check=True)


def exit_codes(path: Path) -> list[int]:
    """The exit codes in the log of an offline W&B run."""
    from wandb.proto import wandb_internal_pb2

    data, at, codes, whole = path.read_bytes(), 7, [], b""
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:  # too little is left of this block for another header
            at += 32768 - at % 32768
            continue
        size, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        if kind == 0:
            break
        whole = (b"" if kind in (1, 2) else whole) + data[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):
            item = wandb_internal_pb2.Record.FromString(whole)
            codes += [item.exit.exit_code] if item.WhichOneof("record_type") == "exit" else []
    return codes


def test_a_disk_that_is_full_and_then_is_not(tmp_path):
    with file_system(tmp_path / "disk", "200k") as disk:
        sweeps = RealSweeps(disk)
        full = sweeps.run(seeds=16)
        assert full.returncode == 1, full.stderr
        assert "No space left on device" in full.stderr
        assert "Traceback" not in full.stderr
        some = sweeps.records()  # every one of them is whole
        assert 0 < len(some) < 16
        assert f"{len(some)} of 16 runs are done, {16 - len(some)} failed, 0 are left" in full.stderr
        assert sweeps.leftovers() == []
        remount(disk, "size=64m")
        assert sweeps.run(seeds=16).returncode == 0
        everything = sweeps.records()
        assert len(everything) == 16
        assert everything.items() >= some.items()
        assert sweeps.leftovers() == []


def test_a_folder_that_cannot_be_written(tmp_path):
    with file_system(tmp_path / "disk", "8m") as disk:
        sweeps = RealSweeps(disk)
        assert sweeps.run(seeds=2).returncode == 0
        remount(disk, "ro")
        again = sweeps.run(seeds=2)
        assert (again.returncode, again.stderr.strip()) == (0, "2 of 2 runs are done already")
        larger = sweeps.run(seeds=3)
        assert larger.returncode == 2
        line = larger.stderr.strip().splitlines()[-1]
        assert "it is read-only to you; choose another place for " in line
        alone = subprocess.run(
            [sys.executable, "train.py", *TINY, f"runs_dir={sweeps.runs}", "subset.seed=5"],
            **{"cwd": ROOT, "env": sweeps.env(), "capture_output": True, "text": True},
        )
        assert alone.returncode == 2
        (line,) = alone.stderr.strip().splitlines()
        assert line.endswith("cannot lease the run: Read-only file system")


def test_a_record_truncated_behind_its_back(sweeps):
    assert sweeps.run(seeds=3).returncode == 0
    before = sweeps.records()
    path = sweeps.folder(1) / names.RECORD
    os.truncate(path, path.stat().st_size // 2)

    estimate = [sys.executable, "estimate.py", f"records={sweeps.runs}", f"out={sweeps.runs / 'out'}", "logger=none"]
    done = subprocess.run(estimate, cwd=ROOT, env=sweeps.env(), capture_output=True, text=True, timeout=200)
    assert str(path) in done.stdout + done.stderr
    assert "truncated" in done.stdout + done.stderr
    alone = [sys.executable, "train.py", *TINY, f"runs_dir={sweeps.runs}", "subset.seed=1"]
    done = subprocess.run(alone, cwd=ROOT, env=sweeps.env(), capture_output=True, text=True, timeout=200)
    assert done.returncode == 2
    assert "delete it and repeat the command" in done.stderr

    again = sweeps.run(seeds=3)
    assert again.returncode == 0, again.stderr
    assert "the run is done again" in again.stderr
    assert sweeps.records() == before
    assert Counter(seed for seed, _, _ in sweeps.starts()) == {0: 1, 1: 2, 2: 1}


def test_every_kind_of_failure_in_one_sweep(sweeps):
    """Between pretraining and transfer: an exception, a kill, a crash, and a run that hangs."""
    sweeps.deeds = {1: "raise", 2: "kill", 3: "kill_once", 4: "segfault", 5: "hang"}
    wandb = ("logger=wandb", "logger.mode=offline", "hydra.launcher.slots=2")
    done = sweeps.run(*wandb, "hydra.launcher.timeout=20", "hydra.launcher.grace=20", seeds=8)
    assert done.returncode == 1
    assert set(sweeps.records()) == {0, 3, 6, 7}
    assert sweeps.leftovers() == []
    causes = {
        1: "ValueError: this went wrong",
        2: "killed by SIGKILL (out of memory?)",
        4: "killed by SIGSEGV",
        5: "hung: stopped after 20 s",
    }
    for seed, cause in causes.items():
        place = sweeps.folder(seed) / "log.txt"
        assert done.stderr.count(f"failed: subset.seed={seed} ") == 2  # when it happened, and in the list at the end
        assert f"  cause: {cause}\n  log:   {place}\n" in done.stderr
        assert place.read_text().rstrip().endswith(cause)
    assert "Traceback" in (sweeps.folder(1) / "log.txt").read_text()
    assert "Traceback" not in done.stderr
    assert done.stderr.rstrip().endswith("train.py: 4 of 8 runs are done, 4 failed, 0 are left")
    codes = Counter(str(exit_codes(path)) for path in sweeps.runs.glob("wandb/offline-run-*/*.wandb"))
    killed = 2 + 1 + 2  # runs 2 and 4 are tried twice, and run 3 had to be
    assert codes == {"[0]": 4, "[1]": 1, "[255]": 1, "[]": killed}
    until(lambda: not any(str(sweeps.runs) in line for line in processes()))

    sweeps.deeds = {}
    assert sweeps.run(*wandb, seeds=8).returncode == 0
    assert len(sweeps.records()) == 8


def processes() -> list[str]:
    """Command lines and working W&B services of all processes."""
    lines = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            lines.append(path.read_text().replace("\0", " "))
    return lines


def test_divergence_costs_its_runs_only(sweeps):
    sweeps_of_two = "source.pretraining.lr=0.1,1e30"
    done = sweeps.run(sweeps_of_two, seeds=2)
    assert done.returncode == 1
    assert done.stderr.count("  cause: source: ") == 2
    assert "lower the learning rate" in done.stderr
    assert done.stderr.rstrip().endswith("2 of 4 runs are done, 2 failed, 0 are left")
    assert len(list(sweeps.runs.glob(f"*/*/{names.RECORD}"))) == 2


@pytest.mark.parametrize(("multirun", "number", "status"), [(True, signal.SIGINT, 130), (False, signal.SIGTERM, 143)])
def test_a_signal_ends_training_cleanly(sweeps, number, status, multirun):
    """W&B's run ends as killed, nothing is left behind, and the same command goes on."""
    settings = ("logger=wandb", "logger.mode=offline", "source.pretraining.epochs=25", "trainer.checkpoint_minutes=0")
    process = sweeps.start(*settings, seeds=1, multirun=multirun)
    until(lambda: list(sweeps.runs.glob("*/*/checkpoint-source.pt")))
    process.send_signal(number)
    _, err = process.communicate(timeout=200)
    assert process.returncode == status, err
    assert "the same command goes on where this one stopped" in err
    assert "Traceback" not in err
    assert [path.name for path in sweeps.leftovers()] == ["checkpoint-source.pt"]
    (log,) = sweeps.runs.glob("wandb/offline-run-*/*.wandb")
    assert exit_codes(log) == [255]
    done = sweeps.run(*settings, seeds=1, multirun=multirun)
    assert done.returncode == 0
    assert "source: going on after" in (sweeps.folder(0) / "log.txt").read_text() if multirun else done.stderr
    assert set(sweeps.records()) == {0}
    assert sweeps.leftovers() == []


def test_clocks_need_not_agree(tmp_path):
    """Two launchers, one of them with a clock that is a day ahead, and as good as on another machine."""
    (tmp_path / "sitecustomize.py").write_text(
        "import time\nreal = time.time\ntime.time = lambda: real() + 86_400\n"
        "real_ns = time.time_ns\ntime.time_ns = lambda: real_ns() + 86_400 * 10**9\n"
    )
    here, there = RealSweeps(tmp_path), RealSweeps.__new__(RealSweeps)
    there.runs, there.started = here.runs, []
    there.environment = {"PYTHONPATH": str(tmp_path)}
    if not os.geteuid():  # process numbers of its own: neither can see whether the other's holders live
        there.prefix = ("unshare", "--pid", "--fork", "--mount-proc", "--kill-child")
    both = [sweeps.start(seeds=16) for sweeps in (here, there)]
    for process in both:
        _, err = process.communicate(timeout=200)
        assert process.returncode == 0, err
    assert Counter(seed for seed, _, _ in here.starts()) == dict.fromkeys(range(16), 1)
    assert len(here.records()) == 16
    assert here.leftovers() == []


def test_a_setting_that_nothing_reads_is_refused_as_in_a_single_run(sweeps):
    found = []
    for multirun in (False, True):
        done = sweeps.run("+sead=1", "hydra.launcher.task=sourcewise.commands.train:train", multirun=multirun)
        assert done.returncode == 2
        found.append(done.stderr)
    assert found[0] == found[1] == "train.py: sead: there is no such setting; did you mean seed?\n"
    assert list(sweeps.runs.iterdir()) == []


def test_leases_compare_no_clocks():
    """Wall clocks differ between machines: `since` is told to people, and that is all."""
    text = Path(leases.__file__).read_text()
    assert text.count("time.time") == 1


@pytest.mark.parametrize(
    ("devices", "ntasks", "local_rank", "main"),
    [
        (1, "4", None, True),  # srun -n 4 wandb agent: each is alone
        (2, "4", None, True),  # the same, and each starts a run on two devices
        (2, "4", "1", False),  # what it has started
        (2, "2", None, False),  # Slurm's second task of a run on two devices
    ],
)
def test_who_speaks_for_a_run_under_slurm(monkeypatch, devices, ntasks, local_rank, main):
    from pytorch_lightning.utilities import rank_zero_only

    from sourcewise.training.hardware import Hardware

    monkeypatch.setenv("SLURM_NTASKS", ntasks)
    monkeypatch.setenv("SLURM_NTASKS_PER_NODE", ntasks)
    monkeypatch.setenv("SLURM_PROCID", "1")
    monkeypatch.setenv("LOCAL_RANK", local_rank) if local_rank else monkeypatch.delenv("LOCAL_RANK", raising=False)
    monkeypatch.setattr(rank_zero_only, "rank", 1)  # as Lightning reads it when it is imported
    assert Hardware(devices=devices, strategy="ddp").is_main == main
