"""A Lightning logger that hands every scalar to a function, so that modules and trainers need not know who listens."""

from collections.abc import Callable, Mapping
from typing import Any

from pytorch_lightning.loggers.logger import Logger
from pytorch_lightning.utilities import rank_zero_only


class ScalarLogger(Logger):
    """Calls `write({prefix/name: value})` for what a stage logs, with the epoch (from 1) as `prefix/epoch`."""

    def __init__(self, write: Callable[[Mapping[str, float]], None], prefix: str) -> None:
        super().__init__()
        self._write, self._prefix = write, prefix

    @property
    def name(self) -> str:
        """The name of the stage."""
        return self._prefix

    @property
    def version(self) -> str:
        """Empty: scalars have no versions here."""
        return ""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Pass the scalars on."""
        values = {name: value for name, value in metrics.items() if name != "epoch"}
        epoch = metrics.get("epoch", 0) + 1
        self._write({f"{self._prefix}/{name}": value for name, value in {**values, "epoch": epoch}.items()})

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing: the tracker keeps the config."""
