"""Make the stores of images that a config needs, before a sweep does: each is made once, and kept.

python prepare.py source=imagenet 'target=[aircraft,pets]'
"""

import hydra
from omegaconf import DictConfig

from sourcewise import cli
from train import SETTINGS


@hydra.main(version_base="1.3", config_path="conf", config_name="train")
def main(config: DictConfig) -> None:
    """Build the datasets of a composed config, and say what they are."""
    with cli.errors():
        resolved = cli.resolve(config, SETTINGS)
        parts = {"source": resolved["source"]["train"]}
        for name, target in resolved["target"].items():
            parts |= {f"{name}/train": target["train"], f"{name}/test": target["test"]}
        for name, part in parts.items():
            dataset = hydra.utils.instantiate(part, _convert_="all")
            print(f"{name}: {len(dataset)} images of {len(dataset.class_names)} classes, {dataset.fingerprint}")


if __name__ == "__main__":
    with cli.errors():
        main()
