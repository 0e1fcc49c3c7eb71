"""Which logger a config makes, in which mode; loggers of users."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, TINY, compose_config
from hydra.utils import instantiate
from warm_python import interpreter

from sourcewise.core import settings
from sourcewise.core.errors import SourcewiseError
from sourcewise.records import wandb_tracker
from sourcewise.records.tracker import NoTracker
from sourcewise.records.wandb_tracker import WandbTracker


@pytest.mark.parametrize(
    ("setting", "env", "mode"),
    [
        ("auto", {}, "offline"),
        ("auto", {"WANDB_API_KEY": "local-" + "0" * 40}, "online"),
        ("auto", {"WANDB_API_KEY": "local-" + "0" * 40, "WANDB_MODE": "offline"}, "offline"),
        ("auto", {"WANDB_MODE": "disabled"}, "disabled"),
        ("online", {"WANDB_MODE": "offline"}, "online"),
        ("offline", {"WANDB_API_KEY": "local-" + "0" * 40}, "offline"),
    ],
)
def test_mode(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, setting: str, env: dict[str, str], mode: str) -> None:
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    assert wandb_tracker.resolved_mode(setting) == mode


def test_who_is_logged_in_by_netrc_is_online(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:4711")
    (tmp_path / "netrc").write_text(f"machine 127.0.0.1:4711\n  login user\n  password local-{'0' * 40}\n")
    assert wandb_tracker.resolved_mode("auto") == "online"
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:4712")
    assert wandb_tracker.resolved_mode("auto") == "offline"


def test_disabled_and_no_tracking_track_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    for tracker in (NoTracker(), WandbTracker(dir=str(tmp_path / "runs"))):
        with tracker.start("n", "s", {}) as tracked:
            tracked.log({"x": 1.0})
            tracked.save(b"x", "x")
            tracked.table("t", ["a"], [[1]])
    assert not (tmp_path / "runs").exists()


def test_a_wrong_mode_is_one_clear_line() -> None:
    with pytest.raises(SourcewiseError, match="logger.mode=on: input should be 'auto', 'online' or 'offline'"):
        settings.check_config({"_target_": "sourcewise.records.wandb_tracker.WandbTracker", "mode": "on"}, "logger")


def test_the_config_builds_the_tracker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    tracker = instantiate(compose_config("logger=wandb")["logger"])
    assert isinstance(tracker, WandbTracker)
    assert tracker.project == "sourcewise"
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    assert instantiate(compose_config("logger=wandb")["logger"]).project == "mine"


OWN_LOGGER = """
import json
from contextlib import contextmanager
from sourcewise.records.tracker import TrackedRun, Tracker

class JsonRun(TrackedRun):
    def __init__(self, path):
        self.path = path

    def log(self, scalars):
        with open(self.path, "a") as file:
            print(json.dumps(dict(scalars)), file=file)

    def record(self, result):
        self.log(result.header.metrics)

class JsonTracker(Tracker):
    def __init__(self, path: str):
        self.path = path

    @contextmanager
    def start(self, name, study, config, job="run"):
        yield JsonRun(self.path)
"""


def test_a_logger_of_the_user_s_tracks_runs_and_says_that_it_makes_no_reports(tmp_path: Path) -> None:
    (tmp_path / "my_logger.py").write_text(OWN_LOGGER)
    (tmp_path / "conf" / "logger").mkdir(parents=True)
    (tmp_path / "conf" / "logger" / "mine.yaml").write_text("_target_: my_logger.JsonTracker\npath: lines.jsonl\n")

    def command(program: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [interpreter(), str(ROOT / program), "--config-dir", "conf", "logger=mine", *arguments],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])},
            capture_output=True,
            text=True,
            timeout=200,
        )

    done = command("train.py", *TINY[:-1], f"runs_dir={tmp_path / 'runs'}")
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in (tmp_path / "lines.jsonl").read_text().splitlines()]
    assert lines[0].keys() == {"source/parameters"}
    assert "source/train/epoch" in lines[1]
    assert "target/digits/accuracy" in lines[-1]
    done = command("estimate.py", f"records={tmp_path / 'runs'}", "wandb_report=true")
    assert done.returncode == 2
    assert "wandb_report=true: this logger makes no reports; take logger=wandb, or leave it out" in done.stderr
    done = command("train.py", "logger.path=3")
    assert "logger.path=3: input should be a valid string" in done.stderr
