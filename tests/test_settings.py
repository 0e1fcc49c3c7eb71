"""Settings against signatures: what cannot work is refused in one line, whatever it is."""

import json
from typing import Any

import pytest
from conftest import TINY, Compose, compose_config
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_commands import command

import train
from sourcewise.cli import users_error
from sourcewise.errors import SourcewiseError
from sourcewise.settings import check

DEFAULT = compose_config(*TINY)


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
        check(compose_config(override))
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
    ],
)
def test_a_mistyped_word_gets_a_hint(arguments: list[str], said: str) -> None:
    done = command("train.py", *arguments, "logger=none")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert said in done.stderr


VALUES = st.one_of(
    st.sampled_from(
        [-1, 0, 1, 2, 0.5, -0.5, 1e-9, 1e30, float("nan"), float("inf"), "", "x", "../x", None, True, [], {}]
    ),
    st.text(max_size=5),
)


@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    st.sampled_from([leaf for leaf in leaves(DEFAULT) if leaf[0] not in ("trainer", "runs_dir", "logger")]),
    VALUES,
)
def test_any_value_of_any_key_works_or_is_refused(tiny: Compose, leaf: tuple[Any, ...], value: Any) -> None:
    config = json.loads(json.dumps(tiny()))
    node = config
    for key in leaf[:-1]:
        node = node[key]
    node[leaf[-1]] = value
    try:
        train.train(config)
    except Exception as error:
        assert users_error(error), "a traceback"
