"""Make the stores of images that a config needs, before a sweep does: each is made once, and kept.

python prepare.py source=imagenet 'target=[aircraft,pets]'
"""

from typing import Any

import hydra
from hydra.utils import instantiate
from omegaconf import DictConfig

from sourcewise import cli
from train import SETTINGS


def prepare(config: dict[str, Any]) -> None:
    """Build the datasets of a resolved config, and print what they are. Raises SourcewiseError when one is missing."""
    parts = {"source": config["source"]["train"]}
    for name, target in config["target"].items():
        parts |= {f"{name}/train": target["train"], f"{name}/test": target["test"]}
    for part in parts.values():  # what is missing should be known before hours go into what is there
        if part["_target_"] == "sourcewise.data.load.load":
            instantiate(part["dataset"], _convert_="all").stamp()
    for name, part in parts.items():
        dataset = instantiate(part, _convert_="all")
        print(f"{name}: {len(dataset)} images of {len(dataset.class_names)} classes, {dataset.fingerprint}")


@hydra.main(version_base="1.3", config_path="conf", config_name="train")
def main(config: DictConfig) -> None:
    """Prepare a composed config."""
    with cli.errors():
        prepare(cli.resolve(config, SETTINGS))


if __name__ == "__main__":
    with cli.errors():
        main()
