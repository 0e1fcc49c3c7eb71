"""A run that is killed in the middle of training goes on from its checkpoint, to the same bytes."""

import functools
import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch
from conftest import ROOT, TINY, Compose, compose_config
from hydra.utils import instantiate
from warm_python import interpreter

from sourcewise.commands import train
from sourcewise.core import names
from sourcewise.core.errors import RunFailed
from sourcewise.records import record
from sourcewise.training import checkpoints
from sourcewise.training.run import Run

SETTINGS = (
    "trainer.checkpoint_minutes=0",
    "source.pretraining.epochs=8",
    "source.train.per_letter=10",
    "source.augmentation=[{_target_: sourcewise.lightning_modules.augmentation.Translate, pixels: 1}]",
    "transfer=full",
    "transfer.epochs=4",
)
SHORT = (*SETTINGS, "subset=listed", "subset.keep=[A,B,C,7]")
DROPOUT = (
    "model._target_=sourcewise.training.models.torchvision_backbone",
    "model.name=mobilenet_v3_small",
    "+model.small_images=true",
    "~model.width",
    "source.pretraining.epochs=2",
    "transfer.epochs=2",
)


class BreakError(Exception):
    """Breaks a run off."""


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Compose:
    """Composes a run in a fresh folder, of which the config does not tell."""
    monkeypatch.chdir(tmp_path)
    return lambda *overrides: compose_config(*TINY, "runs_dir=runs", *overrides)


def undisturbed(config: dict) -> str:
    """Digest of the run's record when nothing happens to it."""
    return _digest(json.dumps(config))


@functools.cache
def _digest(config: str) -> str:
    digest = finished(json.loads(config))
    (names.run_dir(json.loads(config)) / names.RECORD).unlink()
    return digest


def interrupted(config: dict, monkeypatch: pytest.MonkeyPatch, stage: str, epoch: int) -> list[str]:
    """Break the run off when the stage's checkpoint after this epoch is saved. Returns the checkpoints left."""
    save = checkpoints.Checkpoint._save

    def save_and_break(self, trainer, module):
        save(self, trainer, module)
        if self.path.name == f"checkpoint-{stage}.pt" and trainer.current_epoch == epoch:
            raise BreakError

    monkeypatch.setattr(checkpoints.Checkpoint, "_save", save_and_break)
    with pytest.raises(BreakError):
        train.train(config)
    monkeypatch.setattr(checkpoints.Checkpoint, "_save", save)
    return left(config)


def left(config: dict) -> list[str]:
    return sorted(path.name for path in names.run_dir(config).iterdir())


def finished(config: dict) -> str:
    train.train(config)
    assert left(config) == [names.RECORD]
    return record.digest(record.read(names.run_dir(config) / names.RECORD))


def test_a_killed_command_goes_on(tiny: Compose, tmp_path: Path) -> None:
    overrides = [*TINY, "runs_dir=runs", *SETTINGS]
    config = compose_config(*overrides)
    folder = names.run_dir(config)
    digest = undisturbed(config)
    command = [interpreter(), str(ROOT / "train.py"), *overrides]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        for _ in range(6000):
            if (folder / "checkpoint-source.pt").exists() or process.poll() is not None:
                break
            time.sleep(0.01)
        time.sleep(0.2)  # somewhere within an epoch
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert "checkpoint-source.pt" in left(config)
    assert not names.is_done(folder)

    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "going on after" in done.stderr
    assert left(config) == [names.RECORD]
    assert record.digest(record.read(folder / names.RECORD)) == digest


@pytest.mark.parametrize("epoch", [3, 8])  # 8: in the transfer
def test_a_run_that_is_asked_to_stop_is_saved_whatever_the_time(
    tiny: Compose, monkeypatch: pytest.MonkeyPatch, epoch: int
) -> None:
    config = tiny(*SHORT, "trainer.checkpoint_minutes=1000")
    digest = undisturbed(config)
    epochs = iter(range(100))
    start = checkpoints.Checkpoint.on_train_epoch_start

    def asked(self, trainer, module):
        if next(epochs) == epoch:
            monkeypatch.setattr(checkpoints, "_is_to_stop", lambda: True)
        start(self, trainer, module)

    monkeypatch.setattr(checkpoints.Checkpoint, "on_train_epoch_start", asked)
    with pytest.raises(KeyboardInterrupt):
        train.train(config)
    assert left(config) == (["checkpoint-source.pt"] if epoch < 8 else [])
    monkeypatch.setattr(checkpoints, "_is_to_stop", lambda: False)
    assert finished(config) == digest


