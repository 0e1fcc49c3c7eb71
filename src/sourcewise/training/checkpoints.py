"""Going on where a killed run stopped: each stage of training is saved now and then, between two epochs.

Data order, augmentation and dropout of an epoch depend on (seed, epoch) alone. So weights, optimiser, schedule and the
epoch's number are all that a stage needs to go on as if it had never stopped, bit for bit.
"""

import io
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from sourcewise.core.files import write_whole


class Checkpoint(pl.Callback):
    """One stage's file. `restore` before the fit, as a callback during it; `metrics` are those of the last epoch.

    key: what must be equal for a file to be of use; minutes: between two saves, at least; log: takes the scalars of
    every epoch, those of the epochs before a restart too.
    """

    def __init__(self, path: Path, key: str, minutes: float, log: Callable[[Mapping[str, float]], None]) -> None:
        self.path, self.key, self.minutes, self._log = path, key, minutes, log
        self.metrics: dict[str, float] = {}
        self._history: list[dict[str, float]] = []
        self._restored: dict[str, Any] = {}
        self._saved = time.monotonic()

    def log(self, scalars: Mapping[str, float]) -> None:
        """Pass scalars on, and remember them."""
        self._history.append(dict(scalars))
        self._log(scalars)

    def restore(self, module: pl.LightningModule) -> int:
        """Bring the module to where it was; the number of epochs that are done."""
        try:
            found = torch.load(self.path, map_location="cpu", weights_only=True)
            if found["key"] != self.key:
                raise ValueError("it is of other settings or another version")
        except FileNotFoundError:
            return 0
        except Exception as error:  # torch has no exception of its own for a broken file
            print(f"{self.path} is left aside: {str(error).partition('. ')[0]}", file=sys.stderr, flush=True)
            return 0
        module.load_state_dict(found["module"])
        for scalars in found["history"]:
            self.log(scalars)
        self.metrics, self._restored = found["metrics"], found
        print(f"{found['stage']}: going on after {found['epoch']} epochs", file=sys.stderr, flush=True)
        return int(found["epoch"])

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Bring all else to where it was."""
        for name, part in _parts(trainer).items():
            if self._restored:
                part.load_state_dict(self._restored[name])
        self._restored = {}

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save what the epochs before have come to, if it is time."""
        if trainer.current_epoch and time.monotonic() - self._saved >= 60 * self.minutes:
            self._save(trainer, pl_module)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save the end of a stage that was long enough to be saved before: what follows it may be killed, too."""
        self.metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        if self.path.exists():
            self._save(trainer, pl_module)

    def _save(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._saved = time.monotonic()
        if not trainer.is_global_zero:
            return
        state: dict[str, Any] = {"key": self.key, "stage": trainer.loggers[0].name, "epoch": trainer.current_epoch}
        state |= {"history": self._history, "metrics": self.metrics, "module": module.state_dict()}
        state |= {name: part.state_dict() for name, part in _parts(trainer).items()}
        content = io.BytesIO()
        try:
            torch.save(state, content)
            write_whole(self.path, content.getvalue())
        except OSError as error:
            print(f"{self.path} cannot be saved, training goes on: {error}", file=sys.stderr, flush=True)


def _parts(trainer: pl.Trainer) -> dict[str, Any]:
    """Return the objects beside the module that have a state."""
    (schedule,) = trainer.lr_scheduler_configs
    return {"optimiser": trainer.optimizers[0], "schedule": schedule.scheduler, "precision": trainer.precision_plugin}
