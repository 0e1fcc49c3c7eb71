"""The default launcher: every slot of this machine busy, every crash contained, every run exactly once.

It composes all jobs, checks them, and hands them to the sweep's policy (`policy.py`) with a pool of worker processes
(`pool.py`) to do them.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, fields
from functools import cache, partial
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from sourcewise.core import identity, names, settings
from sourcewise.core.errors import RunFailed, SourcewiseError
from sourcewise.core.overrides import names_subset
from sourcewise.core.weights import with_weights
from sourcewise.designs import resolve
from sourcewise.records import source_models
from sourcewise.sweep import devices
from sourcewise.sweep.composition import Composer
from sourcewise.sweep.fingerprints import Reader, ask
from sourcewise.sweep.policy import Sweep, Workers
from sourcewise.sweep.pool import Pool
from sourcewise.sweep.runs import Run
from sourcewise.sweep.slots import Shape
from sourcewise.sweep.status import status_table
from sourcewise.sweep.tasks import beside, load


@dataclass
class LocalLauncher(Launcher):
    """A launcher of one run per slot, in worker processes. The settings: conf/hydra/launcher/local.yaml."""

    slots: Any = "auto"
    task: str = "sourcewise.commands.train:train"
    preload: Sequence[str] = ()
    recycle_after: int = 200
    timeout: float | None = None
    finish_within: float = 120.0
    grace: float = 20.0
    retries: int = 1
    retries_on_error: int = 0
    fail_fast: bool = False
    give_up_after: int | None = 3
    status: bool = False

    _kept = None
    """Where workers are entered that stay; not a setting, hence without a type here."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Keep what Hydra hands to every launcher, and check the settings. Raises SourcewiseError for a wrong one."""
        self._context, self._config = hydra_context, config
        self.fingerprints = Reader(self.task)
        chosen: Any = OmegaConf.to_container(config.hydra.launcher, resolve=True)
        local = {item.name: chosen[item.name] for item in fields(LocalLauncher) if item.name in chosen}
        settings.check_arguments(LocalLauncher, local, "hydra.launcher")

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Do all jobs that are not done. Raises RunFailed at the end if some failed, SystemExit if interrupted."""
        if not job_overrides:
            raise SourcewiseError("the sweep is empty: one of its ranges or lists has no values")
        runs = self.compose(job_overrides, initial_job_idx)
        by_folder: dict[Path, Run] = {}
        for run in runs:
            by_folder.setdefault(run.folder, run)
        if self.status:
            print(status_table(list(by_folder.values()), self.fingerprints))
            return []
        try:
            self.perform(list(by_folder.values()))
        except (RunFailed, SystemExit):
            self.close(list(by_folder.values()))
            raise
        self.close(list(by_folder.values()))
        return [
            JobReturn(run.overrides, status=JobStatus.COMPLETED, _return_value=by_folder[run.folder].value)
            for run in runs
        ]

    def close(self, runs: Sequence[Run]) -> None:
        """Print the last lines of a sweep, if the task has a function for them."""
        done = [run.config for run in runs if run.state == "done"]
        if done and (closing := beside(self.task, "closing")) is not None:
            print(closing(done), flush=True)

    def perform(self, runs: list[Run], label: str = "") -> None:
        """Do the runs, each of another folder, that are not done. label: as in `Sweep`. Raises as `launch` does."""
        Sweep(self, runs, label).run()

    def compose(self, job_overrides: Sequence[Sequence[str]], start: int = 0) -> list[Run]:
        """Return the runs of all jobs: their configs checked at the top, subsets, data and models resolved."""
        compose, kind = Composer(self._context.config_loader, self._config), beside(self.task, "Settings")
        runs, scan = [], cache(source_models.scan)
        for index, overrides in enumerate(job_overrides, start):
            config = compose(overrides)
            if kind is not None:
                settings.check_top_level(kind, config)
            if "subset" in config:
                config["subset"] = resolve(config["subset"])
            config = with_weights(config)
            if identity.is_named_by_data(config) and (contents := self.fingerprints(config)):
                config = identity.with_data(config, contents)
            for chosen in source_models.choose(config, names_subset(overrides), scan):
                line = source_models.overrides(overrides, chosen)
                runs.append(Run(index, chosen, names.run_dir(chosen) / names.LOG, line))
        return runs

    def model_bytes(self, config: names.Config) -> int | None:
        """Return the bytes of a kept model of this config; None where the task has no function for it."""
        function = "model_bytes"
        return None if beside(self.task, function) is None else int(ask(self.task, function, config))

    @contextmanager
    def workers_kept(self) -> Iterator[None]:
        """Keep workers from one `perform` to the next, for what trains in many small steps."""
        with ExitStack() as self._kept:
            self._pools: dict[Shape, Workers] = {}
            yield
        del self._kept

    def pool(self, shape: Shape) -> AbstractContextManager[Workers]:
        """Return workers for runs of this shape."""
        if self._kept is None:
            return self._new_pool(shape)
        if shape not in self._pools:
            self._pools[shape] = self._kept.enter_context(self._new_pool(shape))
        return nullcontext(self._pools[shape])

    def _new_pool(self, shape: Shape) -> Workers:
        several = shape.devices > 1
        for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
            os.environ.setdefault(name, str(shape.threads))
        return Pool(
            partial(devices.run_command, self.task) if several else load(self.task),
            shape.slots(self.slots),
            preload=() if several else list(self.preload),
            recycle_after=self.recycle_after,
            timeout=self.timeout,
            grace=self.grace,
        )