@pytest.mark.slow
def test_a_sweep_that_is_interrupted_lets_its_runs_save_a_checkpoint(tmp_path: Path) -> None:
    overrides = ["trainer.checkpoint_minutes=0", "source.train.per_letter=10", "source.pretraining.epochs=100000"]
    overrides += ["model.width=4", "logger=none", f"runs_dir={tmp_path}/runs"]
    command = [interpreter(), str(ROOT / "train.py"), "-m", *overrides, "hydra.launcher.finish_within=1000"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        for _ in range(20000):
            if list(tmp_path.glob("runs/*/*/checkpoint-source.pt")) or process.poll() is not None:
                break
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 130, err
    assert "0 of 1 runs are done, 0 failed, 1 are left; the same command goes on where this one stopped" in err
    (folder,) = tmp_path.glob("runs/*/*")
    assert {path.name for path in folder.iterdir()} == {"checkpoint-source.pt", "log.txt"}


@pytest.mark.parametrize(
    ("stage", "epoch", "files"),
    [
        ("source", 1, ["checkpoint-source.pt"]),
        ("source", 7, ["checkpoint-source.pt"]),
        ("source", 8, ["checkpoint-source.pt"]),
        ("target-digits", 2, ["checkpoint-source.pt", "checkpoint-target-digits.pt"]),
        ("target-digits", 4, ["checkpoint-source.pt", "checkpoint-target-digits.pt"]),
    ],
)
def test_from_every_place(
    tiny: Compose, monkeypatch: pytest.MonkeyPatch, stage: str, epoch: int, files: list[str]
) -> None:
    config = tiny(*SHORT)
    digest = undisturbed(config)
    assert interrupted(config, monkeypatch, stage, epoch) == files
    assert finished(config) == digest


def test_dropout_goes_on_too(tiny: Compose, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny(*SHORT, *DROPOUT)
    digest = undisturbed(config)
    interrupted(config, monkeypatch, "source", 1)
    torch.randn(5)  # whatever state torch's own generator is in
    assert finished(config) == digest


def test_all_epochs_are_logged(tiny: Compose, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny(*SHORT)
    interrupted(config, monkeypatch, "source", 5)
    parts = instantiate([config[name] for name in ("source", "target", "model", "trainer")], _convert_="all")
    seen: list[dict[str, float]] = []
    Run(*parts, config["subset"], config["seed"], lambda scalars: seen.append(dict(scalars))).execute(config)
    assert [scalars["source/train/epoch"] for scalars in seen if "source/train/epoch" in scalars] == [
        1,
        2,
        3,
        4,
        5,
        6,
        7,
        8,
    ]
    assert all("source/train/loss" in scalars for scalars in seen[1:9])


def test_a_checkpoint_of_something_else_is_left_aside(
    tiny: Compose, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config, other = tiny(*SHORT), tiny(*SHORT, "seed=1")
    digest = undisturbed(config)
    interrupted(other, monkeypatch, "source", 3)
    names.run_dir(config).mkdir(parents=True, exist_ok=True)
    (names.run_dir(other) / "checkpoint-source.pt").rename(names.run_dir(config) / "checkpoint-source.pt")
    assert finished(config) == digest
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "left aside" in line]
    assert line.endswith("checkpoint-source.pt is left aside: it was made with other settings or another version")


@pytest.mark.parametrize("size", [0, 100, 0.5, -10])
def test_a_truncated_checkpoint_is_left_aside(
    tiny: Compose, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], size: float
) -> None:
    config = tiny(*SHORT)
    digest = undisturbed(config)
    interrupted(config, monkeypatch, "source", 3)
    path = names.run_dir(config) / "checkpoint-source.pt"
    whole = path.stat().st_size
    os.truncate(path, int(whole * size) if isinstance(size, float) else size if size >= 0 else whole + size)
    assert finished(config) == digest
    assert capsys.readouterr().err.count("is left aside") == 1


def test_a_full_disk_costs_the_checkpoint_only(
    tiny: Compose, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tiny(*SHORT)
    digest = undisturbed(config)

    def full(state, file):
        file.write(b"a part of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    assert finished(config) == digest
    assert "cannot be saved, training goes on: [Errno 28] No space left on device" in capsys.readouterr().err


def test_without_the_setting_there_is_nothing_to_save(tiny: Compose, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoints, "Checkpoint", None)
    monkeypatch.setattr(torch, "save", None)
    train.train(tiny("source.pretraining.epochs=2"))


def test_a_failed_run_fails_again_at_once(tiny: Compose) -> None:
    config = tiny(*SHORT, "source.pretraining.lr=1e30")
    for _ in range(2):
        with pytest.raises(RunFailed):
            train.train(config)
