"""Targets take the transfer settings of the top level, changed by their own."""

import inspect

import pytest
from conftest import compose_config
from hydra.errors import ConfigCompositionException
from hydra.utils import get_object

from sourcewise.core import names, settings
from sourcewise.core.errors import SourcewiseError
from sourcewise.sweep.composition import inherit


def transfers(*overrides: str) -> dict[str, dict]:
    return {name: target["transfer"] for name, target in compose_config(*overrides)["target"].items()}


@pytest.mark.parametrize("option", ["fixed", "full", "probe"])
def test_a_target_has_every_setting_of_its_transfer(option: str) -> None:
    (transfer,) = transfers(f"transfer={option}").values()
    signature = inspect.signature(get_object(transfer["_target_"]))
    assert transfer.keys() - {"_target_"} == signature.parameters.keys()


@pytest.mark.parametrize("setting", ["weighted=true", "label_smoothing=0.3", "batchnorm=adapting"])
def test_a_setting_is_for_all_targets_or_for_one(setting: str) -> None:
    key = setting.partition("=")[0]
    usual = transfers("target=[digits,pets]")
    every = transfers("target=[digits,pets]", f"transfer.{setting}")
    single = transfers("target=[digits,pets]", f"target.digits.transfer.{setting}")
    assert all(every[name] == {**usual[name], key: every[name][key]} != usual[name] for name in usual)
    assert single == {"digits": every["digits"], "pets": usual["pets"]}
    assert names.study_name(compose_config(f"transfer.{setting}")) != names.study_name(compose_config())


def test_a_target_s_own_settings_go_before_those_of_all() -> None:
    usual = transfers("target=[pets]")["pets"]
    assert transfers("target=[pets]", "transfer.epochs=3", "transfer.lr=9")["pets"] == usual
    assert transfers("target=[pets]", "target.pets.transfer.lr=9")["pets"] == {**usual, "lr": 9}
    without = transfers("target=[pets]", "transfer=probe", "~target.pets.transfer")["pets"]
    assert without == compose_config("transfer=probe")["transfer"]


def test_a_schedule_is_changed_by_key_or_replaced_as_a_whole() -> None:
    triangular = transfers("target.digits.transfer.schedule.peak=2")["digits"]["schedule"]
    assert triangular == {"_target_": "sourcewise.lightning_modules.schedules.Triangular", "peak": 2}
    constant = {"_target_": "sourcewise.lightning_modules.schedules.Constant"}
    assert (
        transfers(f"target.digits.transfer.schedule={{_target_: {constant['_target_']}}}")["digits"]["schedule"]
        == constant
    )


def test_inheriting_changes_neither_side_and_is_done_once() -> None:
    general, special = {"_target_": "a.B", "x": {"y": 1, "z": 2}}, {"x": {"y": 3}}
    merged = inherit(general, special)
    assert merged == {"_target_": "a.B", "x": {"y": 3, "z": 2}}
    assert (general, special) == ({"_target_": "a.B", "x": {"y": 1, "z": 2}}, {"x": {"y": 3}})
    assert inherit(general, merged) == merged


@pytest.mark.parametrize("override", ["target.digits.transfer.wieghted=true", "+transfer.wieghted=true"])
def test_a_setting_that_no_transfer_has_is_refused(override: str) -> None:
    with pytest.raises(SourcewiseError, match="wieghted: there is no such setting; did you mean weighted"):
        settings.check_config(compose_config(override))
    with pytest.raises(ConfigCompositionException):
        compose_config("transfer.wieghted=true")


def test_settings_of_another_kind_of_transfer_are_refused() -> None:
    with pytest.raises(SourcewiseError, match=r"target.pets.transfer.\w+: there is no such setting"):
        settings.check_config(compose_config("target=[pets]", "transfer=probe"))
