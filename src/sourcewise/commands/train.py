"""Train source models and record their outputs on the targets.

One run:  python train.py
A sweep:  python train.py -m 'subset.seed=range(0,96)'
"""

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Literal

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig
from pydantic import NonNegativeInt

from sourcewise.commands.cli import CONFIGS, answer_version, resolve
from sourcewise.commands.closing import closing
from sourcewise.commands.datasets import build, fingerprints, model_bytes, resolve_data
from sourcewise.core import exits, identity, names, settings
from sourcewise.core.errors import SourcewiseError
from sourcewise.core.overrides import check_targets, names_as_typed, names_subset, recipe_overrides
from sourcewise.designs import resolve as resolve_subset
from sourcewise.records import source_models, wandb_tracker
from sourcewise.sweep.composition import Composer, chooses_transfers

if TYPE_CHECKING:
    from sourcewise.records.record import Record
    from sourcewise.sweep.belonging import Look

__all__ = ["Settings", "closing", "fingerprints", "model_bytes", "train"]


@dataclass(frozen=True)
class Settings:
    """The keys and types at the top of conf/train.yaml."""

    source: Mapping[str, Any]
    target: Mapping[str, Mapping[str, Any]]
    subset: Mapping[str, Any]
    model: Mapping[str, Any]
    transfer: Mapping[str, Any]
    trainer: Mapping[str, Any]
    logger: Mapping[str, Any]
    seed: NonNegativeInt
    runs_dir: str
    proxy: Mapping[str, Any] | None = None
    study: str | None = None
    only: Literal["prepare", "dry_run"] | None = None
    retrain: bool = False
    keep_model: Literal["float32", "bfloat16"] | bool | None = None
    models: str | None = None
    search: Mapping[str, Any] | None = None


def train(config: dict[str, Any], overrides: Sequence[str] | None = None) -> dict[str, float]:
    """Do one run of a resolved config and write its record, unless it is there already; return its metrics.

    overrides: those of the command line, of which the record keeps the ones that choose the recipe; None if there was
        no command line.

    Raises SourcewiseError for bad input, and for a record of other data unless `retrain` says what to do with it;
    RunFailed when training diverges; Leased when another process is doing the run.
    """
    # Heavy imports wait until there is something to train: --help and finished sweeps need none of them.
    from sourcewise.records import record
    from sourcewise.sweep import leases
    from sourcewise.sweep.belonging import set_aside
    from sourcewise.training.run import Run
    from sourcewise.training.settings import dataset_fingerprints

    if config.get("only"):
        raise SourcewiseError(f"only={config['only']} is for one command, not for a sweep: leave out -m")
    folder = names.run_dir(config)
    if (existing := _look(folder, config)).record is not None:
        return _done(existing.record, folder, config)
    settings.check_config(config)
    # Targets first: a missing one should be reported before a source's images are made into a store.
    built = ("target", "source", "model", "trainer", "logger")
    targets, source, model, hardware, tracker = build({name: config[name] for name in built}).values()
    if changed := identity.changed_sections(config, dataset_fingerprints(source, targets)):
        raise SourcewiseError(
            f"the data changed while the sweep ran: {', '.join(changed)}; the same command trains the data of now, in a"
            " study of their own"
        )
    start = partial(Run, source, targets, model, hardware, config["subset"], config["seed"])
    recipe = None if overrides is None else recipe_overrides(overrides)
    if not hardware.is_main:  # under DDP, one process speaks for the run
        return dict(start().execute(config, recipe).header.metrics)
    with leases.lease(folder) as lease:
        if (existing := _look(folder, config)).record is not None:  # by another process, a moment ago
            return _done(existing.record, folder, config)
        if existing.state != "missing":
            set_aside(folder, existing)
        with tracker.start(folder.name, folder.parent.name, config) as tracked:
            with hardware.ranks.watched(lease.release):
                result = start(tracked.log).execute(config, recipe)
            lease.check()
            record.write(result, folder / names.RECORD)
            tracked.record(result)
    return dict(result.header.metrics)


