"""A process of a run on several devices is lost."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import ROOT

from sourcewise.core.errors import RunFailed
from sourcewise.training import ranks
from sourcewise.training.ranks import Ranks

pytestmark = pytest.mark.slow

DDP = ("trainer=ddp", "trainer.accelerator=cpu", "trainer.precision=32-true", "trainer.sync_batchnorm=false")
SMALL = (
    "trainer.threads=1",
    "model.width=4",
    "logger=none",
    "source.train.per_letter=10",
    "trainer.checkpoint_minutes=0",
)


def until(condition: Callable[[], object], seconds: float = 200) -> None:
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.05)


def child_processes(pid: int) -> list[int]:
    """The processes that a process started."""
    return [
        int(child) for task in Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split()
    ]


def test_a_killed_process_is_one_line_and_no_lease_is_left(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "train.py"), *DDP, *SMALL, f"runs_dir={tmp_path}"]
    command += ["source.pretraining.epochs=100000"]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    try:
        until(lambda: list(tmp_path.glob("*/*/checkpoint-source.pt")) or process.poll() is not None)
        (other,) = child_processes(process.pid)
        os.kill(other, signal.SIGKILL)
        _, err = process.communicate(timeout=200)
    finally:
        process.kill()
    assert process.returncode == 1
    line = err.strip().splitlines()[-1]
    assert line == "train.py: process 1 of those on 2 devices was killed by SIGKILL (out of memory?)"
    assert "Traceback" not in err
    assert not list(tmp_path.glob("*/*/lease*"))


def test_an_error_of_its_own_stays_what_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranks, "DYING", 0.1)
    alive = subprocess.Popen(["sleep", "1000"])
    with pytest.raises(ZeroDivisionError), Ranks([alive]).watched():
        _ = 1 / 0
    assert alive.wait(20) == -signal.SIGKILL  # it waits for a process that fails
    with pytest.raises(ZeroDivisionError), Ranks().watched():
        _ = 1 / 0
    ended = subprocess.Popen(["sh", "-c", "exit 3"])
    with (
        pytest.raises(RunFailed, match="process 1 of those on 2 devices ended with status 3"),
        Ranks([ended]).watched(),
    ):
        ended.wait()
        _ = 1 / 0


def test_a_first_process_that_waits_for_ever_ends_and_leaves_no_lease(tmp_path: Path) -> None:
    code = """
import pathlib, subprocess, sys, threading
from sourcewise.sweep.leases import lease
from sourcewise.training import ranks
ranks.PATIENCE = 0.5
lost = ranks.Ranks([subprocess.Popen(["sh", "-c", "kill -KILL $$"])])
with lease(pathlib.Path(sys.argv[1])) as held, lost.watched(held.release):
    threading.Thread(target=lost.watch).start()
    threading.Event().wait()
"""
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, timeout=200)
    assert done.returncode == 1
    assert not list(tmp_path.iterdir())
    assert done.stderr.strip() == "process 1 of those on 2 devices was killed by SIGKILL (out of memory?)"
