"""Settings against signatures: what cannot work is refused in one line, whatever it is."""

import copy
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, TINY, compose_config
from fake_records import write_study
from hydra import initialize_config_dir
from hypothesis import HealthCheck, given, reject, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from spoiling import JUNK

from sourcewise.commands import estimate, train
from sourcewise.core.errors import SourcewiseError
from sourcewise.core.settings import check_config
from tests.commands.test_commands import command
from tests.project.test_configs import OPTIONS


def leaves(node: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths of all settings."""
    if isinstance(node, dict):
        return [leaf for key, value in node.items() for leaf in leaves(value, (*path, key))]
    return [path]


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("trainer.devices=x", "trainer.devices=x: input should be a valid integer"),
        ("source.pretraining.epochs=-1", "source.pretraining.epochs=-1: input should be greater than 0"),
        ("source.pretraining.schedule=3", "source.pretraining.schedule=3: this needs a _target_"),
        ("+model.deep=3", "model.deep: there is no such setting"),
        ("+source.pretraining.epoch=3", "source.pretraining.epoch: there is no such setting; did you mean epochs?"),
        ("source._target_=os.nowhere", "source._target_=os.nowhere: there is no such object"),
        ("source._target_=os", "source._target_=os: this cannot be called"),
        ("+target.digits.augmentation=[1]", "target.digits.augmentation[0]"),
    ],
)
def test_what_does_not_fit_is_named(override: str, said: str) -> None:
    with pytest.raises(SourcewiseError) as caught:
        check_config(compose_config(override))
    assert str(caught.value).startswith(said.split("[")[0])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["model.widht=3"], "model.widht: there is no such setting; did you mean width?"),
        (["model=smal_cnn"], "model=smal_cnn: there is no such option; did you mean small_cnn? (there are"),
        (["target=[digit]"], "target=digit: there is no such option; did you mean digits? (there are aircraft, "),
        (["-m", "subset.sed=range(0,3)"], "subset.sed: there is no such setting; did you mean seed?"),
        (["hydra.launcher.slot=3"], "hydra.launcher.slot: there is no such setting; did you mean slots?"),
        (["subset.fraction=half"], "subset.fraction=half: input should be a valid number"),
        (
            ["experiment=counterfactual", "subset=full"],
            "subset.ranking: the design full has no such setting, only ranked; where an experiment sets it, leave out the",
        ),
    ],
)
def test_a_mistyped_word_gets_a_hint(arguments: list[str], said: str) -> None:
    done = command("train.py", *arguments, "logger=none")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert said in done.stderr


def status(main: Any, config: dict[str, Any]) -> int:
    """What a command with this config ends with; anything but a user's error is raised."""
    try:
        built = OmegaConf.create(config)
    except OmegaConfBaseException:  # Hydra would not have composed it
        reject()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        try:
            main.__wrapped__(built)
        except SystemExit as end:
            return int(end.code or 0)
    return 0


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder, and nobody logged in to W&B."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "disabled")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


def draw_config(data: st.DataObject, name: str, *overrides: str) -> tuple[dict[str, Any], tuple[Any, ...]]:
    """A config with one value of any key replaced, and the key."""
    config = compose_config(*overrides, name=name)
    leaf = data.draw(st.sampled_from(leaves(config)))
    *way, last = leaf
    node = config
    for key in way:
        node = node[key]
    node[last] = copy.deepcopy(data.draw(JUNK))
    return config, leaf


def ends_in_one_line(main: Any, config: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    code, said = status(main, config), capsys.readouterr().err
    assert code in (0, 1, 2)
    if code:
        assert len([line for line in said.splitlines() if line.startswith(Path(sys.argv[0]).name)]) == 1, said


FEW = settings(
    max_examples=30, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


@FEW
@given(st.data())
def test_any_value_of_any_key_of_a_run(place: Path, capsys: pytest.CaptureFixture[str], data: st.DataObject) -> None:
    config, leaf = draw_config(data, "train", *TINY[:-1], "logger=wandb")
    if leaf[0] == "trainer":  # it may start further processes
        config["only"] = "prepare"
    ends_in_one_line(train._main, config, capsys)


@FEW
@given(st.data())
def test_any_value_of_any_key_of_any_option(
    place: Path, capsys: pytest.CaptureFixture[str], data: st.DataObject
) -> None:
    """Of those whose data is not there, too; as far as one gets without."""
    config, _ = draw_config(data, "train", *data.draw(st.sampled_from(OPTIONS)))
    config["only"] = "prepare"
    ends_in_one_line(train._main, config, capsys)


@FEW
@given(st.data())
def test_any_value_of_any_key_of_an_estimate(
    place: Path, capsys: pytest.CaptureFixture[str], data: st.DataObject
) -> None:
    if not Path("runs").exists():
        write_study(place / "runs", 6)
    config, _ = draw_config(data, "estimate", "records=runs", "estimator=difference")
    ends_in_one_line(estimate._main, config, capsys)
