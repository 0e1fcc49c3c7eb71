"""Sweeps by commands, with runs that only pretend, in a folder of their own."""

import json
import os
import subprocess
import time
from pathlib import Path

import fake_task
import pytest
from warm_python import interpreter

from sourcewise.core import names
from sourcewise.records import uploads

ROOT = Path(__file__).parents[1]


class Sweeps:
    """Commands whose runs go to one folder. python: what runs them; None is the warm interpreter."""

    python: str | None = None

    def __init__(self, folder: Path) -> None:
        self.runs = folder / "runs"
        self.runs.mkdir()
        self.started: list[subprocess.Popen[str]] = []

    def command(self, *overrides: str, seeds: int = 4, multirun: bool = True, **fake: object) -> list[str]:
        return [
            self.python or interpreter(),
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
        return [
            path
            for path in self.runs.glob("*-*/*/*")
            if path.name not in (names.RECORD, names.MODEL, names.LOG, uploads.NOTE)
        ]


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
