"""What W&B shows of a run, and what can be read back from it."""

from typing import Any

import numpy as np
import pytest
from conftest import compose_config
from fake_records import GROUPS
from hypothesis import given
from hypothesis import strategies as st

from sourcewise.core import names
from sourcewise.records import browsing


def keys(value: Any) -> set[str]:
    """The keys of all mappings in a setting."""
    if not isinstance(value, dict):
        return set()
    return set(value).union(*map(keys, value.values()))


def test_a_config_in_wandb_has_no_logger_no_places_and_each_transfer_once() -> None:
    folders = ("experiment=folders", "source.root=/secret/S", "target.imagefolder.root=/secret/T")
    config = compose_config(*folders, "logger=wandb", "runs_dir=/secret/R")
    shown = browsing.shown_config(config)
    assert not keys(shown) & {"logger", "runs_dir", "root", "cache_dir"}
    assert "transfer" in shown
    assert all("transfer" not in target for target in shown["target"].values())
    full = browsing.full_config(shown)
    assert names.recipe(full) == names.recipe(config)
    assert names.run_name(full) == names.run_name(config)


def test_a_target_with_a_transfer_of_its_own_keeps_it() -> None:
    config = compose_config("target=[digits]", "target.digits.transfer.lr=0.7")
    shown = browsing.shown_config(config)
    assert shown["target"]["digits"]["transfer"]["lr"] == 0.7
    assert names.recipe(browsing.full_config(shown)) == names.recipe(config)
    assert browsing.full_config(config) == config  # as older runs show it


def test_the_tags_of_a_run_are_design_source_and_targets() -> None:
    assert browsing.tags(compose_config("subset=full")) == ["full", "characters", "digits"]
    assert browsing.tags({"overrides": ["a=1"]}) == []
    (tag,) = browsing.tags({"target": {"x" * 100: {}}})
    assert len(tag) == 64  # W&B refuses a longer one, and the run with it


@given(st.data())
def test_a_subset_reads_back_as_it_was(data: st.DataObject) -> None:
    groups = data.draw(st.lists(st.text(max_size=8), min_size=1, max_size=20, unique=True))
    mask = np.array(data.draw(st.lists(st.booleans(), min_size=len(groups), max_size=len(groups))))
    for given_names in (groups, None):
        shown = browsing.shown_subset(mask, given_names)
        found, found_names = browsing.read_subset(shown)
        assert np.array_equal(found, mask)
        assert found_names == given_names
        assert shown["subset/size"] == mask.sum()


def test_kept_groups_are_names_unless_these_are_too_long() -> None:
    mask = np.arange(len(GROUPS)) % 2 == 0
    assert browsing.shown_subset(mask, GROUPS)["subset/kept"] == GROUPS[::2]
    assert "subset/mask" not in browsing.shown_subset(mask, GROUPS)
    many = [f"{name}{'x' * 2000}" for name in GROUPS]
    shown = browsing.shown_subset(mask, many)
    assert shown.keys() == {"subset/groups", "subset/size", "subset/mask"}


def test_the_subset_of_an_older_run_is_read() -> None:
    mask = np.arange(len(GROUPS)) % 3 == 0
    old = {"subset/groups": len(GROUPS), "subset/mask": np.packbits(mask).tobytes().hex(), "subset/names": GROUPS}
    found, found_names = browsing.read_subset(old)
    assert np.array_equal(found, mask)
    assert found_names == GROUPS


@pytest.mark.parametrize(
    "summary",
    [
        {},
        {"subset/kept": ["a"], "subset/groups": 2},
        {"subset/kept": ["c"], "subset/names": ["a", "b"], "subset/groups": 2},
        {"subset/kept": ["a"], "subset/names": ["a", "b"], "subset/groups": 3},
        {"subset/kept": [["a"]], "subset/names": ["a", "b"], "subset/groups": 2},
        {"subset/kept": 5, "subset/names": ["a", "b"], "subset/groups": 2},
        {"subset/mask": "zz", "subset/groups": 2},
    ],
)
def test_a_summary_without_a_subset_is_refused(summary: dict[str, Any]) -> None:
    with pytest.raises((KeyError, TypeError, ValueError)):
        browsing.read_subset(summary)