def _look(folder: Path, config: dict[str, Any]) -> "Look":
    """Return whose record lies in a run's folder. Raises SourcewiseError for one that a user should decide about."""
    from sourcewise.sweep.belonging import changed_data, look

    existing = look(folder, config, fingerprints)
    if existing.state in ("damaged", "unusable"):
        raise SourcewiseError(existing.detail)
    if existing.state == "changed" and not config.get("retrain"):
        raise changed_data(1, 1, folder, existing.detail)
    return existing


def _done(result: "Record", folder: Path, config: dict[str, Any]) -> dict[str, float]:
    """Return the metrics of a complete run. A W&B agent that asked for it still gets a W&B run with its record."""
    from hydra.utils import instantiate

    if wandb_tracker.under_agent():
        with instantiate(config["logger"]).start(folder.name, folder.parent.name, config) as tracked:
            tracked.record(result)
    return dict(result.header.metrics)


def prepare_or_try(config: dict[str, Any]) -> None:
    """Do what `only` asks for in place of a run: make the stores of images, or print the plan and try it on noise."""
    from sourcewise.commands import dry_run

    settings.check_config(config)
    if config["only"] == "prepare":
        dry_run.prepare(config)
        return
    print(dry_run.plan(config))
    with TemporaryDirectory() as folder:
        metrics = train(dry_run.shrunk({**config, "only": None}, folder))
    print(f"two steps of each stage on noise: all {len(config['target'])} targets done, {len(metrics)} metrics")


def _resolve(config: DictConfig, overrides: Sequence[str]) -> dict[str, Any]:
    """Return a composed config as plain containers, with the targets of all transfers that the command line lists."""
    if not chooses_transfers(overrides):
        return resolve(config, Settings)
    master: Any = HydraConfig.instance().cfg
    resolved = Composer(GlobalHydra.instance().config_loader(), master)(overrides)
    settings.check_top_level(Settings, resolved)
    return resolved


def _with_model(config: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Return a config with the one kept source model that it means, if it has `models`. Raises SourcewiseError."""
    chosen = source_models.choose(config, names_subset(overrides))
    if len(chosen) > 1:
        raise SourcewiseError(
            f"models={config['models']}: there are {len(chosen)} source models of this recipe: -m takes all of them;"
            " subset.seed=..., seed=... or the folder of a run chooses one"
        )
    return chosen[0]


def _print_metrics(folder: Path, metrics: Mapping[str, float]) -> None:
    """Print where a run's record is and its metrics, from the main process of the run."""
    if os.environ.get("LOCAL_RANK", "0") != "0":
        return
    print(folder)
    for name, value in metrics.items():
        print(f"  {name:<40} {value:.4f}")


@hydra.main(version_base="1.3", config_path=CONFIGS, config_name="train")
def _main(config: DictConfig) -> None:
    """Train one run of a composed config; a sweep's runs are the launcher's."""
    with exits.errors():
        overrides = list(HydraConfig.get().overrides.task) if HydraConfig.initialized() else None
        resolved = _resolve(config, overrides or ())
        resolved["subset"] = resolve_subset(resolved["subset"])
        if resolved["search"] and not resolved["only"]:
            raise SourcewiseError("search: it needs -m: python train.py -m experiment=search")
        if resolved["only"]:
            prepare_or_try(resolved)
        else:
            resolved = _with_model(resolve_data(resolved), overrides or ())
            metrics = train(resolved, overrides)
            _print_metrics(names.run_dir(resolved), metrics)


def main() -> None:
    """Run the command: `python train.py`, `sourcewise-train`."""
    with exits.errors(), wandb_tracker.answering_agent():
        answer_version()
        check_targets(sys.argv[1:], Path(CONFIGS, "target"))
        sys.argv[1:] = names_as_typed(sys.argv[1:])
        _main()
