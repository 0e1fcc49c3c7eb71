"""W&B agents and the real train.py: `wandb sweep`, `wandb agent` and the loopback server, as a user would run them."""

# ruff: noqa: F401, F811  (fixtures are imported, and named again as arguments)

import os
import re
import shlex
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import ROOT, TINY, compose_config
from wandb_objects import Run, Sweep
from wandb_server import WandbServer, wandb_server
from warm_python import interpreter

from sourcewise.commands import train
from sourcewise.core import names
from sourcewise.records import record, uploads
from sourcewise.records.reading import Reading, Records
from sourcewise.records.record import Record
from sourcewise.sweep import leases

pytestmark = pytest.mark.timeout(900)  # agents wait 5 s before every run

SWEEPS = sorted((ROOT / "sweeps").glob("*.yaml"))
SETTINGS = [setting for setting in TINY if not setting.startswith("logger")]


class User:
    """Runs commands from the checkout, as a user of the server, with records in a folder of their own."""

    def __init__(self, server: WandbServer, folder: Path) -> None:
        self.server, self.folder, self.runs = server, folder, folder / "runs"
        clean = {key: value for key, value in os.environ.items() if not key.startswith("WANDB_")}
        server_env = {key: value for key, value in server.env(folder).items() if key != "WANDB_MODE"}
        self.env = (
            clean
            | server_env
            | {"PATH": f"{Path(interpreter()).parent}{os.pathsep}{clean['PATH']}", "OMP_NUM_THREADS": "1"}
        )
        self.env |= {"WANDB_AGENT_DISABLE_FLAPPING": "true", "XDG_CACHE_HOME": str(folder / "cache")}
        self.env |= {"WANDB_AGENT_MAX_INITIAL_FAILURES": "100"}

    def start(self, *command: str, **env: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            command,
            cwd=ROOT,
            env=self.env | env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, *command: str, **env: str) -> tuple[int, str]:
        process = self.start(*command, **env)
        out, _ = process.communicate(timeout=250)
        return process.returncode, out

    def sweep(self, name: str, *overrides: str, **parameters: Any) -> Sweep:
        """`wandb sweep` of one of our files, with other parameters and tiny runs."""
        sweep = yaml.safe_load((ROOT / "sweeps" / f"{name}.yaml").read_text())
        sweep["parameters"] |= {key.replace("__", "."): value for key, value in parameters.items()}
        sweep["command"] += [f"runs_dir={self.runs}", *SETTINGS, *overrides]
        path = self.folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump(sweep))
        status, out = self.run("wandb", "sweep", str(path))
        assert status == 0, out
        return list(self.server.sweeps.values())[-1]

    def agent(self, sweep: Sweep, *options: str) -> tuple[int, str]:
        return self.run("wandb", "agent", *options, f"{sweep.entity}/{sweep.project}/{sweep.name}")

    def records(self) -> dict[str, Record]:
        return {path.parent.name: record.read(path) for path in self.runs.glob(f"*/*/{names.RECORD}")}

    def runs_of(self, sweep: Sweep) -> list[Run]:
        return [run for run in self.server.runs.values() if run.sweep == sweep.name]


@pytest.fixture
def user(wandb_server: WandbServer, tmp_path: Path) -> User:
    return User(wandb_server, tmp_path)


def same(one: Record, two: Record) -> bool:
    """Whether two records are equal in all but where and when they were made."""

    def bare(item: Record) -> str:
        config = {key: value for key, value in item.header.config.items() if key not in ("runs_dir", "logger")}
        header = type(item.header)(**{**vars(item.header), "config": config})
        return record.digest(Record(item.mask, item.targets, header))

    return bare(one) == bare(two)


@pytest.mark.slow
def test_an_agents_run_does_what_a_local_one_does(user: User, tmp_path: Path) -> None:
    """A grid of three: the same records, each exactly once, in W&B and on disk; what is done is not done again."""
    alone = compose_config(*TINY, "subset.seed=1", f"runs_dir={tmp_path / 'local'}")
    train.train(alone)
    local = record.read(names.run_dir(alone) / names.RECORD)
    sweep = user.sweep("main", subset__seed={"values": [0, 1, 2]})
    status, out = user.agent(sweep)
    assert status == 0, out
    assert sweep.state == "FINISHED"
    runs = user.runs_of(sweep)
    assert [run.state for run in runs] == ["finished"] * 3
    found = user.records()
    assert {item.header.subset_seed for item in found.values()} == {0, 1, 2}
    for run in runs:
        item = found[str(run.about["displayName"])]
        assert run.config["subset"] == {"design": "random", "fraction": 0.5, "seed": item.header.subset_seed}
        assert run.config["subset.seed"] == item.header.subset_seed
        assert run.group == item.header.study
        assert user.server.run_files(run)[names.RECORD] == record.to_bytes(item)
        assert run.summary["target/digits/accuracy"] == pytest.approx(item.header.metrics["target/digits/accuracy"])
    assert same(local, found[local.header.run])
    # another sweep over the same trains nothing, and its run has the same record
    times = {path: path.stat().st_mtime_ns for path in user.runs.glob(f"*/*/{names.RECORD}")}
    again = user.sweep("main", subset__seed={"values": [1]})
    assert user.agent(again)[0] == 0
    assert {path: path.stat().st_mtime_ns for path in user.runs.glob(f"*/*/{names.RECORD}")} == times
    (run,) = user.runs_of(again)
    assert run.state == "finished"
    assert user.server.run_files(run)[names.RECORD] == record.to_bytes(found[local.header.run])


