"""Every config file composes, and every `_target_` in it takes the settings that it is given."""

import inspect
from collections.abc import Iterator
from typing import Any

import pytest
from conftest import ROOT, compose_config
from hydra.utils import get_object

CHOICES = sorted(
    (path.parent.name, path.stem)
    for group in ("source", "target", "subset", "model", "transfer", "trainer", "logger", "experiment", "proxy")
    for path in (ROOT / "conf" / group).glob("*.yaml")
    if not path.stem.startswith(("base", "named"))
)


def targets(node: Any, where: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    if isinstance(node, dict):
        if "_target_" in node:
            yield where, node
        for key, value in node.items():
            yield from targets(value, f"{where}.{key}")


def option(group: str, name: str) -> tuple[str, ...]:
    """The overrides that choose an option, with all that it needs."""
    values = {"listed": ["subset.drop=[A]"], "ranked": ["subset.ranking=a.csv", "subset.remove=1"]}.get(name, [])
    if name == "folders":
        values = ["source.root=/data/source"] * (group == "experiment") + ["target.imagefolder.root=/data/target"]
    if name in ("imagefolder", "table", "huggingface"):
        values = ["source.root=/data" if group == "source" else f"target.{name}.root=/data"]
    return (f"{group}={[name] if group == 'target' else name}", *values)


OPTIONS = [option(group, name) for group, name in CHOICES]


@pytest.mark.parametrize("overrides", OPTIONS, ids=lambda overrides: overrides[0])
def test_config_binds_to_what_it_builds(overrides: tuple[str, ...]) -> None:
    config = compose_config(*overrides)
    found = list(targets(config))
    assert len(found) >= 6
    for where, node in found:
        signature = inspect.signature(get_object(node["_target_"]))
        arguments = {key: value for key, value in node.items() if key not in ("_target_", "_partial_")}
        try:
            (signature.bind_partial if node.get("_partial_") else signature.bind)(**arguments)
        except TypeError as error:
            pytest.fail(f"{where}: {error}")


@pytest.mark.parametrize(("named", "plain"), [("named_folder", "folders"), ("named_imagefolder", "imagefolder")])
def test_several_folders_are_targets_under_names_of_their_own(named: str, plain: str) -> None:
    start = ("experiment=folders", "source.root=/s")
    more = [
        word for name in ("birds", "pets") for word in (f"+target@target.{name}={named}", f"target.{name}.root=/{name}")
    ]
    targets = compose_config(*start, "target=[]", *more)["target"]
    alone = compose_config(*start, f"target=[{plain}]", "target.imagefolder.root=/birds")["target"]["imagefolder"]
    for target in (*targets.values(), alone):
        del target["train"]["dataset"]["obtain"], target["test"]["dataset"]["obtain"]
    assert targets["birds"] == alone
    assert targets["pets"]["train"]["dataset"]["root"] == "/pets"


def test_every_config_says_what_it_is() -> None:
    for path in (ROOT / "conf").rglob("*.yaml"):
        assert path.read_text().startswith("# "), path


def test_a_proxy_cheapens_any_recipe_and_the_user_has_the_last_word() -> None:
    for recipe in ((), ("experiment=photographs",), ("source=cifar10", "model=resnet9")):
        full, proxy = compose_config(*recipe), compose_config(*recipe, "proxy=short")
        assert (full["source"]["pretraining"].pop("length"), full["subset"].pop("fraction")) == (1.0, 0.5)
        assert (proxy["source"]["pretraining"].pop("length"), proxy["subset"].pop("fraction")) == (0.3333, 0.25)
        del proxy["proxy"]
        assert proxy == full
    assert compose_config("proxy=short", "subset.fraction=0.4")["subset"]["fraction"] == 0.4
    assert compose_config("proxy=short", "proxy.epochs=0.5")["source"]["pretraining"]["length"] == 0.5
    assert compose_config("proxy=short", "subset=full")["subset"] == {"design": "full"}


def test_an_experiment_has_the_last_word() -> None:
    assert compose_config("experiment=demo")["runs_dir"] == "outputs/demo/runs"
    assert compose_config("experiment=demo", "runs_dir=elsewhere")["runs_dir"] == "elsewhere"
