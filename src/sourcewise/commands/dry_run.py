"""Before a sweep: make its stores of images; print what a config would run; make it small, to try it on noise."""

import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from hydra.utils import instantiate
from PIL import Image

from sourcewise.commands.datasets import LOAD, build, parts, require_data
from sourcewise.core import names
from sourcewise.core.identity import dataset_names, without_data
from sourcewise.core.messages import print_once
from sourcewise.core.names import Config
from sourcewise.data import ImageDataset, checks
from sourcewise.data.store import Listing
from sourcewise.designs import find_design
from sourcewise.training.hardware import Hardware
from sourcewise.training.run import Run
from sourcewise.training.settings import trained_epochs

BATCH = 8
CLASSES = 40
"""Classes whose numbers of images are printed."""


def prepare(config: Config) -> None:
    """Make the stores of a resolved config's images, print what is in them, and check all that needs no training.

    Raises SourcewiseError when data are missing, or when source, targets, groups, subset or model do not fit together.
    """
    require_data(config)
    source, targets = build(config["source"], "source"), dict[str, Any]()
    _print_contents("source", source.train)
    if source.groups != "class":
        sizes = np.bincount(source.train.groups.numpy())
        print(f"  {len(sizes)} groups by {source.groups}, of {sizes.min()} to {sizes.max()} images")
    for target, node in config["target"].items():
        targets[target] = build(node, f"target.{target}")
        for part, name in dataset_names(target).items():
            _print_contents(name, getattr(targets[target], part))
    for _, node in parts(config).values():
        if node.get("_target_") == LOAD:
            for note in instantiate(node["dataset"], _convert_="all").listing().notes:
                print_once(note)  # unless a store was just made, and said so
    run = Run(source, targets, build(config["model"], "model"), Hardware(), config["subset"], config["seed"])
    for note in run.notes:
        print(note)
    run.initial_model()


def _print_contents(name: str, dataset: ImageDataset) -> None:
    """Print how many images a dataset has, and how many each class has; of many classes, those of some."""
    print(f"{name}: {len(dataset)} images of {len(dataset.class_names)} classes, {dataset.fingerprint}")
    counts = checks.counts(dataset)
    shown = [f"{name} {count}" for name, count in counts[:CLASSES]]
    if len(counts) > CLASSES:
        numbers = [count for _, count in counts]
        shown.append(f"... {len(counts) - CLASSES} more classes; all have {min(numbers)} to {max(numbers)}")
    text = ", ".join(shown)
    print(textwrap.fill(text, 100, initial_indent="  ", subsequent_indent="  ", break_long_words=False))


def plan(config: Config) -> str:
    """Return what a run of the resolved config does, with a line for each stage."""
    source, lines = config["source"], [f"study {names.study_name(config)}"]
    stages = {f"source {source['name']}": (source, source["pretraining"])}
    stages |= {f"target {name}": (target, target["transfer"]) for name, target in config["target"].items()}
    for name, (section, method) in stages.items():
        number = section["train"].get("num_classes")
        classes, metric = f"{number} classes" if number else "", section.get("metric", "")
        training = f" {method['_target_'].rpartition('.')[2].lower()}"
        if "epochs" in method:
            epochs = trained_epochs(method["epochs"], method.get("length", 1.0))
            training = f"{epochs:>4} epochs of batches of {method['batch_size']}, lr {method['lr']}"
        lines.append(f"  {name:<22}{classes:>13}{training} {metric}")
    return "\n".join(lines)


@dataclass(frozen=True)
class Noise:
    """A loader of `count` images of noise, a little larger than `side`, with labels of all classes.

    seed: tells apart the images of a source or training set and those of a test set.
    """

    count: int
    classes: int
    side: int
    seed: int = 0

    def stamp(self) -> str:
        """Return nothing: there are no files that could change."""
        return ""

    def listing(self) -> Listing:
        """Return a listing in which all images differ."""

        def picture(row: int) -> Image.Image:
            noise = np.random.default_rng([self.seed, row]).integers(0, 256, (8, 8, 3), np.uint8)
            return Image.fromarray(noise).resize((self.side + self.side // 4, self.side + row))

        names = tuple(map(str, range(self.classes)))
        return Listing(picture, np.arange(self.count) * self.classes // self.count, names)


def shrunk(config: Config, folder: str) -> dict[str, Any]:
    """Return the resolved config of a small run below `folder`, with other data, epochs, batch sizes and devices.

    Every stage takes two steps. The source has twice the images that targets have, since a subset keeps about half, and
    no more classes than images. The names of groups and chosen subsets are replaced, because noise has none of them.
    """
    config = without_data(config)
    source, subset = _small(config["source"], 4 * BATCH, folder), config["subset"]
    if config["source"]["train"].get("_target_") == LOAD:
        noise = source["train"]["dataset"]
        source["train"]["num_classes"] = noise["classes"] = min(noise["classes"], noise["count"])
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
        **dict.fromkeys(names.KEEPING),
    }


def _small(node: Any, count: int, folder: str, classes: int = 10, seed: int = 0) -> Any:
    if isinstance(node, list):
        return [_small(item, count, folder, classes) for item in node]
    if not isinstance(node, Mapping):
        return node
    classes = 2 if node.get("metric") == "auroc" else classes
    small = {key: _small(value, count, folder, classes, int(key == "test")) for key, value in node.items()}
    if node.get("_target_") == LOAD:
        noise = {"count": count, "classes": node["num_classes"] or classes, "side": node["side"], "seed": seed}
        small |= {"dataset": {"_target_": "sourcewise.commands.dry_run.Noise", **noise}}
        small |= {"per_class": None, "rest": False, "cache_dir": folder}
    if "batch_size" in node:
        lr = node["lr"]
        small |= {"epochs": 1, "batch_size": BATCH, "lr": lr[0] if isinstance(lr, list) else lr}
    return small
