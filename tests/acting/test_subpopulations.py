"""Subpopulations of classes, on made-up models with planted truth."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import xarray as xr
from planted_models import planted_summary

from sourcewise.acting import subpopulations
from sourcewise.estimation.collapse import collapse
from sourcewise.estimation.estimators import ESTIMATORS, ridge


def test_a_class_is_split_along_the_groups_that_its_examples_lean_on() -> None:
    summary = planted_summary()
    (split,) = summary.targets["pets"].subpopulations.splits
    assert split.class_name == "cat"
    assert {part.group for part in split.parts} == {"g2", "g5"}
    for part in split.parts:
        rows = np.array(part.examples) // 3
        assert len(rows) == 20
        assert set(rows % 2) == {0 if part.group == "g2" else 1}
        of_others = -0.12 / 13  # with subsets of one size, influences are relative to the mean of the other groups
        assert part.influence == pytest.approx(0.12 - of_others, abs=4 * part.stderr)


def test_groups_that_set_parts_apart_are_named() -> None:
    summary = planted_summary()
    assert summary.targets["pets"].groups_to_show == {"g2", "g5"}
    assert replace(summary.targets["pets"], subpopulations=None).groups_to_show == set()


def test_noise_is_not_split() -> None:
    rng = np.random.default_rng(1)
    for trial in range(5):
        masks = rng.random((80, 14)) < 0.5
        outputs = 0.5 + 0.3 * masks[:, :1] * np.linspace(0.5, 1, 60) + 0.1 * rng.normal(size=(80, 60))
        whole = collapse(masks, outputs)
        halves = whole.take(np.arange(40)), whole.take(np.arange(40, 80))
        tables = [ridge(part.moments()).influence for part in (*halves, whole)]
        assert subpopulations.split_class("", xr.Dataset(), tables, halves[1], ESTIMATORS["ridge"], 0.05) is None, trial
