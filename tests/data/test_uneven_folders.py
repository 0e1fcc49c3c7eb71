"""Training on folders of unequal classes, and what cannot be trained."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Compose
from hydra.errors import InstantiationException
from test_loaders import cache, folder

from sourcewise.commands import train
from sourcewise.core import names
from sourcewise.core.errors import SourcewiseError
from sourcewise.records import record

__all__ = ["cache"]

SMALL = (
    "source=imagefolder",
    "source.train.side=8",
    "source.train.format=raw",
    "source.crop=null",
    "source.resolution=null",
    "source.pretraining.batch_size=8",
    "source.pretraining.lr=0.01",
    "target=[imagefolder]",
    "target.imagefolder.train.side=8",
    "target.imagefolder.train.format=raw",
    "target.imagefolder.resolution=null",
)


@pytest.fixture
def run(tiny: Compose, tmp_path: Path) -> Any:
    """Runs on a source of classes of 1, 0, 33 and 3 images."""
    folder(tmp_path / "source", single=1, none=0, many=33, few=3)
    for split in ("train", "test"):
        folder(tmp_path / "target" / split, a=3, b=2)

    def train_once(*overrides: str) -> record.Record:
        places = (f"source.root={tmp_path / 'source'}", f"target.imagefolder.root={tmp_path / 'target'}")
        config = tiny(*SMALL, *places, *overrides)
        train.train(config)
        return record.read(names.run_dir(config) / names.RECORD)

    return train_once


@pytest.mark.parametrize(
    "keep",
    [
        "single",
        "few",  # fewer images than a batch
        "many",  # a last batch of one image, which BatchNorm cannot take
        "many,single",  # classes of 33 and 1 images
    ],
)
def test_uneven_subsets_train(run: Any, keep: str) -> None:
    item = run("subset=listed", f"subset.keep=[{keep}]")
    assert item.header.group_names == ["few", "many", "single"]  # none has no images
    assert np.isfinite(item.targets["imagefolder"].prob.astype(float)).all()
    assert np.isfinite(item.header.metrics["source/loss"])


def test_what_cannot_be_trained_is_one_clear_line(run: Any, tmp_path: Path) -> None:
    with pytest.raises(SourcewiseError, match="no group is called 'none'"):
        run("subset=listed", "subset.keep=[none]")
    with pytest.raises(SourcewiseError, match="3 colour channels, those of the source 1; make them alike"):
        run("source.train.channels=1", "source.normalise.mean=[0.5]", "source.normalise.std=[0.5]")
    with pytest.raises(
        InstantiationException, match="1 colour channels; source.normalise.mean and std must have as many"
    ):
        run("source.train.channels=1")
    folder(tmp_path / "high" / "train" / "data", a=3, b=2)
    folder(tmp_path / "high" / "test" / "data", a=3, b=2)
    with pytest.raises(InstantiationException, match="all images are of one class, data; is its root one folder"):
        run(f"target.imagefolder.root={tmp_path / 'high'}")
    (tmp_path / "target" / "test" / "c").mkdir()
    with pytest.raises(InstantiationException, match="not of the same classes: they differ in 'c'"):
        run()
