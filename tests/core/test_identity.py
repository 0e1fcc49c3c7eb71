"""What a study is: its data by content, wherever they lie; and whether two configs are of one run."""

from typing import Any

import pytest
from conftest import compose_config

from sourcewise.core import identity, names

FOLDERS = ("experiment=folders", "source.root={0}/S", "target.imagefolder.root={0}/T")
CONTENTS = {
    "imagefolder": "aa",
    "imagefolder/train": "bb",
    "imagefolder/test": "cc",
    "digits/train": "d",
    "digits/test": "e",
}


def folders(root: str, *overrides: str) -> dict[str, Any]:
    return compose_config(*(text.format(root) for text in FOLDERS), *overrides)


def test_a_study_is_named_by_the_content_of_its_data_and_not_by_their_place() -> None:
    here, there = (identity.with_data(folders(root), CONTENTS) for root in ("/here", "/mnt/there"))
    assert names.recipe(here) == names.recipe(there)
    assert names.run_dir(here) == names.run_dir(there)
    for dataset in ("imagefolder", "imagefolder/train", "imagefolder/test"):
        changed = identity.with_data(folders("/here"), {**CONTENTS, dataset: "changed"})
        before, after = names.study_name(here), names.study_name(changed)
        assert before.rpartition("-")[0] == after.rpartition("-")[0]
        assert before != after
        assert names.run_name(here) == names.run_name(changed)


def test_data_are_resolved_once_and_for_all_and_only_where_the_setting_is() -> None:
    config = folders("/here", "target=[imagefolder,digits]")
    resolved = identity.with_data(config, CONTENTS)
    assert config["source"]["data"] is None
    assert identity.with_data(resolved, CONTENTS) == resolved
    assert names.data(resolved).keys() == {"source", "target.imagefolder"}
    assert resolved["target"]["digits"] == config["target"]["digits"]
    assert names.data(identity.without_data(resolved)) == {}
    assert identity.changed_sections(resolved, CONTENTS) == []
    assert identity.changed_sections(resolved, {**CONTENTS, "imagefolder/test": "x"}) == ["target.imagefolder"]
    assert identity.changed_sections(config, CONTENTS) == []  # not resolved


def test_only_data_of_a_section_leave_the_recipe() -> None:
    config = folders("/here")
    config["source"]["train"]["dataset"]["data"] = "a setting of a loader of the user's"
    assert names.recipe(config)["source"]["train"]["dataset"]["data"]


def test_a_file_of_groups_counts_by_its_content_where_data_do() -> None:
    one, two = (folders("/here", f"source.groups={place}/g.csv") for place in ("/a", "/b"))
    assert names.recipe(one) == names.recipe(two)
    assert names.recipe(one) != names.recipe(folders("/here"))
    embedded = compose_config("source.groups=/a/g.csv")
    assert names.recipe(embedded)["source"]["groups"] == "/a/g.csv"  # as ever: it has no `data`


@pytest.mark.parametrize(
    ("overrides", "named", "on_disk"),
    [
        ((), False, False),
        (("source.groups=example",), False, False),
        (("source.groups=g.csv",), False, True),
        (("source=cifar10",), False, True),
        (("target=[digits,pets]",), False, True),
        (("source=imagefolder", "source.root=/S"), True, True),
        (("target=[table]", "target.table.root=/T"), True, True),
    ],
)
def test_which_data_may_change(overrides: tuple[str, ...], named: bool, on_disk: bool) -> None:
    config = compose_config(*overrides)
    assert (identity.is_named_by_data(config), identity.lies_on_disk(config)) == (named, on_disk)


def test_the_datasets_that_differ_are_named() -> None:
    recorded = {"birds": "a", "pets/train": "b", "pets/test": "c"}
    assert identity.differing(recorded, recorded, "birds") == []
    assert identity.differing({**recorded, "birds": "x", "pets/test": "y"}, recorded, "birds") == [
        "source",
        "pets/test",
    ]
    assert identity.differing({}, recorded, "birds") == ["source", "pets/train", "pets/test"]


def test_two_configs_of_one_run() -> None:
    run = identity.with_data(folders("/here"), CONTENTS)
    old = folders("/there", "source.data=/there/S", "study=renamed", "runs_dir=elsewhere")
    assert identity.is_same_run(old, run)
    for other in ("subset.seed=1", "seed=1", "model.width=8", "target=[imagefolder,digits]"):
        assert not identity.is_same_run(folders("/here", other), run)
    for strange in ({}, {"source": 1, "trainer": []}, {**run, "target": None}, {**run, "subset": "x"}):
        assert not identity.is_same_run(strange, run)
