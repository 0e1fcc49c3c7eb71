"""One run of a sweep: its folder, what has become of it, and the state of its record."""

import shlex
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

LOG = "log.txt"
INTERRUPTED = "interrupted"


@dataclass
class Run:
    """One run of a sweep and what has become of it.

    state: missing (to be done), running, leased (by another process), done, failed, stopped, or changed (its record is
    of other data); `cause` says why.
    """

    index: int
    overrides: list[str]
    config: dict[str, Any]
    folder: Path
    state: str = "missing"
    cause: str = ""
    value: Any = None
    failures: Counter[str] = field(default_factory=Counter)
    again: float = 0.0

    @property
    def log(self) -> Path:
        """The file that takes all that the run prints, tracebacks too."""
        return self.folder / LOG

    @property
    def name(self) -> str:
        """The run's overrides, as one would type them."""
        return shlex.join(word for word in self.overrides if not word.startswith("hydra.")) or "(no overrides)"
