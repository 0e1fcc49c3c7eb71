"""Shows that a config works before there are data or a GPU: what it would run, then two steps of each stage on noise.

python dry_run.py experiment=imagenet_paper
"""

from tempfile import TemporaryDirectory
from typing import Any

import hydra
from omegaconf import DictConfig

from sourcewise import cli, dry, settings, study, subsets
from train import SETTINGS, train


def plan(config: dict[str, Any]) -> str:
    """What a run of the resolved config does, a line a stage."""
    source, lines = config["source"], [f"study {study.study_name(config)}"]
    stages = {f"source {source['name']}": (source, source["pretraining"])}
    stages |= {f"target {name}": (target, target["transfer"]) for name, target in config["target"].items()}
    for name, (data, how) in stages.items():
        number = data["train"].get("num_classes")
        classes, metric = f"{number} classes" if number else "", data.get("metric", "")
        epochs = f"{how['epochs']:>4} epochs of batches of {how['batch_size']}"
        lines.append(f"  {name:<22}{classes:>13}{epochs}, lr {how['lr']} {metric}")
    return "\n".join(lines)


@hydra.main(version_base="1.3", config_path="conf", config_name="train")
def main(config: DictConfig) -> None:
    """Print the plan of a composed config, and run it small."""
    with cli.errors(), TemporaryDirectory() as folder:
        resolved = cli.resolve(config, SETTINGS)
        settings.check(resolved)
        print(plan(resolved))
        metrics = train(dry.shrunk({**resolved, "subset": subsets.settled(resolved["subset"])}, folder))
        print(f"two steps of each stage on noise: all {len(resolved['target'])} targets done, {len(metrics)} metrics")


if __name__ == "__main__":
    with cli.errors():
        main()
