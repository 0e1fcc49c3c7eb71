"""The paper's experiment: its settings are those published, and all of it runs, small, on noise."""

import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ROOT, compose_config
from warm_python import interpreter

from sourcewise.commands import dry_run as rehearsal
from sourcewise.commands import train
from sourcewise.core import names
from sourcewise.core.errors import SourcewiseError
from sourcewise.lightning_modules.crops import Progressive
from sourcewise.lightning_modules.schedules import Triangular
from sourcewise.records import record

# arXiv 2207.05739, appendix, and its published code: lr, epochs, steps of the rate (none: triangular, peak 5), random
# crops, metric, classes.
PUBLISHED = {
    "aircraft": (0.3, 24, None, False, "mean_per_class", 100),
    "birdsnap": (0.3, 15, None, True, "accuracy", 500),
    "caltech101": (0.2, 24, None, False, "mean_per_class", 101),
    "caltech256": (0.2, 14, None, False, "mean_per_class", 257),
    "chestxray14": (0.01, 4, 5, False, "mean_per_class", 2),
    "cifar10": (0.1, 15, None, False, "accuracy", 10),
    "cifar100": (0.1, 15, None, False, "accuracy", 100),
    "flowers": (0.15, 50, None, False, "mean_per_class", 102),
    "food": (0.1, 15, 5, False, "accuracy", 101),
    "imagenet": (0.01, 15, 10, False, "accuracy", 1000),
    "pets": (0.1, 24, None, True, "mean_per_class", 37),
    "stanford_cars": (0.3, 50, None, True, "accuracy", 196),
    "sun397": (0.2, 24, None, True, "accuracy", 397),
}


def name(target: dict[str, Any] | None) -> str:
    return str(target["_target_"]).rpartition(".")[2] if target else ""


def test_the_targets_are_the_paper_s() -> None:
    targets = compose_config("experiment=imagenet_paper")["target"]
    for target, how in targets.items():
        transfer, cifar = how["transfer"], target.startswith("cifar")
        every = transfer["schedule"].get("every")
        found = (transfer["lr"], transfer["epochs"], every, name(how["crop"]) == "RandomResizedCrop", how["metric"])
        assert (*found, how["train"]["num_classes"]) == PUBLISHED[target], target
        assert every or transfer["schedule"]["peak"] == 5
        assert [transfer[key] for key in ("batch_size", "momentum", "weight_decay")] == [1024, 0.9, 5e-4]
        assert (name(transfer), transfer["batchnorm"], transfer["label_smoothing"]) == ("Fixed", "adapting", 0)
        assert [name(a) for a in how["augmentation"]] == (["Flip", "Translate", "Cutout"] if cifar else ["Flip"])
        assert (how["resolution"], how["train"]["side"]) == (224, 32 if cifar else 256)
        assert transfer.get("weighted", False) == (target == "chestxray14")
        for split in ("train", "test"):
            assert how[split]["num_classes"] == how["train"]["num_classes"]
    assert targets.keys() == PUBLISHED.keys()


def test_the_source_is_the_paper_s() -> None:
    config = compose_config("experiment=imagenet_paper")
    source, how = config["source"], config["source"]["pretraining"]
    assert (how["epochs"], how["batch_size"], how["lr"], how["momentum"]) == (16, 1024, 0.5, 0.9)
    assert (how["weight_decay"], how["label_smoothing"], how["schedule"]["peak"]) == (5e-5, 0, 2)
    assert (name(source["crop"]), [name(a) for a in source["augmentation"]]) == ("RandomResizedCrop", ["Flip"])
    assert (source["train"]["num_classes"], config["subset"]["fraction"], config["model"]["name"]) == (
        1000,
        0.5,
        "resnet18",
    )
    assert config["trainer"]["precision"] == "bf16-mixed"
    del source["resolution"]["_target_"]
    sides = [Progressive(**source["resolution"])(epoch) for epoch in range(16)]
    assert (sides[:12], sides[13:]) == ([160] * 12, [192] * 3)
    assert Triangular(2)(2.0, 16) == 1


def test_where_the_data_lie_is_not_part_of_the_recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    studies = set()
    for place in ("/data", "/elsewhere"):
        monkeypatch.setenv("SOURCEWISE_DATA", place)
        config = compose_config("experiment=imagenet_paper")
        assert config["target"]["pets"]["test"]["dataset"]["root"] == f"{place}/pets"
        studies.add(names.study_name(config))
    assert len(studies) == 1


def small(tmp_path: Path, *overrides: str) -> record.Record:
    config = rehearsal.shrunk(compose_config(*overrides), str(tmp_path))
    train.train(config)
    return record.read(names.run_dir(config) / names.RECORD)


@pytest.mark.slow  # ten seconds
def test_the_paper_s_experiment_runs_on_noise(tmp_path: Path) -> None:
    found = small(tmp_path, "experiment=imagenet_paper", "model=small_cnn", "model.width=4")
    assert {target: len(names) for target, names in found.header.class_names.items()} == {
        target: row[-1] for target, row in PUBLISHED.items()
    }
    assert (found.mask.sum(), len(found.header.group_names or ())) == (16, 32)
    for target, (*_, metric, classes) in PUBLISHED.items():
        outputs, scores = found.targets[target], found.header.metrics
        assert outputs.labels.tolist() == (np.arange(16) * classes // 16).tolist()
        assert np.isfinite(outputs.prob.astype(float)).all()
        assert scores[f"target/{target}/score"] == scores[f"target/{target}/{metric}"]
    assert 0 <= found.header.metrics["target/chestxray14/auroc"] <= 1


def test_any_config_can_be_tried_on_noise(tmp_path: Path) -> None:
    overrides = ("source=imagefolder", "source.root=/none", "target=[table]", "target.table.root=/none")
    found = small(
        tmp_path, *overrides, "source.train.side=8", "source.resolution=8", "target.table.resolution=8",
        "target.table.train.side=8", "target.table.test.per_class=1", "transfer.lr=[0.1,1]", "model.width=4",
    )  # fmt: skip
    assert len(found.targets["table"].labels) == 16


@pytest.mark.parametrize(
    "overrides",
    [
        ("source.groups=part",),
        ("subset=listed", "subset.drop=[abbey]"),
        ("target.table.metric=auroc",),
    ],
)
def test_what_names_real_data_can_be_tried_on_noise(overrides: tuple[str, ...], tmp_path: Path) -> None:
    places = ("source=imagefolder", "source.root=/none", "target=[table]", "target.table.root=/none")
    sizes = ("source.train.side=8", "source.resolution=8", "target.table.resolution=8", "model.width=4")
    found = small(tmp_path, *places, *sizes, "target.table.train.side=8", "target.table.test.side=8", *overrides)
    assert 0 < found.mask.sum() < 10
    assert 0 <= found.header.metrics["target/table/score"] <= 1


@pytest.mark.slow
def test_the_dry_run_says_what_would_run() -> None:
    small = ("model=small_cnn", "model.width=4")  # the paper's ResNet takes minutes
    command = [interpreter(), str(ROOT / "train.py"), "experiment=imagenet_paper", *small, "only=dry_run"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert "source imagenet        1000 classes  16 epochs of batches of 1024, lr 0.5" in done.stdout
    assert "two steps of each stage on noise: all 13 targets done" in done.stdout
    assert done.stderr.count("the backbone runs in every epoch") == 1


def test_a_rehearsal_is_not_for_sweeps() -> None:
    with pytest.raises(SourcewiseError, match="only=prepare is for one command"):
        train.train(compose_config("only=prepare"))
