"""Where and how a run computes changes no more of its outputs than the order of sums and the precision do."""

import subprocess
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, Compose
from torch import nn
from warm_python import interpreter

from sourcewise.commands import train
from sourcewise.core import names
from sourcewise.core.errors import SourcewiseError
from sourcewise.records import record
from sourcewise.records.record import Record
from sourcewise.training.hardware import Hardware

SHORT = ("source.pretraining.epochs=2", "model.width=8")


def run(config: dict) -> Record:
    train.train(config)
    return record.read(names.run_dir(config) / names.RECORD)


@pytest.mark.parametrize("asked", [{"accelerator": "gpuu"}, {"precision": "abc"}, {"strategy": "abc"}])
def test_what_lightning_cannot_do_is_one_clear_line(asked: dict[str, str]) -> None:
    ((name, value),) = asked.items()
    with pytest.raises(SourcewiseError, match=f"trainer.{name}={value}.*: "):
        Hardware(**asked).trainer(1)


@pytest.mark.parametrize("transfer", ["fixed", "full"])
@pytest.mark.parametrize(
    ("setting", "tolerance"),
    [
        ("trainer.channels_last=true", 0.01),
        ("trainer.precision=bf16-mixed", 0.15),
        ("trainer.precision=64-true", 0.01),
    ],
)
def test_precision_and_memory_format_change_outputs_little(
    tiny: Compose, tmp_path: Path, setting: str, tolerance: float, transfer: str
) -> None:
    options = (*SHORT, f"transfer={transfer}", "transfer.epochs=2")
    plain, other = run(tiny(*options)), run(tiny(*options, setting, f"runs_dir={tmp_path / 'other'}"))
    one, two = (item.targets["digits"].prob.astype(float) for item in (plain, other))
    # Outputs are kept in float16, which may hide the effect.
    assert plain.header.metrics["source/loss"] != other.header.metrics["source/loss"]
    assert np.abs(one - two).max() < tolerance
    assert np.abs(one - two).mean() < tolerance / 5


@pytest.mark.slow
@pytest.mark.parametrize(("transfer", "batchnorm"), [("fixed", "frozen"), ("fixed", "adapting"), ("full", "adapting")])
def test_a_compiled_run_trains_what_it_should(
    tiny: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, transfer: str, batchnorm: str
) -> None:
    compiled = []
    compile_ = nn.Module.compile
    # Without generated code, which would take a compiler and a minute.
    monkeypatch.setattr(nn.Module, "compile", lambda self: (compiled.append(self), compile_(self, backend="eager")))
    options = (*SHORT, f"transfer={transfer}", f"transfer.batchnorm={batchnorm}", "transfer.epochs=2")
    plain = run(tiny(*options))
    assert not compiled
    other = run(tiny(*options, "trainer.compile=true", f"runs_dir={tmp_path / 'other'}"))
    assert compiled
    np.testing.assert_allclose(
        plain.targets["digits"].margin.astype(float), other.targets["digits"].margin.astype(float), atol=1e-2
    )


@pytest.mark.slow
@pytest.mark.parametrize("transfer", ["fixed", "full"])
def test_two_processes_give_what_one_gives(tmp_path: Path, transfer: str) -> None:
    """Without BatchNorm, which normalises each process's part of a batch; SyncBatchNorm needs GPUs."""
    model = ("model=torchvision", "model.name=squeezenet1_1", "model.small_images=true")
    short = ("source.pretraining.epochs=1", "source.pretraining.lr=0.01", "transfer.epochs=2", "transfer.lr=0.01")
    shift = "[{_target_: sourcewise.lightning_modules.augmentation.Translate, pixels: 1}]"
    settings = (f"transfer={transfer}", f"source.augmentation={shift}", f"target.digits.augmentation={shift}")
    found = []
    for devices in (1, 2):
        ddp = ("trainer=ddp", "trainer.accelerator=cpu", "trainer.precision=32-true", "trainer.sync_batchnorm=false")
        trainer = (*ddp, "trainer.channels_last=false") if devices == 2 else ()
        where = f"runs_dir={tmp_path / str(devices)}"
        command = [interpreter(), "train.py", "logger=none", where, *model, *short, *settings, *trainer]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        (path,) = (tmp_path / str(devices)).glob("*/*/record.safetensors")
        found.append(record.read(path).targets["digits"])
    one, two = found
    assert len(np.unique(two.ids)) == len(two.ids) == 849
    np.testing.assert_array_equal(one.ids, two.ids)
    np.testing.assert_allclose(one.margin.astype(float), two.margin.astype(float), atol=5e-3)
    assert one.margin.std() > 0.05
