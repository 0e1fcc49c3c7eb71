"""Weights & Biases: the only module that imports wandb, and only when a run is tracked."""

import netrc
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlparse

from sourcewise.errors import SourcewiseError


class TrackedRun(Protocol):
    """What a run tells its tracker while it goes on."""

    def log(self, scalars: Mapping[str, float]) -> None:
        """Add a point to the scalar history."""

    def summarise(self, metrics: Mapping[str, float]) -> None:
        """Set the scalars of the run's summary."""

    def figure(self, name: str, figure: Any) -> None:
        """Log a plotly figure."""

    def save(self, content: bytes | Path, name: str) -> None:
        """Keep a file with the run, as run file `name`."""


class Tracker(Protocol):
    """Starts tracked runs."""

    def start(self, name: str, study: str, config: Mapping[str, Any], job: str = "run") -> Any:
        """A context manager that yields a TrackedRun and ends it with the true exit status."""


@dataclass(frozen=True)
class NoTracker:
    """Tracks nothing."""

    @contextmanager
    def start(self, name: str, study: str, config: Mapping[str, Any], job: str = "run") -> Iterator[TrackedRun]:
        """A run that listens to nothing."""
        yield _Silent()


@dataclass(frozen=True)
class WandbTracker:
    """Every run is a W&B run: config, scalars, group = study, the record as a run file; see conf/logger/wandb.yaml."""

    project: str = "sourcewise"
    entity: str | None = None
    mode: str = "auto"
    tags: list[str] = field(default_factory=list)
    dir: str = "runs"

    def __post_init__(self) -> None:
        if self.mode not in ("auto", "online", "offline"):
            raise SourcewiseError(f"logger.mode={self.mode}: choose auto, online or offline (or logger=none)")

    @contextmanager
    def start(self, name: str, study: str, config: Mapping[str, Any], job: str = "run") -> Iterator[TrackedRun]:
        """A W&B run of its own, finished with exit code 0, 1 on an exception, or 130 when interrupted.

        Raises RuntimeError when this process has a run open already: two jobs never share one.
        """
        import wandb

        if wandb.run is not None:
            raise RuntimeError(f"W&B run {wandb.run.id} is still open in this process")
        Path(self.dir).mkdir(parents=True, exist_ok=True)
        run = wandb.init(
            project=self.project,
            entity=self.entity,
            mode=_mode(self.mode),
            dir=self.dir,
            name=name,
            group=study,
            tags=self.tags,
            job_type=job,
            config=dict(config),
            settings=wandb.Settings(**_LEAN),
        )
        code = 1
        try:
            run.define_metric("source/*", step_metric="source/epoch")
            yield _WandbRun(run)
            code = 0
        except KeyboardInterrupt:
            code = 130
            raise
        finally:
            run.finish(exit_code=code)


_LEAN: dict[str, Any] = {
    "silent": True,
    "console": "off",
    "disable_git": True,
    "disable_code": True,
    "disable_job_creation": True,
    "x_disable_stats": True,
    "x_disable_meta": True,
    "x_save_requirements": False,
}
"""What a record holds already, or what costs time in every run of a sweep."""


@dataclass
class _Silent:
    def log(self, scalars: Mapping[str, float]) -> None:
        pass

    def summarise(self, metrics: Mapping[str, float]) -> None:
        pass

    def figure(self, name: str, figure: Any) -> None:
        pass

    def save(self, content: bytes | Path, name: str) -> None:
        pass


@dataclass
class _WandbRun:
    run: Any

    def log(self, scalars: Mapping[str, float]) -> None:
        self.run.log(dict(scalars))

    def summarise(self, metrics: Mapping[str, float]) -> None:
        self.run.summary.update(dict(metrics))

    def figure(self, name: str, figure: Any) -> None:
        import wandb

        self.run.log({name: wandb.Plotly(figure)})

    def save(self, content: bytes | Path, name: str) -> None:
        path = Path(self.run.dir) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.read_bytes())
        self.run.save(str(path), base_path=self.run.dir, policy="end")


def _mode(setting: str) -> Any:
    """Online or offline: what was asked for here, then WANDB_MODE, then online for those who are logged in."""
    if setting != "auto":
        return setting
    if mode := os.environ.get("WANDB_MODE"):
        return mode
    return "online" if os.environ.get("WANDB_API_KEY") or _in_netrc() else "offline"


def _in_netrc() -> bool:
    host = urlparse(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    with suppress(OSError, netrc.NetrcParseError):
        return netrc.netrc(os.environ.get("NETRC")).authenticators(host) is not None
    return False
