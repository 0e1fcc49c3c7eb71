"""What a run needs of a machine, and how many such runs a machine has room for."""

import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Any

from sourcewise.core.errors import SourcewiseError


@dataclass(frozen=True)
class Shape:
    """What a run needs: an accelerator, a number of devices, and threads for each device."""

    accelerator: str = "cpu"
    devices: int = 1
    threads: int = 1

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "Shape":
        """Return what the `trainer` settings of a run ask for. Raises SourcewiseError for what is no number."""
        trainer = config.get("trainer") or {}
        devices, threads = (trainer.get(name, 1) for name in ("devices", "threads"))
        for name, value in (("devices", devices), ("threads", threads)):
            if not isinstance(value, int) or value < 1:
                raise SourcewiseError(f"trainer.{name}={value}: a sweep needs a number of {name} per run")
        return cls(str(trainer.get("accelerator", "cpu")), devices, threads)

    def slots(self, wanted: Any) -> list[dict[str, str]]:
        """Return the environment of every slot.

        wanted: the setting `hydra.launcher.slots`: auto, a number of slots, or lists of GPUs. Raises SourcewiseError
        for another value, and for GPUs that the machine does not have.
        """
        gpus = visible_gpus() if self.accelerator in ("auto", "gpu", "cuda") else []
        if self.accelerator in ("gpu", "cuda") and len(gpus) < self.devices:
            raise SourcewiseError(
                f"trainer.accelerator={self.accelerator} trainer.devices={self.devices}: "
                f"this machine has {len(gpus)} GPUs"
            )
        groups = [gpus[i : i + self.devices] for i in range(0, len(gpus) - self.devices + 1, self.devices)]
        if wanted == "auto":
            count = len(groups) or max(1, cores() // (self.devices * self.threads))
        elif type(wanted) is int and wanted > 0:
            count = wanted
        elif isinstance(wanted, Sequence) and not isinstance(wanted, str) and len(wanted):
            groups = [[str(gpu) for gpu in ([group] if isinstance(group, int) else group)] for group in wanted]
            if any(len(group) != self.devices for group in groups):
                raise SourcewiseError(
                    f"hydra.launcher.slots={wanted}: every slot needs {self.devices} GPUs, as trainer.devices says"
                )
            count = len(groups)
        else:
            raise SourcewiseError(
                f"hydra.launcher.slots={wanted}: give auto, a number, or lists of GPUs as [[0,1],[2,3]]"
            )
        if not groups:
            return [{} for _ in range(count)]
        return [{"CUDA_VISIBLE_DEVICES": ",".join(group)} for group in islice(cycle(groups), count)]


def visible_gpus() -> list[str]:
    """Return the machine's GPUs as CUDA_VISIBLE_DEVICES names them, without using CUDA: workers need it untouched."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return [gpu.strip() for gpu in chosen.split(",") if gpu.strip() not in ("", "-1")]
    try:
        listing = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=True, timeout=60).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    return [str(number) for number, _ in enumerate(line for line in listing.splitlines() if line.startswith("GPU "))]


def cores() -> int:
    """Return how many cores this process may use: by its affinity, its container's quota and Slurm's allocation."""
    from joblib import cpu_count

    allocated = os.environ.get("SLURM_CPUS_PER_TASK", "")
    return min(cpu_count(), int(allocated)) if allocated.isdecimal() else int(cpu_count())
