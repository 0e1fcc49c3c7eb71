"""Sweeps under fire: workers and whole process trees killed at random, two launchers on one folder."""

import contextlib
import os
import random
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from fake_sweeps import Sweeps, until
from test_faults import RealSweeps

from sourcewise.core import names
from sourcewise.sweep import leases

pytestmark = pytest.mark.stress

RUNS = 60


class FakeSweeps(Sweeps):
    """Sweeps whose process trees are those of their commands."""

    python = sys.executable


class KeepingSweeps(RealSweeps):
    """Real runs that keep their source models: one that is killed after pretraining goes on from there."""

    def command(self, *overrides: str, **settings: Any) -> list[str]:
        return super().command("keep_model=float32", *overrides, **settings)


def children(pid: int) -> list[int]:
    """All descendants of a process."""
    try:
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
        direct = [int(child) for task in tasks for child in (task / "children").read_text().split()]
    except OSError:
        return []
    return [*direct, *(below for child in direct for below in children(child))]


def kill(pids: list[int]) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def gone(pids: list[int]) -> bool:
    return all(leases._birth(pid) == "gone" for pid in pids)


@pytest.fixture
def chance():
    return random.Random(0)


@pytest.mark.timeout(900)
@pytest.mark.parametrize(("kind", "pause"), [(FakeSweeps, 0.15), (KeepingSweeps, 0.5)])
def test_sixty_records_whatever_is_killed(tmp_path, chance, kind, pause):
    calm = kind(tmp_path)
    assert calm.run("hydra.launcher.slots=2", seeds=RUNS).returncode == 0
    expected = calm.records()
    calm.runs.rename(tmp_path / "calm")  # a record tells its folder, so that the other sweep takes the same
    wild = kind(tmp_path)

    settings = {"seeds": RUNS, "sleep": 0.15}
    overrides = ("hydra.launcher.slots=2", "hydra.launcher.retries=1000")
    seen: dict[Path, tuple[int, int]] = {}
    ever: set[int] = set()
    massacres = worker_kills = next_kill = 0
    both = [wild.start(*overrides, **settings) for _ in range(2)]
    while any(process.poll() is None for process in both):
        time.sleep(chance.uniform(0, pause))
        for path in wild.runs.glob(f"*/*/{names.RECORD}"):  # written once, and never again
            stat = path.stat()
            assert seen.setdefault(path, (stat.st_ino, stat.st_mtime_ns)) == (stat.st_ino, stat.st_mtime_ns)
        trees = [[process.pid, *children(process.pid)] for process in both]
        workers = [pid for tree in trees for pid in tree[1:]]
        ever |= {pid for tree in trees for pid in tree}
        if massacres < 3 and len(seen) >= 15 * (massacres + 1):
            massacres += 1
            kill([pid for tree in trees for pid in chance.sample(tree, len(tree))])
            for process in both:
                process.communicate()
            both = [wild.start(*overrides, **settings) for _ in range(2)]
        elif workers and len(wild.starts()) >= next_kill:  # as often as runs begin: not all the time on a slow machine
            worker_kills += 1
            next_kill = len(wild.starts()) + chance.randint(1, 5)
            kill([chance.choice(workers)])
    errors = [process.communicate()[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], errors
    assert massacres == 3
    assert worker_kills > 3
    assert len(expected) == RUNS
    assert wild.records() == expected
    assert len(seen) == RUNS
    assert wild.leftovers() == []
    until(lambda: gone(list(ever)))


@pytest.mark.timeout(900)
def test_no_process_survives_the_launcher(tmp_path, chance):
    """SIGKILL of the launcher alone: the workers end by themselves, and the next sweep goes on."""
    sweeps = FakeSweeps(tmp_path)
    for _ in range(3):
        process = sweeps.start("hydra.launcher.slots=3", seeds=12, deeds={str(seed): "hang" for seed in range(12)})
        begun = len(sweeps.starts())
        until(lambda begun=begun: len(sweeps.starts()) >= begun + 3)
        tree = children(process.pid)
        assert len(tree) == 3
        time.sleep(chance.uniform(0, 0.1))
        kill([process.pid])
        until(lambda tree=tree: gone(tree))
        process.communicate()
    assert sweeps.run("hydra.launcher.slots=3", seeds=12).returncode == 0
    assert sweeps.leftovers() == []


def usage(pids: list[int]) -> dict[int, tuple[int, int]]:
    """Resident kilobytes and open files of each process: the least of two seconds, as what a run has open comes and goes.

    A process that ends meanwhile, as all do at the end of a sweep, keeps what was seen of it.
    """
    least: dict[int, tuple[int, int]] = {}
    for _ in range(40):
        for pid in pids:
            with contextlib.suppress(OSError, KeyError):  # one that has ended is gone, or a zombie without memory
                fields = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
                now = int(fields["VmRSS"].split()[0]), len(list(Path(f"/proc/{pid}/fd").iterdir()))
                least[pid] = tuple(map(min, now, least.get(pid, now)))
        time.sleep(0.05)
    return least


@pytest.mark.timeout(900)
def test_memory_and_open_files_are_flat(tmp_path):
    """300 real runs with offline W&B: the launcher, its workers and their W&B services."""
    sweeps = RealSweeps(tmp_path)
    process = sweeps.start("hydra.launcher.slots=2", "logger=wandb", "logger.mode=offline", seeds=300)
    samples: list[dict[int, tuple[int, int]]] = []
    for done in (30, 230):  # the last runs take longer than the sample, which would else meet the sweep's end
        until(lambda done=done: len(sweeps.starts()) >= done or process.poll() is not None, 400)
        tree = [process.pid, *children(process.pid)]
        samples.append(usage(tree))
    services = [pid for pid in tree if b"wandb-core" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    _, errors = process.communicate(timeout=200)
    assert process.returncode == 0, errors
    early, late = samples
    assert len(early) == 5  # launcher, two workers, and the W&B service of each
    assert early.keys() == late.keys()
    for pid, (memory, files) in early.items():
        # A service's heap (37 MB) grows by some 20 kB a run, which ends with its worker after `recycle_after` runs.
        assert late[pid][0] <= (1.2 if pid in services else 1.05) * memory, (early, late)
        # A sample meets a run at any step, with one file open or twelve; one left open by each run would make 200.
        assert late[pid][1] <= files + 20, (early, late)
    assert len(sweeps.records()) == 300
