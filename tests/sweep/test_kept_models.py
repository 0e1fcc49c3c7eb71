"""Sweeps of kept source models, by commands: what they train, transfer, say and refuse."""

import os
import subprocess
from pathlib import Path

import pytest
from conftest import ROOT, TINY
from warm_python import interpreter

from sourcewise.core import names
from sourcewise.records import record

pytestmark = pytest.mark.slow


def sweep(folder: Path, *overrides: str, multirun: bool = True) -> subprocess.CompletedProcess[str]:
    words = [*(["-m", "hydra.launcher.preload=[]"] if multirun else []), *TINY, *overrides]
    command = [interpreter(), str(ROOT / "train.py"), *words]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, env=dict(os.environ))


def digests(folder: Path, study: str) -> dict[str, str]:
    return {
        path.parent.name: record.digest(record.read(path)) for path in folder.glob(f"runs/{study}/*/{names.RECORD}")
    }


def stages(folder: Path, study: str) -> set[str]:
    records = [record.read(path) for path in folder.glob(f"{study}/*/{names.RECORD}")]
    return {stage for item in records for stage in item.header.seconds}


def test_a_study_is_transferred_again_in_every_way_that_there_is(tmp_path: Path) -> None:
    (tmp_path / "first").mkdir()
    (tmp_path / "anew").mkdir()
    kept = sweep(tmp_path / "first", "keep_model=true", "subset.seed=0,1", "seed=0,1")
    assert "4 source models will be kept, " in kept.stderr
    full = ("transfer=full", "transfer.epochs=1")
    assert sweep(tmp_path / "anew", *full, "subset.seed=0,1", "seed=0,1").returncode == 0
    # an experiment's own subsets give way to those that are kept, here in a folder elsewhere
    named = sweep(tmp_path, "experiment=demo", "runs_dir=runs", "models=first/runs", *full)
    assert named.returncode == 0, named.stderr
    assert "4 of 4 runs transfer a kept source model" in named.stderr
    assert digests(tmp_path, "*") == digests(tmp_path / "anew", "*")
    assert "pretraining" not in stages(tmp_path, "runs/*")
    # in the same runs_dir nothing needs to be named
    again = sweep(tmp_path / "first", *full, "subset.seed=0,1,2")
    assert "2 of 3 runs transfer a kept source model" in again.stderr
    one = sweep(tmp_path, "models=first/runs", "subset.seed=1", *full, "study=alone", multirun=False)
    assert one.returncode == 0, one.stderr
    assert stages(tmp_path, "runs/alone-*") == {"kept model", "transfer/digits"}
    for wrong, message in (
        ("models=first/runs model.width=8", "its source models are of other settings: model.width (4 there, 8 here)"),
        ("models=first/runs subset.seed=7", "none of its 4 source models is of this subset and seed"),
        ("models=nowhere", "models=nowhere: there are no kept source models"),
    ):
        refused = sweep(tmp_path, *wrong.split())
        assert refused.returncode == 2
        assert message in refused.stderr
        assert len(refused.stderr.strip().splitlines()) == 1