def read(user: User, monkeypatch: pytest.MonkeyPatch, **filters: Any) -> Reading:
    for key, value in user.env.items():
        monkeypatch.setenv(key, value)
    reading = iter(Records("wandb:tester/sourcewise", filters, progress=False))
    list(reading)
    return reading


@pytest.mark.slow
def test_a_failed_run_shows_as_failed_and_the_rest_go_on(user: User, monkeypatch: pytest.MonkeyPatch) -> None:
    """One fails at its subset, one before a run has begun, one is good."""
    sweep = user.sweep(
        "replicated", subset__seed={"value": 0}, seed={"value": 0}, subset__fraction={"values": [2, 0.5]}
    )
    user.server.sweeps[sweep.name].left = iter([*sweep.left, {"model.widht": 4}])
    status, out = user.agent(sweep)
    assert status == 0, out
    runs = user.runs_of(sweep)
    assert [run.state for run in runs] == ["failed", "finished", "failed"]
    reasons = ["subset.fraction=2", "", "model.widht: there is no such setting; did you mean width?"]
    for run, reason in zip(runs, reasons, strict=True):
        assert run.summary.get("failure", "").startswith(reason), run.summary
        assert (run.about.get("notes") or "").startswith(reason)
        assert ("log.txt" in user.server.run_files(run)) == bool(reason)
    assert len(user.records()) == 1
    assert len(read(user, monkeypatch, sweep=sweep.name).used) == 1


@pytest.mark.slow
def test_a_run_that_someone_else_is_doing_is_no_failure(user: User) -> None:
    sweep = user.sweep("main", subset__seed={"values": [1]})
    held = compose_config(*TINY, "subset.seed=1", f"runs_dir={user.runs}")
    with leases.lease(names.run_dir(held)):
        user.agent(sweep)
    assert [run.state for run in user.runs_of(sweep)] == ["finished"]
    assert not user.records()


