"""`hydra/launcher=slurm`: the same sweep, its runs done by the tasks of a Slurm job array, which submitit submits.

For the sweep's policy (`policy.py`), Slurm is just another kind of workers: the policy decides what is skipped, tried
again, waited for and reported.
"""

from dataclasses import fields
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from sourcewise.core.errors import SourcewiseError
from sourcewise.sweep.launcher import LocalLauncher
from sourcewise.sweep.slots import Shape
from sourcewise.sweep.slurm_array import Array, Task


class SlurmLauncher(LocalLauncher):
    """A launcher of one array task for every `runs_per_task` runs. The settings: conf/hydra/launcher/slurm.yaml."""

    def __init__(self, runs_per_task: int = 1, poll: float = 10.0, **settings: Any) -> None:
        self.runs_per_task, self.poll = runs_per_task, poll
        self.local = {item.name: settings.pop(item.name) for item in fields(LocalLauncher) if item.name in settings}
        self.sbatch = {name: value for name, value in settings.items() if value is not None}
        super().__init__(**self.local)

    def pool(self, shape: Shape) -> Array:
        """Return the job arrays that do runs of this shape."""
        slots = self.slots
        if slots == "auto" and shape.accelerator == "cpu":
            slots = max(1, self.sbatch.get("cpus_per_task", 0) // shape.threads)
        local = LocalLauncher(**{**self.local, "slots": slots})
        return Array(self.executor, Task(local, shape), self.runs_per_task if shape.devices == 1 else 1, self.poll)

    def executor(self, folder: Path, shape: Shape) -> Any:
        """Return submitit's executor, with the settings and the defaults of hydra-submitit-launcher.

        Raises SourcewiseError without Slurm or these packages.
        """
        defaults = {"name": "sourcewise", "tasks_per_node": shape.devices, "cpus_per_task": shape.threads}
        if shape.accelerator in ("gpu", "cuda") and not self.sbatch.keys() & {"gres", "gpus_per_task"}:
            # All tasks of a run see all its GPUs: Lightning picks one by rank.
            defaults["gpus_per_node"] = shape.devices
        try:
            import submitit
            from hydra_plugins.hydra_submitit_launcher.config import BaseQueueConf, SlurmQueueConf

            settings: Any = OmegaConf.merge(OmegaConf.structured(SlurmQueueConf), defaults, self.sbatch)
            executor = submitit.AutoExecutor(folder, "slurm", slurm_max_num_timeout=settings.max_num_timeout)
        except (ImportError, RuntimeError) as error:
            message = "hydra/launcher=slurm needs Slurm's commands and pip install 'sourcewise[slurm]'"
            raise SourcewiseError(f"{message}: {error}") from error
        settings = OmegaConf.to_container(settings)
        for name in ("_target_", "submitit_folder", "max_num_timeout"):
            del settings[name]
        settings["additional_parameters"] = {"requeue": True, **settings["additional_parameters"]}
        settings["srun_args"] = ["--kill-on-bad-exit=1", f"--cpus-per-task={settings['cpus_per_task']}"]
        shared = {item.name for item in fields(BaseQueueConf)}
        executor.update_parameters(**{n if n in shared else f"slurm_{n}": value for n, value in settings.items()})
        return executor
