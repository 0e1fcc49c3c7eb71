"""Train source models and record what they say of the targets.

One run:  python train.py
A sweep:  python train.py -m 'subset.seed=range(0,96)'
"""

from functools import partial
from typing import Any

import hydra
from omegaconf import DictConfig

from sourcewise import cli, study

SETTINGS = ("source", "target", "subset", "model", "transfer", "trainer", "logger", "seed", "runs_dir", "study")


def train(config: dict[str, Any]) -> dict[str, float]:
    """One run from a resolved config; its metrics. Writes the record, unless it is there already.

    Raises SourcewiseError for bad input, RunFailed when training diverges, Claimed when someone else is doing the run.
    """
    # Heavy imports wait until there is something to train: --help and finished sweeps need none of them.
    from hydra.utils import instantiate

    from sourcewise import checkpoints, claims, record
    from sourcewise.run import Run

    folder = study.run_dir(config)
    path = folder / study.RECORD
    if study.is_done(folder):
        return dict(record.read(path).header.metrics)
    built = ("source", "target", "model", "trainer", "logger")
    source, targets, model, hardware, tracker = instantiate([config[name] for name in built], _convert_="all")
    start = partial(Run, source, targets, model, hardware, config["subset"], config["seed"])
    if not hardware.is_main:  # under DDP, one process speaks for the run
        return dict(start().execute(config).header.metrics)
    with claims.claim(folder) as lease:
        if study.is_done(folder):  # by someone else, a moment ago
            return dict(record.read(path).header.metrics)
        with tracker.start(folder.name, folder.parent.name, config) as tracked:
            result = start(tracked.log).execute(config)
            tracked.summarise(result.header.metrics)
            tracked.save(record.to_bytes(result), study.RECORD)
            lease.check()
            record.write(result, path)
            checkpoints.clear(folder)
    return dict(result.header.metrics)


@hydra.main(version_base="1.3", config_path="conf", config_name="train")
def main(config: DictConfig) -> None:
    """One run of a composed config."""
    with cli.errors():
        resolved = cli.resolve(config, SETTINGS)
        cli.say_metrics(study.run_dir(resolved), train(resolved))


if __name__ == "__main__":
    with cli.errors():
        main()
