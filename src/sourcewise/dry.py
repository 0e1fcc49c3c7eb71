"""A config made small: the same run, on noise of the right shapes and two steps a stage, with no data and no GPU."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image

from sourcewise.data.store import Listing
from sourcewise.study import Config

BATCH = 8


@dataclass(frozen=True)
class Noise:
    """A loader of `count` images a little larger than `side`, of labels spread over all classes."""

    count: int
    classes: int
    side: int

    def stamp(self) -> str:
        """Nothing lies on disk."""
        return ""

    def listing(self) -> Listing:
        """Each image is another."""

        def picture(row: int) -> Image.Image:
            noise = np.random.default_rng(row).integers(0, 256, (8, 8, 3), np.uint8)
            return Image.fromarray(noise).resize((self.side + self.side // 4, self.side + row))

        names = tuple(map(str, range(self.classes)))
        return Listing(picture, np.arange(self.count) * self.classes // self.count, names)


def shrunk(config: Config, folder: str) -> dict[str, Any]:
    """The resolved config of a run that keeps all but its data, epochs, batch sizes and devices, below `folder`.

    Of a source, twice the images that targets have: a subset keeps about half.
    """
    accelerator = config["trainer"]["accelerator"] if torch.cuda.is_available() else "cpu"
    hardware = {"accelerator": accelerator, "devices": 1, "strategy": "auto"}
    return {
        **config,
        "source": _small(config["source"], 4 * BATCH, folder),
        "target": _small(config["target"], 2 * BATCH, folder),
        "trainer": {**config["trainer"], **hardware},
        "logger": {"_target_": "sourcewise.tracking.NoTracker"},
        "runs_dir": folder,
    }


def _small(node: Any, count: int, folder: str) -> Any:
    if isinstance(node, list):
        return [_small(item, count, folder) for item in node]
    if not isinstance(node, Mapping):
        return node
    made = {key: _small(value, count, folder) for key, value in node.items()}
    if node.get("_target_") == "sourcewise.data.load.load":
        noise = {"count": count, "classes": node["num_classes"] or 10, "side": node["side"]}
        made |= {"dataset": {"_target_": "sourcewise.dry.Noise", **noise}}
        made |= {"per_class": None, "rest": False, "cache_dir": folder}
    if "batch_size" in node:
        lr = node["lr"]
        made |= {"epochs": 1, "batch_size": BATCH, "lr": lr[0] if isinstance(lr, list) else lr}
    return made
