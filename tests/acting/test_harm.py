"""Harm is told from being less useful than the average group, by models of the full source."""

from __future__ import annotations

from planted_models import models, planted_effects, without

from sourcewise.acting.harm import harmful_groups
from sourcewise.study.collect import collect
from sourcewise.study.influences import estimate


def test_less_useful_than_average_is_not_harm() -> None:
    planted = planted_effects()
    random = models(80, planted)
    alone, with_full = collect(random), collect([*random, *without(-1, 8, planted)])
    dataset = estimate(with_full, "ridge")["pets"].dataset
    negative = (dataset["influence_overall"] < 0) & (dataset["qvalue_overall"] <= 0.05)
    assert int(negative.sum()) >= 8  # of groups that do nothing, too
    assert dataset.attrs["reference"] == "the average group"
    harmful = harmful_groups(with_full, "pets", dataset, 0.05)
    assert harmful is not None
    assert "g9" in harmful
    assert len(harmful) <= 2
    assert harmful_groups(alone, "pets", dataset, 0.05) is None


def test_groups_that_hurt_are_named_the_worst_first() -> None:
    planted = planted_effects()
    planted[:, 3] -= 0.1
    planted[:, 4] -= 0.05
    study = collect([*models(80, planted), *without(-1, 8, planted)])
    harmful = harmful_groups(study, "pets", estimate(study, "ridge")["pets"].dataset, 0.05)
    assert harmful is not None
    assert harmful[:2] == ("g3", "g4")