@pytest.mark.slow
def test_training_that_diverges_under_an_agent(user: User, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep = user.sweep("hyperparameters", source__pretraining__lr={"values": [1e30]}, model__width={"value": 4})
    status, out = user.agent(sweep, "--count", "1")
    assert status == 0, out
    assert "lower the learning rate" in out
    (run,) = user.runs_of(sweep)
    assert run.state == "failed"
    assert names.RECORD not in user.server.run_files(run)
    assert not user.records()


@pytest.mark.slow
def test_parameters_named_like_a_section_do_not_hide_it(user: User, monkeypatch: pytest.MonkeyPatch) -> None:
    """`subset: {value: hadamard}` in a sweep: the run's own config wins where it is read back."""
    sweep = user.sweep("main", subset__seed={"values": [3]}, subset={"value": "hadamard"})
    status, out = user.agent(sweep)
    assert status == 0, out
    (run,) = user.runs_of(sweep)
    assert run.config["subset"] == "hadamard"
    records = read(user, monkeypatch)
    assert (len(records.used), records.left_out) == (1, [])
    (item,) = user.records().values()
    scalars = Records("wandb:tester/sourcewise", progress=False).with_output("metric:target/digits/accuracy")
    assert [scalar.mask.tolist() for scalar in scalars] == [item.mask.tolist()]


@pytest.mark.slow
def test_a_block_of_runs_per_agent_run(user: User, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each run of a block is a W&B run of its own; the agent's run stands for the block."""
    sweep = user.sweep("blocks", subset__seed={"values": ["range(0,3)", "range(3,5)"]})
    status, out = user.agent(sweep)
    assert status == 0, out
    blocks = user.runs_of(sweep)
    assert [(run.state, run.about["jobType"]) for run in blocks] == [("finished", "block")] * 2
    members = [run for run in user.server.runs.values() if run.sweep is None]
    assert [run.state for run in members] == ["finished"] * 5
    assert {run.config["subset"]["seed"] for run in members} == set(range(5))
    assert all(run.tags == ["random", "characters", "digits", f"sweep-{sweep.name}"] for run in members)
    assert len(user.records()) == 5
    assert len(read(user, monkeypatch, sweep=sweep.name).used) == 5


@pytest.mark.slow
def test_a_failed_run_fails_its_block_and_the_others_of_the_block_go_on(user: User) -> None:
    sweep = user.sweep("blocks", "source.pretraining.lr=0.05,1e30", subset__seed={"values": ["range(0,2)"]})
    user.agent(sweep)
    (block,) = user.runs_of(sweep)
    assert block.state == "failed"
    members = [run.state for run in user.server.runs.values() if run.sweep is None]
    assert sorted(members) == ["failed", "failed", "finished", "finished"]
    assert len(user.records()) == 2


@pytest.mark.slow  # fifteen seconds
def test_two_jobs_in_one_worker_process_never_share_a_run(user: User) -> None:
    """The launcher's one worker does four runs, of which two fail; no id in the environment is shared."""
    status, out = user.run(
        interpreter(), "train.py", "-m", "hydra.launcher.slots=1", "subset.seed=0,1", "source.pretraining.lr=0.05,1e30",
        f"runs_dir={user.runs}", *SETTINGS, WANDB_RUN_ID="mine",
    )  # fmt: skip
    assert status == 1, out
    runs = list(user.server.runs.values())
    assert len({run.name for run in runs} - {"mine"}) == 4
    for run in runs:
        good = run.config["source"]["pretraining"]["lr"] == 0.05
        assert run.state == ("finished" if good else "failed")
        assert (names.RECORD in user.server.run_files(run)) == good


@pytest.mark.slow
def test_a_killed_run_of_a_sweep_that_a_plain_sweep_does_again_counts(
    user: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = user.sweep("main", subset__seed={"values": [0]})
    settings = [f"runs_dir={user.runs}", *SETTINGS, "source.pretraining.epochs=40"]
    command = [interpreter(), "train.py", "subset.seed=0", *settings]
    soon = {"WANDB_X_FILE_STREAM_TRANSMIT_INTERVAL": "0.2"}  # else W&B hears of it after 15 s, when it may have ended
    agents = {"WANDB_SWEEP_ID": sweep.name, "WANDB_PROJECT": sweep.project, "WANDB_RUN_ID": "agents"}
    process = user.start(*command, **agents, **soon)  # as an agent starts it
    try:
        until(lambda: any(run.state == "running" for run in user.server.runs.values()))
        until(lambda: any(user.runs.rglob(uploads.NOTE)))  # which says whose sweep it is
    finally:
        process.kill()
        process.communicate()
    status, out = user.run(interpreter(), "train.py", "-m", "subset.seed=0,1", *settings)
    assert status == 0, out
    reading = read(user, monkeypatch, sweep=sweep.name)
    (place,) = reading.used
    again = user.server.run(place.rpartition("/")[2])
    assert (again.config["subset"]["seed"], again.sweep, again.state) == (0, None, "finished")
    (killed,) = reading.left_out
    assert killed.path.endswith("agents")


@pytest.mark.slow
def test_the_end_of_a_sweep_says_what_wandb_lacks_and_its_command_brings_it(user: User) -> None:
    command = [interpreter(), "train.py", "-m", f"runs_dir={user.runs}", *SETTINGS]
    assert "W&B: 1 of 1 runs are uploaded\n" in user.run(*command, "subset.seed=0")[1]
    user.server.refuse()
    status, out = user.run(*command, "subset.seed=0,1,2", "logger.init_timeout=3")
    assert status == 0, out
    (line,) = re.findall("^W&B: 1 of 3 runs are uploaded, not random-1-.*, random-2-.*: (wandb sync .*)$", out, re.M)
    user.server.accept()
    assert user.run("sh", "-c", line)[0] == 0
    assert [run.state for run in user.server.runs.values()] == ["finished"] * 3
    assert "W&B: 3 of 3 runs are uploaded\n" in user.run(*command, "subset.seed=0,1,2")[1]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_shows_as_killed(user: User, number: signal.Signals) -> None:
    command = [interpreter(), "train.py", f"runs_dir={user.runs}", *SETTINGS, "source.pretraining.epochs=2000"]
    process = user.start(*command)
    try:
        until(lambda: any(run.history for run in user.server.runs.values()))
        process.send_signal(number)
        process.communicate(timeout=200)
    finally:
        process.kill()
    assert process.returncode != 0
    (run,) = user.server.runs.values()
    assert run.state == "killed"


def until(condition: Callable[[], bool], seconds: float = 200) -> None:
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.1)


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_every_sweep_file_names_its_commands_and_its_parameters_exist(path: Path) -> None:
    text = path.read_text()
    sweep = yaml.safe_load(text)
    assert f"#   wandb sweep sweeps/{path.name}" in text
    assert re.search(r"^#   wandb agent .*<entity>/<project>/<id>", text, re.M)
    (line,) = re.findall(r"python train.py -m (.*)$", text, re.M)
    fixed = [part for part in sweep["command"] if "=" in part]
    assert {part.partition("=")[0] for part in shlex.split(line)} == {
        *sweep["parameters"],
        *(part.partition("=")[0] for part in fixed),
    }
    config = compose_config(*fixed)
    for name in sweep["parameters"]:
        found: Any = config
        for part in name.split("."):
            assert part in found, f"{path.name}: there is no setting {name}"
            found = found[part]
    Sweep("me", sweep["project"], "s", text)  # W&B would take it
