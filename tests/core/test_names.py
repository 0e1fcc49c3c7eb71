"""Names of studies and runs: which settings count, and a golden list of studies that must keep their names."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import ROOT, Compose, compose_config

from sourcewise.core import names
from sourcewise.core.errors import SourcewiseError

GOLDEN: dict[str, str] = json.loads((Path(__file__).parent / "golden_studies.json").read_text())
"""The study's name by overrides of train.py."""


@pytest.mark.parametrize("overrides", GOLDEN)
def test_studies_keep_their_names(overrides: str) -> None:
    # If this fails, sweeps train everything again, and new records do not join old ones: CONTRIBUTING.md says what to do.
    assert names.study_name(compose_config(*shlex.split(overrides))) == GOLDEN[overrides]


def test_studies_of_different_recipes_have_different_names() -> None:
    same = {"", "experiment=demo", "subset=hadamard subset.seed=3"}  # other subsets, or another runs_dir
    assert len({GOLDEN[overrides] for overrides in same}) == 1
    assert len(set(GOLDEN.values())) == len(GOLDEN) - len(same) + 1


def test_subset_and_seeds_do_not_change_the_study_but_name_the_run(tiny: Compose) -> None:
    base = tiny()
    for override in ("subset.seed=5", "seed=3", "subset=full", "subset.fraction=0.25"):
        changed = tiny(override)
        assert names.study_name(changed) == names.study_name(base)
        assert names.run_name(changed) != names.run_name(base)


def test_a_proxy_is_a_study_of_its_own(tiny: Compose) -> None:
    proxies = ("", "proxy=short", "proxy=short_halves", "proxy=quarters", "proxy=quarters proxy.fraction=0.3")
    studies = [names.study_name(tiny(*shlex.split(proxy))) for proxy in proxies]
    assert len(set(studies)) == len(studies)
    assert "-quarters-" in studies[3]
    assert names.study_name(tiny("study=mine", "proxy=short")).startswith("mine-short-")


def test_what_decides_outputs_changes_the_study(tiny: Compose) -> None:
    base = names.study_name(tiny())
    for override in (
        "model.width=8",
        "source.pretraining.lr=0.1",
        "transfer.batchnorm=adapting",
        "trainer.precision=64-true",
        "trainer.devices=2",
    ):
        assert names.study_name(tiny(override)) != base, override


def test_what_does_not_decide_outputs_keeps_both_names(tiny: Compose) -> None:
    base = tiny()
    for override in ("trainer.threads=2", "trainer.sync_batchnorm=true", "logger=wandb", "transfer.epochs=3.0"):
        changed = tiny(override)
        assert (names.study_name(changed), names.run_name(changed)) == (names.study_name(base), names.run_name(base)), (
            override
        )


def test_a_study_can_be_given_a_readable_name(tiny: Compose) -> None:
    name = names.study_name(tiny("study='my study: first/try'"))
    assert name.startswith("my_study_first_try-")


def test_where_data_lie_and_how_they_are_read_is_not_part_of_the_recipe() -> None:
    base, moved = (
        names.recipe(compose_config("source=photographs", f"source.root=/{place}", f"source.train.cache_dir=/{place}"))
        for place in ("here", "there")
    )
    assert base == moved
    assert "/there" not in json.dumps(moved)


def renamed(node: Any, old: str, new: str) -> Any:
    """The config with every `_target_` that begins with `old` in another place."""
    if isinstance(node, dict):
        return {
            key: value.replace(old, new, 1) if key == "_target_" else renamed(value, old, new)
            for key, value in node.items()
        }
    return [renamed(value, old, new) for value in node] if isinstance(node, list) else node


def test_our_code_may_move_and_that_of_others_may_not() -> None:
    config = compose_config("model=resnet9", "source=photographs")
    assert "sourcewise" not in json.dumps(names.recipe(config))
    for place in ("sourcewise.elsewhere.", "lightning_modules.", "hydra_plugins.sourcewise."):
        moved = renamed(config, "sourcewise.lightning_modules.", place)
        assert moved != config
        assert names.study_name(moved) == names.study_name(config)
    for place in ("theirs.", "sourcewise_fork.", "my.sourcewise."):
        assert names.study_name(renamed(config, "sourcewise.", place)) != names.study_name(config)


def targets(node: Any) -> set[str]:
    if isinstance(node, dict):
        own = {node["_target_"]} if "_target_" in node else set()
        return own.union(*(targets(value) for value in node.values()))
    return set().union(*map(targets, node)) if isinstance(node, list) else set()


def test_no_two_of_our_configurable_objects_share_a_name() -> None:
    # The recipe names them without their modules.
    configured = set[str]()
    for path in (*ROOT.glob("conf/**/*.yaml"), *ROOT.glob("benchmarks/conf/**/*.yaml")):
        configured |= targets(yaml.safe_load(path.read_text(encoding="utf-8")))
    ours = {target for target in configured if target.startswith("sourcewise.") and "${" not in target}
    assert len(ours) > 20
    short = {target.rpartition(".")[2] for target in ours}
    assert len(short) == len(ours)
    # Nor with any other class or function of the wings that have them, which a user's config may name.
    tops = [
        (name, path)
        for wing in ("data", "training", "lightning_modules", "records", "designs")
        for path in (ROOT / "src/sourcewise" / wing).glob("*.py")
        for name in re.findall(r"^(?:class|def) ([A-Za-z]\w*)", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    ]
    assert short <= {name for name, _ in tops}
    for name in short:
        assert len([path for top, path in tops if top == name]) == 1, name


def places(node: Any, parts: list[str]) -> list[tuple[dict[str, Any], str]]:
    """Where a row of LATER is in a config: mappings, and the key in each."""
    first, *rest = parts
    if not rest:
        return [(node, first)]
    return [place for key in (node if first == "*" else [first]) for place in places(node[key], rest)]


@pytest.mark.parametrize("setting", names.LATER)
def test_a_setting_that_came_later_counts_only_when_it_differs_from_its_default(setting: str) -> None:
    overrides = ("target=[digits,pets]", "model=torchvision")  # which has all of them
    base, without, changed = (compose_config(*overrides) for _ in range(3))
    found = places(base, setting.split("."))
    assert len(found) == (2 if "*" in setting else 1)
    assert all(node[key] == names.LATER[setting] for node, key in found), "the default is another one"
    for node, key in places(without, setting.split(".")):
        del node[key]
    assert names.study_name(without) == names.study_name(base)
    for node, key in places(changed, setting.split("."))[-1:]:
        node[key] = "another value"
    assert names.study_name(changed) != names.study_name(base)


def test_older_configs_name_their_transfer_by_its_mode(tiny: Compose) -> None:
    config = tiny("transfer=full")
    older = {**config, "target": {"digits": {**config["target"]["digits"], "transfer": {"mode": "full"}}}}
    assert names.study_name(older).startswith("characters-digits-small_cnn-full-")


def test_naming_is_light() -> None:
    code = "import sys; from sourcewise.core import names; print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "hydra", "omegaconf", "numpy", "pydantic"} & set(modules)


def test_settings_of_a_target_that_is_not_chosen_are_named() -> None:
    config = compose_config("experiment=photographs", "source.root=/data", "target=[digits]")
    with pytest.raises(SourcewiseError, match=r"^target\.imagefolder: it has settings.* ~target\.imagefolder$"):
        names.study_name(config)
