"""Before a sweep: make its stores of images; say what a config would run; make it small, to try it on noise."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image

from sourcewise.commands.datasets import LOAD, built
from sourcewise.core import names
from sourcewise.core.identity import without_data
from sourcewise.core.names import Config
from sourcewise.data.store import Listing
from sourcewise.designs import find_design

BATCH = 8


def prepare(config: Config) -> None:
    """Build the datasets of a resolved config, and print what they are. Raises SourcewiseError when one is missing."""
    for name, dataset in built(config):
        part = "source" if name == config["source"]["name"] else name
        print(f"{part}: {len(dataset)} images of {len(dataset.class_names)} classes, {dataset.fingerprint}")


def plan(config: Config) -> str:
    """Return what a run of the resolved config does, with a line for each stage."""
    source, lines = config["source"], [f"study {names.study_name(config)}"]
    stages = {f"source {source['name']}": (source, source["pretraining"])}
    stages |= {f"target {name}": (target, target["transfer"]) for name, target in config["target"].items()}
    for name, (data, how) in stages.items():
        number = data["train"].get("num_classes")
        classes, metric = f"{number} classes" if number else "", data.get("metric", "")
        training = f" {how['_target_'].rpartition('.')[2].lower()}"
        if "epochs" in how:
            training = f"{how['epochs']:>4} epochs of batches of {how['batch_size']}, lr {how['lr']}"
        lines.append(f"  {name:<22}{classes:>13}{training} {metric}")
    return "\n".join(lines)


@dataclass(frozen=True)
class Noise:
    """A loader of `count` images of noise, a little larger than `side`, with labels of all classes."""

    count: int
    classes: int
    side: int

    def stamp(self) -> str:
        """Return nothing: there are no files that could change."""
        return ""

    def listing(self) -> Listing:
        """Return a listing in which all images differ."""

        def picture(row: int) -> Image.Image:
            noise = np.random.default_rng(row).integers(0, 256, (8, 8, 3), np.uint8)
            return Image.fromarray(noise).resize((self.side + self.side // 4, self.side + row))

        names = tuple(map(str, range(self.classes)))
        return Listing(picture, np.arange(self.count) * self.classes // self.count, names)


def shrunk(config: Config, folder: str) -> dict[str, Any]:
    """Return the resolved config of a small run below `folder`, with other data, epochs, batch sizes and devices.

    Every stage takes two steps. The source has twice the images that targets have, since a subset keeps about half. The
    names of groups and chosen subsets are replaced, because noise has none of them.
    """
    config = without_data(config)
    source, subset = _small(config["source"], 4 * BATCH, folder), config["subset"]
    if config["source"]["train"].get("_target_") == LOAD:
        source["groups"] = source["groups"] if source["groups"] in ("class", "example") else "class"
        if find_design(subset["design"]).names_groups:
            subset = {"design": "random", "fraction": 0.5, "seed": 0}
    accelerator = config["trainer"]["accelerator"] if torch.cuda.is_available() else "cpu"
    hardware = {"accelerator": accelerator, "devices": 1, "strategy": "auto"}
    return {
        **config,
        "source": source,
        "subset": subset,
        "target": _small(config["target"], 2 * BATCH, folder),
        "trainer": {**config["trainer"], **hardware},
        "logger": {"_target_": "sourcewise.records.tracker.NoTracker"},
        "runs_dir": folder,
    }


def _small(node: Any, count: int, folder: str, classes: int = 10) -> Any:
    if isinstance(node, list):
        return [_small(item, count, folder, classes) for item in node]
    if not isinstance(node, Mapping):
        return node
    classes = 2 if node.get("metric") == "auroc" else classes
    made = {key: _small(value, count, folder, classes) for key, value in node.items()}
    if node.get("_target_") == LOAD:
        noise = {"count": count, "classes": node["num_classes"] or classes, "side": node["side"]}
        made |= {"dataset": {"_target_": "sourcewise.commands.dry_run.Noise", **noise}}
        made |= {"per_class": None, "rest": False, "cache_dir": folder}
    if "batch_size" in node:
        lr = node["lr"]
        made |= {"epochs": 1, "batch_size": BATCH, "lr": lr[0] if isinstance(lr, list) else lr}
    return made
