"""Train source models and record what they say of the targets.

One run:  python train.py
A sweep:  python train.py -m 'subset.seed=range(0,96)'
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import hydra
from omegaconf import DictConfig
from pydantic import NonNegativeInt

from sourcewise.commands import CONFIGS, cli
from sourcewise.core import names, settings
from sourcewise.core.errors import SourcewiseError
from sourcewise.designs import resolve
from sourcewise.records import agents


@dataclass(frozen=True)
class Settings:
    """What conf/train.yaml holds at its top."""

    source: Mapping[str, Any]
    target: Mapping[str, Mapping[str, Any]]
    subset: Mapping[str, Any]
    model: Mapping[str, Any]
    transfer: Mapping[str, Any]
    trainer: Mapping[str, Any]
    logger: Mapping[str, Any]
    seed: NonNegativeInt
    runs_dir: str
    study: str | None = None
    only: Literal["prepare", "dry_run"] | None = None


def train(config: dict[str, Any]) -> dict[str, float]:
    """One run from a resolved config; its metrics. Writes the record, unless it is there already.

    Raises SourcewiseError for bad input, RunFailed when training diverges, Claimed when someone else is doing the run.
    """
    # Heavy imports wait until there is something to train: --help and finished sweeps need none of them.
    from hydra.utils import instantiate

    from sourcewise.records import record
    from sourcewise.sweep import leases as claims
    from sourcewise.training.run import Run

    if config.get("only"):
        raise SourcewiseError(f"only={config['only']} is for one command, not for a sweep: leave out -m")
    folder = names.run_dir(config)
    if names.is_done(folder):
        return _done(folder, config)
    settings.check_config(config)
    # Targets first: a missing one should be told before a source's images are made into a store.
    built = ("target", "source", "model", "trainer", "logger")
    targets, source, model, hardware, tracker = instantiate([config[name] for name in built], _convert_="all")
    start = partial(Run, source, targets, model, hardware, config["subset"], config["seed"])
    if not hardware.is_main:  # under DDP, one process speaks for the run
        return dict(start().execute(config).header.metrics)
    with claims.claim(folder) as lease:
        if names.is_done(folder):  # by someone else, a moment ago
            return _done(folder, config)
        with tracker.start(folder.name, folder.parent.name, config) as tracked:
            result = start(tracked.log).execute(config)
            lease.check()
            record.write(result, folder / names.RECORD)
            tracked.record(result)
    return dict(result.header.metrics)


def _done(folder: Path, config: dict[str, Any]) -> dict[str, float]:
    """Metrics of a complete run. A W&B agent that asked for it gets a W&B run all the same, with the same record."""
    from hydra.utils import instantiate

    from sourcewise.records import record

    result = record.read(folder / names.RECORD)
    if agents.under_agent():
        with instantiate(config["logger"]).start(folder.name, folder.parent.name, config) as tracked:
            tracked.record(result)
    return dict(result.header.metrics)


def rehearse(config: dict[str, Any]) -> None:
    """What `only` asks for in place of a run: make the stores of images, or say what would run and try it on noise."""
    from sourcewise.commands import dry_run as rehearsal

    settings.check_config(config)
    if config["only"] == "prepare":
        rehearsal.prepare(config)
        return
    print(rehearsal.plan(config))
    with TemporaryDirectory() as folder:
        metrics = train(rehearsal.shrunk({**config, "only": None}, folder))
    print(f"two steps of each stage on noise: all {len(config['target'])} targets done, {len(metrics)} metrics")


@hydra.main(version_base="1.3", config_path=CONFIGS, config_name="train")
def _main(config: DictConfig) -> None:
    """Train one run of a composed config; a sweep's runs are the launcher's."""
    with cli.errors():
        resolved = cli.resolve(config, Settings)
        resolved["subset"] = resolve(resolved["subset"])
        if resolved["only"]:
            rehearse(resolved)
        else:
            cli.say_metrics(names.run_dir(resolved), train(resolved))


def main() -> None:
    """Run the command: `python train.py`, `sourcewise-train`."""
    with cli.errors(), agents.answering_agent():
        _main()
