"""The hardware of a run: device, precision and processes, and the Lightning trainer that uses them."""

import functools
import logging
import os
import platform
import signal
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
from lightning_fabric.utilities import registry
from lightning_fabric.utilities.exceptions import MisconfigurationException
from pydantic import PositiveInt
from pytorch_lightning.utilities import rank_zero_only
from torch import nn

from sourcewise.core.errors import VERBOSE, SourcewiseError
from sourcewise.lightning_modules.scalars import ScalarLogger
from sourcewise.training.ranks import Ranks

Network = TypeVar("Network", bound=nn.Module)

# For every trainer, Lightning looks through all installed packages for callbacks, in 20 ms. A process does so once.
if hasattr(registry, "entry_points"):  # it is no promise of Lightning's
    registry.entry_points = functools.cache(registry.entry_points)


@dataclass(frozen=True)
class Hardware:
    """Settings of the hardware, as conf/trainer explains. On one device, `precision` and `decoding` decide outputs."""

    accelerator: str = "cpu"
    devices: PositiveInt = 1
    strategy: str = "auto"
    precision: Any = "32-true"
    sync_batchnorm: bool = False
    threads: PositiveInt = 1
    channels_last: bool = False
    compile: bool = False
    decoding: Literal["cpu", "gpu"] = "cpu"
    checkpoint_minutes: float | None = None
    ranks: Ranks = field(default_factory=Ranks, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.decoding == "gpu" and self.accelerator not in ("gpu", "cuda"):
            accelerator = f"trainer.accelerator={self.accelerator}"
            raise SourcewiseError(f"trainer.decoding=gpu: {accelerator} is no GPU; add trainer=gpu, or leave it out")
        processes = self._processes()
        if isinstance(processes, LightningEnvironment):  # whatever number Slurm has given to this process
            rank = processes.local_rank() if self.devices > 1 else 0
            rank_zero_only.rank = rank  # type: ignore[attr-defined]  # Lightning keeps it on the function

    @property
    def is_main(self) -> bool:
        """Whether this process writes the record: the first of several under DDP, or the only one."""
        return bool(rank_zero_only.rank == 0)  # type: ignore[attr-defined]

    @property
    def name(self) -> str:
        """The name of the GPU, such as `NVIDIA H200`, or the architecture of the processor, such as `x86_64`."""
        cuda = self.accelerator in ("gpu", "cuda") and torch.cuda.is_available()
        return torch.cuda.get_device_name() if cuda else platform.machine()

    @property
    def device(self) -> torch.device:
        """The device of this process, for which a GPU needs Lightning to say which one."""
        return torch.device("cpu") if self.accelerator == "cpu" else self.trainer(1).strategy.root_device

    def begin(self) -> None:
        """Set the number of threads, and silence warnings that a user cannot act on, unless the command has `-v`."""
        torch.set_num_threads(self.threads)
        if VERBOSE in os.environ:
            return
        for name in ("pytorch_lightning", "lightning_fabric", "lightning"):
            logging.getLogger(name).setLevel(logging.WARNING)
        expected = (
            ".*treespec, LeafSpec.*",
            "The `srun` command is available.*",
            "Found .* in eval mode at the start.*",
        )
        for message in expected:
            warnings.filterwarnings("ignore", message=message)

    def trainer(
        self, epochs: int, logger: ScalarLogger | None = None, callbacks: Sequence[pl.Callback] = ()
    ) -> pl.Trainer:
        """Return a Trainer without checkpoints, bars and summaries. Raises SourcewiseError if Lightning refuses."""
        settings = {name: getattr(self, name) for name in ("accelerator", "devices", "strategy", "precision")}
        try:
            trainer = pl.Trainer(
                callbacks=list(callbacks),
                plugins=self._processes(),
                **settings,
                sync_batchnorm=self.sync_batchnorm,
                max_epochs=epochs,
                logger=logger or False,
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
                use_distributed_sampler=False,
                num_sanity_val_steps=0,
                limit_val_batches=0,
                log_every_n_steps=1,
            )
        except (MisconfigurationException, ValueError, TypeError) as error:
            overrides = " ".join(f"trainer.{name}={value}" for name, value in settings.items())
            raise SourcewiseError(f"{overrides}: {' '.join(str(error).split())}") from error
        self.ranks.adopt(trainer)
        return trainer

    def _processes(self) -> LightningEnvironment | SLURMEnvironment | None:
        """Return what starts the processes of a run: Slurm, if it has a task for each device; None: Lightning decides.

        Left alone, Lightning takes every process under Slurm for one of a distributed run, and requeues jobs by itself.
        """
        if self.devices > 1 and "SLURM_PROCID" in os.environ and os.environ.get("SLURM_NTASKS") == str(self.devices):
            return SLURMEnvironment(auto_requeue=False)
        alone = self.devices == 1 or "SLURM_NTASKS" in os.environ
        return LightningEnvironment() if alone else None

    def prepare(self, network: Network) -> Network:
        """Put the network into the memory format of the settings, compile it if `compile` is set, and return it."""
        if self.channels_last:
            network = network.to(memory_format=torch.channels_last)
        if self.compile:
            network.compile()
        return network


@contextmanager
def interruptible() -> Iterator[None]:
    """Raise KeyboardInterrupt for Ctrl-C and SIGTERM.

    Lightning makes a SystemExit of them, and then ignores Ctrl-C.
    """
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as error:
        signal.signal(signal.SIGINT, handler)
        raise KeyboardInterrupt from error
