"""One run of a sweep: its folder, what has become of it, and the state of its record."""

import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

INTERRUPTED = "interrupted"


@dataclass(eq=False)
class Run:
    """One run of a sweep and what has become of it.

    config, overrides: the arguments of the task. log: the file in the run's folder that takes all that it prints,
    tracebacks too. state: missing (to be done), running, leased (by another process), done, failed, stopped, or changed
    (its record is of other data); `cause` says why. next_look: when a leased run is looked at again, by this process's
    clock. is_probe: whether it began after another one had failed.
    """

    index: int
    config: Mapping[str, Any]
    log: Path
    overrides: Sequence[str] = ()
    state: str = "missing"
    cause: str = ""
    value: Any = None
    failures: Counter[str] = field(default_factory=Counter)
    next_look: float = 0.0
    is_probe: bool = False

    @property
    def folder(self) -> Path:
        """The run's folder."""
        return self.log.parent

    @property
    def name(self) -> str:
        """The run's overrides, as one would type them."""
        return shlex.join(word for word in self.overrides if not word.startswith("hydra.")) or "(no overrides)"
