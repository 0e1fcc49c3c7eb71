"""Sweeps under fire: workers and whole process trees killed at random, two launchers on one folder."""

import contextlib
import os
import random
import signal
import time
from pathlib import Path

import pytest
from test_launcher import Sweeps, until

from sourcewise import claims, study

pytestmark = pytest.mark.slow

RUNS = 60


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
    return all(claims._birth(pid) == "gone" for pid in pids)


@pytest.fixture(params=[0, 1])
def chance(request):
    return random.Random(request.param)


@pytest.mark.timeout(600)
def test_sixty_records_whatever_is_killed(tmp_path, chance):
    for name in ("calm", "wild"):
        (tmp_path / name).mkdir()
    calm, wild = Sweeps(tmp_path / "calm"), Sweeps(tmp_path / "wild")
    assert calm.run("hydra.launcher.slots=4", seeds=RUNS).returncode == 0

    settings = {"seeds": RUNS, "sleep": 0.15}
    overrides = ("hydra.launcher.slots=2", "hydra.launcher.retries=1000")
    seen: dict[Path, tuple[int, int]] = {}
    ever: set[int] = set()
    massacres = worker_kills = 0
    both = [wild.start(*overrides, **settings) for _ in range(2)]
    for _ in range(2000):
        time.sleep(chance.uniform(0, 0.15))
        for path in wild.runs.glob(f"*/*/{study.RECORD}"):  # written once, and never again
            stat = path.stat()
            assert seen.setdefault(path, (stat.st_ino, stat.st_mtime_ns)) == (stat.st_ino, stat.st_mtime_ns)
        trees = [[process.pid, *children(process.pid)] for process in both]
        ever |= {pid for tree in trees for pid in tree}
        if massacres < 3 and len(seen) >= 15 * (massacres + 1):
            massacres += 1
            kill([pid for tree in trees for pid in chance.sample(tree, len(tree))])
            for process in both:
                process.communicate()
            both = [wild.start(*overrides, **settings) for _ in range(2)]
        elif chance.random() < 0.4 and (workers := [pid for tree in trees for pid in tree[2:]]):
            worker_kills += 1
            kill([chance.choice(workers)])
        if all(process.poll() is not None for process in both):
            break
    assert [process.returncode for process in both] == [0, 0], [process.communicate()[1] for process in both]
    assert massacres == 3
    assert worker_kills > 3
    assert wild.records() == calm.records()
    assert len(seen) == RUNS
    assert wild.leftovers() == []
    until(lambda: gone(list(ever)))


@pytest.mark.timeout(600)
def test_no_process_survives_the_launcher(tmp_path, chance):
    """SIGKILL of the launcher alone: the zygote and the workers end by themselves, and the next sweep goes on."""
    sweeps = Sweeps(tmp_path)
    for _ in range(3):
        process = sweeps.start("hydra.launcher.slots=3", seeds=12, deeds={str(seed): "hang" for seed in range(12)})
        begun = len(sweeps.starts())
        until(lambda begun=begun: len(sweeps.starts()) >= begun + 3)
        tree = children(process.pid)
        assert len(tree) >= 4
        time.sleep(chance.uniform(0, 0.1))
        kill([process.pid])
        until(lambda tree=tree: gone(tree))
    assert sweeps.run("hydra.launcher.slots=3", seeds=12).returncode == 0
    assert sweeps.leftovers() == []


def usage(pid: int) -> tuple[int, int]:
    """Resident kilobytes and open files."""
    (line,) = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS")]
    return int(line.split()[1]), len(list(Path(f"/proc/{pid}/fd").iterdir()))


@pytest.mark.timeout(600)
def test_memory_and_open_files_are_flat(tmp_path):
    sweeps = Sweeps(tmp_path)
    process = sweeps.start("hydra.launcher.slots=2", seeds=300, sleep=0.02)
    samples: dict[int, dict[int, tuple[int, int]]] = {}
    for done in (40, 295):
        until(lambda done=done: len(sweeps.starts()) >= done)
        workers = sorted({pid for _, pid, _ in sweeps.starts()})
        samples[done] = {pid: usage(pid) for pid in [process.pid, *workers]}
    assert samples[40].keys() == samples[295].keys()
    for pid, (memory, files) in samples[40].items():
        later_memory, later_files = samples[295][pid]
        assert later_memory <= 1.05 * memory
        assert abs(later_files - files) <= 3  # a lease or a log may be open
    process.communicate(timeout=60)
    assert process.returncode == 0
