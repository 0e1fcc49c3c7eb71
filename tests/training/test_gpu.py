"""What only a GPU shows: a run there agrees with one on the CPU, and several runs may share one."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT, TINY

from sourcewise.records import record

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


def train(folder: Path, *settings: str) -> list[record.Record]:
    command = [sys.executable, "train.py", *TINY, f"runs_dir={folder}", *settings]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [record.read(path) for path in sorted(folder.glob("*/*/record.safetensors"))]


@pytest.mark.parametrize("transfer", ["fixed", "full"])
def test_a_gpu_gives_what_the_cpu_gives(tmp_path: Path, transfer: str) -> None:
    settings = (f"transfer={transfer}", "transfer.epochs=2")
    (cpu,) = train(tmp_path / "cpu", *settings)
    (gpu,) = train(tmp_path / "gpu", *settings, "trainer=gpu", "trainer.precision=32-true")
    one, two = (item.targets["digits"] for item in (cpu, gpu))
    np.testing.assert_array_equal(one.ids, two.ids)
    np.testing.assert_allclose(one.prob.astype(float), two.prob.astype(float), atol=0.05)
    assert gpu.header.device != cpu.header.device


def test_several_runs_share_a_gpu(tmp_path: Path) -> None:
    settings = ("--multirun", "subset.seed=range(0,6)", "trainer=gpu", "hydra.launcher.slots=2")
    records = train(tmp_path / "runs", *settings)
    assert len({item.header.subset_seed for item in records}) == 6


def test_a_gpu_repeats_itself_to_rounding(tmp_path: Path) -> None:
    one, two = (train(tmp_path / name, "trainer=gpu")[0].targets["digits"] for name in ("one", "two"))
    np.testing.assert_allclose(one.prob.astype(float), two.prob.astype(float), atol=0.02)
