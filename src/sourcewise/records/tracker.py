"""The contract of loggers: what a run reports to its tracker. `conf/logger/` selects one; users can write their own.

    class CsvTracker(Tracker):
        def __init__(self, path: str) -> None:
            self.path = path

        @contextmanager
        def start(self, name, study, config, job="run"):
            with open(self.path, "a") as file:
                yield CsvRun(file)

In a folder that `--config-dir` names, `logger/csv.yaml` with `_target_: my_package.CsvTracker` and `path: runs.csv`
makes `logger=csv` select it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from sourcewise.core.errors import SourcewiseError

if TYPE_CHECKING:
    from sourcewise.records.record import Record


class TrackedRun:
    """A run or an estimate under a tracker. This class keeps nothing; subclasses override what they can serve.

    No method may raise, since trouble with a tracker must not cost a run.
    """

    def log(self, scalars: Mapping[str, float]) -> None:
        """Add a point to the history of each scalar.

        The names are like `source/train/loss`, and `source/train/epoch` counts.
        """

    def record(self, result: Record) -> None:
        """Keep a run's record, its metrics, and its subset."""

    def summarise(self, values: Mapping[str, Any]) -> None:
        """Keep values that have no history, numbers, texts and lists, by names like `target/digits/lds`."""

    def figure(self, name: str, figure: Any) -> None:
        """Keep a plotly figure."""

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Keep a table."""

    def images(self, name: str, images: Sequence[tuple[Any, str]]) -> None:
        """Keep images, `uint8[height, width]` or `uint8[height, width, 3]`, each with a caption."""

    def report(self, title: str, paragraphs: Sequence[str], scores: Sequence[str]) -> None:
        """Make a report of what this run logged, and of these scalars of the study's runs."""

    def save(self, content: bytes | Path, name: str) -> None:
        """Keep a file, given by its content or its path, under a name."""

    def artifact(self, name: str, kind: str, files: Mapping[str, Path], metadata: Mapping[str, Any]) -> None:
        """Keep files together as a version of something. files: by their names in it. metadata: JSON."""


class Tracker(Protocol):
    """What a logger's `_target_` builds."""

    def start(
        self, name: str, study: str, config: Mapping[str, Any], job: str = "run"
    ) -> AbstractContextManager[TrackedRun]:
        """Return the context of one run, which ends as the context does: well, with an exception, or interrupted.

        Entering and leaving must not raise. name: of the run. study: its group. config: resolved, JSON. job: `run` for
        training, `estimate` for an estimate.
        """
        ...

    def closing_line(self, folders: Sequence[Path]) -> str:
        """Return a line for the end of a sweep: which of its runs, by their folders, are not in the tracker, and why.

        It is "" where there is nothing to say.
        """
        return ""

    def check_report(self) -> None:
        """Raise SourcewiseError, before any work, if `TrackedRun.report` could not make a report."""
        raise SourcewiseError("wandb_report=true: this logger makes no reports; take logger=wandb, or leave it out")


@dataclass(frozen=True)
class NoTracker(Tracker):
    """Tracks nothing (`logger=none`)."""

    @contextmanager
    def start(self, name: str, study: str, config: Mapping[str, Any], job: str = "run") -> Iterator[TrackedRun]:
        """Return the context of a run of which nothing is kept."""
        yield TrackedRun()
