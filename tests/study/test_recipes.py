"""Commands that train further models of a recipe: pasted, they make models of the same study."""

import shlex
from pathlib import Path
from typing import Any

import fake_records as records
import pytest
from conftest import compose_config

from sourcewise.core import names
from sourcewise.core.overrides import recipe_overrides
from sourcewise.study.recipes import Sweeps, train_command

MORE = ("subset=full", "seed=range(0,5)")


def header(*typed: str, **changes: Any) -> Any:
    values = {"config": compose_config(*typed), "overrides": recipe_overrides(typed)}
    return records.header(**{**values, **changes})


@pytest.mark.parametrize(
    "typed",
    [
        [],
        ["transfer=full", "model.width=8", "subset.fraction=0.3", "seed=4", "logger=none"],
        ["+target.digits.transfer.weighted=true", "source.pretraining.epochs=3"],
        ["target.digits.transfer.epochs=7", "runs_dir=/a b/runs"],
        ["experiment=folders", "source.root=/photos", "target.imagefolder.root=/photos/target"],
        [
            *("experiment=folders", "source.root=/photos", "target=[]"),
            *("+target@target.birds=named_folder", "target.birds.root=/birds"),
        ],
        ["source=cifar10", "target=[cifar10]", "model=torchvision", "model.name=resnet18"],
        ["model=resnet9", "study='é, b'", "trainer=gpu", "trainer.precision=32-true", "trainer.accelerator=cpu"],
    ],
)
def test_a_printed_command_makes_models_of_the_same_study(typed: list[str]) -> None:
    text = train_command(header(*typed), *MORE)
    program, file, flag, *overrides = shlex.split(text)
    assert [program, file, flag] == ["python", "train.py", "-m"]
    assert overrides[-2:] == list(MORE)
    chosen = compose_config(*overrides[:-1])
    typed_config = compose_config(*typed)
    assert names.study_name(chosen) == names.study_name(typed_config)
    assert chosen["runs_dir"] == typed_config["runs_dir"]
    assert chosen["subset"] == {"design": "full"}


def test_what_does_not_choose_the_recipe_is_left_out() -> None:
    typed = ["subset=full", "+subset.seed=1", "~logger", "hydra/launcher=slurm", "trainer.threads=2", "only=dry_run"]
    assert recipe_overrides([*typed, "++model.width=8"]) == ["++model.width=8"]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"overrides": None}, "the records do not hold them"),
        ({"config": {"model": {"_target_": "os.system"}}}, "they name code"),
        ({"config": {"target": {"a": {"transfer": {"mode": "mine.Probe"}}}}}, "they name code"),
        ({"config": {"source": {"train": [{"_target_": "torch.load"}]}}}, "they name code"),
        ({"overrides": ["model._target_=os.system"]}, "they name code"),
        ({"overrides": ["study=${oc.env:HOME}"]}, "they name code"),
        ({"overrides": ["transfer.mode=mine.Probe"]}, "they name code"),
        ({"overrides": ["source=../../elsewhere"]}, "they name code"),
        ({"overrides": ["source={train: {_target_: os.system}}"]}, "they name code"),
    ],
)
def test_where_there_is_no_command_to_paste_a_phrase_says_why(changes: dict[str, Any], reason: str) -> None:
    text = train_command(header("model.width=8", **changes), *MORE)
    assert not text.startswith("python")
    assert reason in text
    assert "subset=full 'seed=range(0,5)'" in text
    assert "..." not in text
    assert not any(override in text for override in changes.get("overrides") or ())


def test_options_of_the_command_are_never_printed_from_a_record(tmp_path: Path) -> None:
    text = train_command(header(overrides=[f"--config-dir={tmp_path}", "-cp=/x", "model=resnet9"]), *MORE)
    assert "config-dir" not in text
    assert "-cp" not in text
    assert "model=resnet9" in text


def test_sweeps_are_put_together_from_records() -> None:
    sweeps = Sweeps()
    for seed in range(32):
        sweeps.add(header("subset.fraction=0.3", f"subset.seed={seed}", subset_seed=seed))
    for seed in (0, 3):
        sweeps.add(header("subset=full", f"seed={seed}", design="full", subset_seed=None, seed=seed))
    sweeps.add(header("subset=listed", "subset.drop=[a]", design="listed", subset_seed=None))
    assert sweeps.overrides() == [
        ["subset=random", "subset.fraction=0.3", "subset.seed=range(0,32)"],
        ["subset=full", "seed=0,3"],
    ]


def test_the_largest_random_sweep_grows_by_so_many_models() -> None:
    sweeps = Sweeps()
    sweeps.add(header("subset=full", design="full", subset_seed=None))
    assert sweeps.longer(4) == []
    for seed in range(100, 104):
        for training in (0, 1):
            sweeps.add(
                header("subset=hadamard", f"subset.seed={seed}", design="hadamard", subset_seed=seed, seed=training)
            )
    sweeps.add(header("subset.seed=0", subset_seed=0))
    start, *_, seeds, trainings = sweeps.longer(5)
    assert (start, seeds, trainings) == ("subset=hadamard", "subset.seed=range(100,107)", "seed=range(0,2)")
