"""Records of models whose outputs have planted effects, without training."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import fake_records as records
import numpy as np
from fake_records import GROUPS
from scipy.special import logit

from sourcewise.records.record import Record
from sourcewise.report.summary import Summary, summarise
from sourcewise.study.collect import collect
from sourcewise.study.influences import estimate

EXAMPLES = 120


def models(count: int, effect: np.ndarray, **changes: Any) -> list[Record]:
    """Records of random subsets whose `prob` is 0.5 plus float[examples, groups] of the groups kept, plus noise."""
    return [plant(records.make(seed, examples=len(effect), **changes), effect, seed) for seed in range(count)]


def plant(item: Record, effect: np.ndarray, seed: int) -> Record:
    """The record with outputs that follow from these effects, and the noise of this seed."""
    noise = 0.04 * np.random.default_rng([7, seed]).normal(size=len(effect))
    prob = np.clip(0.5 + effect @ (item.mask - 0.5) + noise, 0, 1)
    outputs = item.targets["pets"]
    prediction = np.where(prob > 0.5, outputs.labels, (outputs.labels + 1) % 3).astype(np.int32)
    margin = logit(np.clip(prob, 1e-4, 1 - 1e-4)).astype(np.float16)
    outputs = replace(outputs, prob=prob.astype(np.float16), prediction=prediction, margin=margin)
    return replace(item, targets={"pets": outputs})


def without(group: int, runs: int, effect: np.ndarray) -> list[Record]:
    """Runs of a listed design that keep all groups but one (-1: all)."""
    mask = np.arange(len(GROUPS)) != group
    design = "full" if group < 0 else "listed"
    config = {"source": {"name": "made-up"}, "subset": {"design": design}, "seed": 0}
    items = [records.make(0, examples=len(effect)) for _ in range(runs)]
    headers = [replace(item.header, design=design, config=config, seed=900 + i) for i, item in enumerate(items)]
    return [
        plant(replace(item, mask=mask, header=header), effect, 1000 * (group + 2) + i)
        for i, (item, header) in enumerate(zip(items, headers, strict=True))
    ]


def planted_effects() -> np.ndarray:
    """Of class 0, every other example leans on g2 and the rest on g5; class 1 leans on g7; example 4 is hurt by g9."""
    effect = np.zeros((EXAMPLES, len(GROUPS)))
    label = np.arange(EXAMPLES) % 3
    effect[(label == 0) & (np.arange(EXAMPLES) % 2 == 0), 2] = 0.12
    effect[(label == 0) & (np.arange(EXAMPLES) % 2 == 1), 5] = 0.12
    effect[label == 1, 7] = 0.12
    effect[4, 9] = -0.3
    return effect


@cache
def planted_summary() -> Summary:
    """The summary of a study of these effects, with runs of the full source and runs without g9."""
    planted = planted_effects()
    study = collect([*models(80, planted), *without(-1, 8, planted), *without(9, 4, planted)])
    return summarise(study, estimate(study, "ridge"), [], 0.05)
