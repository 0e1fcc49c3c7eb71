"""Checkpoints of the stages of training, from which a killed run is resumed, to the same bytes.

Data order, augmentation and dropout of an epoch depend on (seed, epoch) alone. So a stage needs only the weights, the
states of optimiser and schedule, and the number of the epoch.
"""

import io
import signal
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from sourcewise.core.exits import SAVE_AND_STOP
from sourcewise.core.files import write_atomically


class Checkpoint(pl.Callback):
    """The checkpoint of one stage, in one file. Call `restore` before a fit that has it as a callback.

    path: the file. key: a checkpoint with another key is ignored. minutes: the least time between two saves, which are
    made between epochs. log: takes the scalars of every epoch, those of the epochs before a restart too. `metrics`
    holds the metrics of the last epoch, once training has ended.

    A run that is asked to stop (`exits.SAVE_AND_STOP`) is saved after the epoch, and interrupted.
    """

    def __init__(self, path: Path, key: str, minutes: float, log: Callable[[Mapping[str, float]], None]) -> None:
        self.path, self.key, self.minutes, self._log = path, key, minutes, log
        self.metrics: dict[str, float] = {}
        self._history: list[dict[str, float]] = []
        self._restored: dict[str, Any] = {}
        self._saved = time.monotonic()

    def log(self, scalars: Mapping[str, float]) -> None:
        """Pass scalars on, and remember them for the checkpoint."""
        self._history.append(dict(scalars))
        self._log(scalars)

    def restore(self, module: pl.LightningModule) -> int:
        """Give the module the weights of the checkpoint, if there is one; return the number of epochs that are done.

        A file that cannot be used is ignored, with a line on stderr.
        """
        try:
            state = torch.load(self.path, map_location="cpu", weights_only=True)
            if state["key"] != self.key:
                raise ValueError("it was made with other settings or another version")
        except FileNotFoundError:
            return 0
        except Exception as error:  # torch has no exception of its own for a broken file
            print(f"{self.path} is left aside: {str(error).partition('. ')[0]}", file=sys.stderr, flush=True)
            return 0
        module.load_state_dict(state["module"])
        for scalars in state["history"]:
            self.log(scalars)
        self.metrics, self._restored = state["metrics"], state
        print(f"{state['stage']}: going on after {state['epoch']} epochs", file=sys.stderr, flush=True)
        return int(state["epoch"])

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Give optimiser, schedule and precision the states of the checkpoint."""
        for name, part in _parts(trainer).items():
            if self._restored:
                part.load_state_dict(self._restored[name])
        self._restored = {}

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save the state after the epochs before, if the last save was long enough ago, or if the run is to stop."""
        if trainer.current_epoch and (_is_to_stop() or time.monotonic() - self._saved >= 60 * self.minutes):
            self._save(trainer, pl_module)
        if _is_to_stop():
            raise KeyboardInterrupt

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save the end of a stage that was saved before, as the stages after it may be killed too."""
        self.metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        if self.path.exists() or _is_to_stop():
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
            write_atomically(self.path, content.getvalue())
        except OSError as error:
            print(f"{self.path} cannot be saved, training goes on: {error}", file=sys.stderr, flush=True)


def _is_to_stop() -> bool:
    return SAVE_AND_STOP in signal.sigpending()


def _parts(trainer: pl.Trainer) -> dict[str, Any]:
    """Return the objects beside the module that have a state."""
    (schedule,) = trainer.lr_scheduler_configs
    return {"optimiser": trainer.optimizers[0], "schedule": schedule.scheduler, "precision": trainer.precision_plugin}
