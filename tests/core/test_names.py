import pytest
from conftest import Compose

from sourcewise.core import names
from sourcewise.core.hashing import fingerprint


def test_subset_and_seeds_do_not_change_the_study_but_name_the_run(tiny: Compose) -> None:
    base = tiny()
    for override in ("subset.seed=5", "seed=3", "subset=full", "subset.fraction=0.25"):
        other = tiny(override)
        assert names.study_name(other) == names.study_name(base)
        assert names.run_name(other) != names.run_name(base)


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
        other = tiny(override)
        assert (names.study_name(other), names.run_name(other)) == (names.study_name(base), names.run_name(base)), (
            override
        )


def test_a_study_can_be_given_a_readable_name(tiny: Compose) -> None:
    name = names.study_name(tiny("study='my study: first/try'"))
    assert name.startswith("my_study_first_try-")


def test_paths_are_not_part_of_the_recipe() -> None:
    assert names._decisive({"a": [{"root": "/x", "b": 1}], "num_workers": 3}, "source") == {"a": [{"b": 1}]}


@pytest.mark.parametrize(
    ("one", "two", "same"), [(1, 1.0, True), (0.1, 0.1000001, False), ("1", 1, False), (True, 1, False)]
)
def test_fingerprint_takes_equal_settings_for_equal(one: object, two: object, same: bool) -> None:
    assert (fingerprint({"x": one}) == fingerprint({"x": two})) == same
