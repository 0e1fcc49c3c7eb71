"""Records made up for tests, without training."""

from pathlib import Path
from typing import Any

import numpy as np

from sourcewise.designs.random_designs import random
from sourcewise.records import record
from sourcewise.records.record import Header, Record, TargetOutputs

GROUPS = [f"g{i}" for i in range(14)]
CLASSES = ["cat", "dog", "eel"]


def header(**changes: Any) -> Header:
    values: dict[str, Any] = {
        "study": "made-up-0123456789",
        "run": "random-0-seed0-00000000",
        "recipe": "0123456789",
        "config": {"source": {"name": "made-up"}, "subset": {"design": "random", "seed": 0}, "seed": 0},
        "design": "random",
        "subset_seed": 0,
        "seed": 0,
        "group_names": GROUPS,
        "class_names": {"pets": CLASSES},
        "fingerprints": {"made-up": "aa", "pets/test": "bb"},
        "metrics": {"target/pets/accuracy": 0.5},
        "versions": {"torch": "2"},
        "commit": "abc",
        "device": "cpu",
        "seconds": {"pretraining": 1.5},
    }
    values["config"]["subset"]["design"] = changes.get("design", "random")
    return Header(**(values | changes))


def make(seed: int = 0, examples: int = 12, **changes: Any) -> Record:
    """A record whose subset is the random design's and whose outputs are random but the same every time."""
    rng = np.random.default_rng(seed)
    mask = random(GROUPS, 0.5, seed)
    labels = np.arange(examples, dtype=np.int32) % len(CLASSES)
    margin = rng.normal(size=examples).astype(np.float16)
    outputs = TargetOutputs(
        ids=np.arange(examples, dtype=np.int32) * 3,
        labels=labels,
        prediction=np.where(rng.random(examples) < 0.7, labels, 0).astype(np.int32),
        prob=(1 / (1 + np.exp(-margin.astype(np.float64)))).astype(np.float16),
        margin=margin,
    )
    values = {"run": f"random-{seed}-seed0", "subset_seed": seed} | changes
    return Record(mask, {"pets": outputs}, header(**values))


def write_study(folder: Path, count: int, **changes: Any) -> list[Record]:
    """Write `count` records as runs of one study below a folder, and return them."""
    items = [make(seed, **changes) for seed in range(count)]
    for item in items:
        record.write(item, folder / item.header.run / "record.safetensors")
    return items
