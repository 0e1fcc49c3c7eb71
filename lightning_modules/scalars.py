"""A Lightning logger that hands every scalar to a function, so that modules and trainers need not know who listens."""

from collections.abc import Callable, Mapping
from typing import Any

from pytorch_lightning.loggers.logger import Logger
from pytorch_lightning.utilities import rank_zero_only


class ScalarLogger(Logger):
    """Calls `write({stage/train/name: value})` for what training logs, with the epoch (from 1) as `stage/train/epoch`.

    passes: epochs in one of Lightning's.
    """

    def __init__(self, write: Callable[[Mapping[str, float]], None], stage: str, passes: int = 1) -> None:
        super().__init__()
        self._write, self._stage, self._passes = write, stage, passes

    @property
    def name(self) -> str:
        """The name of the stage."""
        return self._stage

    @property
    def version(self) -> str:
        """Empty: scalars have no versions here."""
        return ""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Pass the scalars on."""
        values = {**metrics, "epoch": self._passes * (metrics.get("epoch", 0) + 1)}
        self._write({f"{self._stage}/train/{name}": value for name, value in values.items()})

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing: the tracker keeps the config."""
