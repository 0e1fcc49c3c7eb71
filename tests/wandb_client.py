"""Processes that track runs on the loopback W&B server, and `wandb sync`."""

import os
import subprocess
from pathlib import Path
from typing import Any

from conftest import ROOT
from wandb_objects import Run
from wandb_server import WandbServer
from warm_python import interpreter

PROGRAM = """
import json, os, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
import fake_records as made
from sourcewise.records.wandb_tracker import WandbTracker

tracker = WandbTracker(project="demo", dir="runs", tags=["mine"], **json.loads(os.environ.get("TRACKER", "{{}}")))
config = json.loads(os.environ.get("CONFIG", "{{}}")) | {{"seed": 3, "model": {{"width": 4, "lr": 1e-5}}, "study": None, "steps": [1, 2.0]}}
""".format(tests=str(ROOT / "tests"))

ONE = """
with tracker.start("a run", "a-study", config) as tracked:
    tracked.log({"source/train/loss": 2.0, "source/train/epoch": 0})
    tracked.log({"source/train/loss": 1.0, "source/train/epoch": 1})
    tracked.record(made.make(5))
    print("UP", flush=True)
    WHAT
print("END", flush=True)
"""


def start(
    server: WandbServer, folder: Path, code: str = ONE, what: str = "pass", **env: str
) -> "subprocess.Popen[str]":
    """A process that is a client of the server, in a folder of its own, without W&B's variables of this process."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith("WANDB_")}
    ours = {key: value for key, value in server.env(folder).items() if key not in ("WANDB_DIR", "WANDB_MODE")}
    return subprocess.Popen(
        [interpreter(), "-c", PROGRAM + code.replace("WHAT", what)],
        cwd=folder,
        env=clean | ours | {"HOME": str(folder), "OMP_NUM_THREADS": "1"} | env,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(server: WandbServer, folder: Path, code: str = ONE, what: str = "pass", **env: str) -> tuple[int, str, str]:
    process = start(server, folder, code, what, **env)
    out, err = process.communicate(timeout=100)
    return process.returncode, out, err


def up(process: "subprocess.Popen[str]") -> None:
    assert process.stdout is not None
    assert any(line == "UP\n" for line in process.stdout)


def advised(err: str) -> list[str]:
    """The command that the one line on stderr tells the user."""
    (line,) = err.strip().splitlines()
    assert line.startswith("W&B: ")
    return line.rpartition(": ")[2].split()


def sync(server: WandbServer, folder: Path, command: list[str]) -> None:
    env = os.environ | server.env(folder)
    assert command[:2] == ["wandb", "sync"]
    done = subprocess.run(
        [Path(interpreter()).with_name("wandb"), *command[1:]], cwd=folder, env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def content(server: WandbServer, run: Run) -> dict[str, Any]:
    """All that the server knows of a run, apart from its id and times."""
    timing = ("_runtime", "_timestamp", "_wandb")
    return {
        "about": {key: run.about.get(key) for key in ("displayName", "groupName", "jobType", "tags")},
        "config": run.config,
        "summary": {key: value for key, value in run.summary.items() if key not in timing},
        "history": [{key: value for key, value in row.items() if key not in timing} for row in run.history],
        "files": {name: body if name == "record.safetensors" else b"" for name, body in server.run_files(run).items()},
        "state": run.state,
    }
