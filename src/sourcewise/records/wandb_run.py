"""What a run logs to Weights & Biases, to its end. Trouble with W&B is reported once and never raised."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sourcewise.core import messages
from sourcewise.core.errors import SourcewiseError
from sourcewise.core.names import LOG, RECORD
from sourcewise.records import browsing, uploads
from sourcewise.records.tracker import TrackedRun

if TYPE_CHECKING:
    from sourcewise.records.record import Record

LOG_LIMIT = 1_000_000
"""Bytes at the end of a failed run's log that are kept."""


@dataclass
class WandbRun(TrackedRun):
    """A W&B run.

    run: as `wandb.init` returns it. wandb: the module, for what is made of figures and tables. folder: the run's own,
    which keeps a note of the W&B run; None: none is kept. sweep: id of the W&B sweep that it belongs to.
    """

    run: Any
    wandb: Any
    folder: Path | None = None
    sweep: str | None = None
    _has_warned: bool = field(default=False, init=False)
    _media: dict[str, int] = field(default_factory=dict, init=False)  # with how many stand side by side in a report
    _tables: list[str] = field(default_factory=list, init=False)
    _axes: set[str] = field(default_factory=set, init=False)

    def log(self, scalars: Mapping[str, float]) -> None:
        """Add a point to the history of each scalar. Those of a stage have its epochs as their axis."""
        with self.quietly():
            for axis in {name for name in scalars if name.endswith("/epoch")} - self._axes:
                self._axes.add(axis)
                # W&B would take a dot for a path.
                stage = axis.removesuffix("epoch").replace(".", "\\.")
                self.run.define_metric(f"{stage}epoch", hidden=True)
                self.run.define_metric(f"{stage}*", step_metric=f"{stage}epoch")
            self.run.log(dict(scalars))

    def record(self, result: Record) -> None:
        """Keep a run's record as a file of the run; metrics and subset, in the summary, suffice for scalar outputs."""
        from sourcewise.records import record

        header = result.header
        seconds = {f"seconds/{stage}": value for stage, value in header.seconds.items()}
        self.summarise({**header.metrics, **seconds, **browsing.shown_subset(result.mask, header.group_names)})
        with self.quietly():
            self.save(record.to_bytes(result), RECORD)

    def summarise(self, values: Mapping[str, Any]) -> None:
        """Put values into the summary."""
        with self.quietly():
            self.run.summary.update(dict(values))

    def fail(self, error: BaseException, interrupted: bool, log: Path | None = None) -> None:
        """Keep why the run ends: a line in summary and notes, and the run's log with the traceback as a file."""
        reason = "interrupted" if interrupted else messages.one_line(error)
        self.summarise({"failure": reason})
        with self.quietly():
            self.run.notes = "\n".join(filter(None, [self.run.notes, reason]))
        with self.quietly():
            begin = log.read_bytes()[-LOG_LIMIT:] if log and log.is_file() else b""
            lines = "".join(traceback.format_exception(error))
            self.save(begin + f"{lines}{reason}\n".encode(errors="replace"), LOG)

    def keep_note(self, uploaded: bool) -> None:
        """Keep a note of the W&B run in the run's own folder."""
        if self.folder and self.folder.is_dir():
            with self.quietly():
                url = None if self.run.offline else self.run.url
                note = uploads.Note(Path(self.run.dir).parent.name, uploaded, url, self.sweep)
                uploads.write(self.folder, note)

    def figure(self, name: str, figure: Any) -> None:
        """Log a plotly figure."""
        self._media[name] = 1
        with self.quietly():
            self.run.log({name: self.wandb.Plotly(figure)})

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Log a table."""
        self._tables.append(name)
        with self.quietly():
            self.run.log({name: self.wandb.Table(columns=list(columns), data=[list(row) for row in rows])})

    def images(self, name: str, images: Sequence[tuple[Any, str]]) -> None:
        """Log images with their captions."""
        if images:
            self._media[name] = 5
            with self.quietly():
                self.run.log({name: [self.wandb.Image(image, caption=text) for image, text in images]})

    def save(self, content: bytes | Path, name: str) -> None:
        """Keep a file of the run."""
        with self.quietly():
            path = Path(self.run.dir) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content if isinstance(content, bytes) else content.read_bytes())
            self.run.save(str(path), base_path=self.run.dir, policy="end")

    def artifact(self, name: str, kind: str, files: Mapping[str, Path], metadata: Mapping[str, Any]) -> None:
        """Log files as a version of an artifact."""
        with self.quietly():
            artifact = self.wandb.Artifact(name, kind, metadata=dict(metadata))
            for path_inside, path in files.items():
                artifact.add_file(str(path), path_inside)
            self.run.log_artifact(artifact)

    def report(self, title: str, paragraphs: Sequence[str], scores: Sequence[str]) -> None:
        """Make a W&B Report of what this run logged, and of these scalars of the study's runs."""
        with self.quietly():
            self._report(title, paragraphs, scores)

    @contextmanager
    def quietly(self) -> Iterator[None]:
        """Report the first of all errors inside in one line on stderr, and raise none."""
        try:
            yield
        except Exception as error:
            if not self._has_warned:
                self._has_warned = True
                warn(f"not everything of this run is tracked: {one_line(error)}")

    def _report(self, title: str, paragraphs: Sequence[str], scores: Sequence[str]) -> None:
        if self.run.offline:
            raise SourcewiseError("no report, since W&B's server was not reached")
        from wandb_workspaces.expr import And, Metric

        reports: Any = import_module("wandb_workspaces.reports.v2")
        project = {"entity": self.run.entity, "project": self.run.project}

        def grid(name: str, filters: Any, panels: list[Any]) -> list[Any]:
            runs = reports.Runset(**project, name=name, filters=filters)
            return [reports.H2(name), reports.PanelGrid(runsets=[runs], panels=panels)]

        x = reports.Config("subset.seed")
        plots = [reports.ScatterPlot(x=x, y=reports.SummaryMetric(score)) for score in scores]
        panels = [reports.MediaBrowser(media_keys=[name], num_columns=n) for name, n in self._media.items()]
        panels += [reports.WeavePanelSummaryTable(table_name=name) for name in self._tables]
        for row, panel in enumerate(panels):
            panel.layout = reports.Layout(y=12 * row, w=24, h=12)
        study_runs = And(Metric("Group") == self.run.group, Metric("JobType") == "run")
        blocks = [
            *map(reports.P, paragraphs),
            *grid("Runs of the study, by subset", study_runs, plots),
            *grid("Influences", And(Metric("ID") == self.run.id), panels),
        ]
        report = reports.Report(**project, title=title[:128], blocks=blocks, width="fluid").save()
        warn(f"report: {report.url}")


def one_line(error: BaseException) -> str:
    """Return an exception's message in one line of at most 300 characters, or its name when it has none."""
    text = " ".join(str(error).split()).partition(" Consider increasing")[0]
    return text[:300] or type(error).__name__


def warn(text: str) -> None:
    """Print a line about W&B to stderr, if that is still open."""
    with suppress(OSError, ValueError):
        print(f"W&B: {text}", file=sys.stderr, flush=True)
