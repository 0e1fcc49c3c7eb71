"""What one run tells Weights & Biases while it goes on. Trouble with W&B is reported once and never raised."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sourcewise.core.errors import SourcewiseError
from sourcewise.core.names import RECORD
from sourcewise.records.tracker import TrackedRun

if TYPE_CHECKING:
    from sourcewise.records.record import Record

NAMES_LIMIT = 20_000
"""Characters of group names that every run's summary may hold."""


@dataclass
class WandbRun(TrackedRun):
    """A W&B run. run: as `wandb.init` returns it. wandb: the module, for what is made of figures and tables."""

    run: Any
    wandb: Any
    _has_warned: bool = field(default=False, init=False)
    _media: dict[str, int] = field(default_factory=dict, init=False)  # with how many stand side by side in a report
    _tables: list[str] = field(default_factory=list, init=False)

    def log(self, scalars: Mapping[str, float]) -> None:
        """Add a point to the history of each scalar."""
        with self.quietly():
            self.run.log(dict(scalars))

    def record(self, result: Record) -> None:
        """Keep a run's record as a file of the run; metrics and subset, in the summary, suffice for scalar outputs."""
        import numpy as np

        from sourcewise.records import record

        names = result.header.group_names
        subset: dict[str, Any] = {
            "subset/groups": len(result.mask),
            "subset/mask": np.packbits(result.mask).tobytes().hex(),
        }
        if names is not None and len(json.dumps(names)) <= NAMES_LIMIT:
            subset["subset/names"] = names
        with self.quietly():
            self.run.summary.update({**result.header.metrics, **subset})
        with self.quietly():
            self.save(record.to_bytes(result), RECORD)

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
        runs_of_study = And(Metric("Group") == self.run.group, Metric("JobType") == "run")
        blocks = [
            *map(reports.P, paragraphs),
            *grid("Runs of the study, by subset", runs_of_study, plots),
            *grid("Influences", And(Metric("ID") == self.run.id), panels),
        ]
        report = reports.Report(**project, title=title[:128], blocks=blocks, width="fluid").save()
        warn(f"report: {report.url}")


def sync_command(run: Any) -> str:
    """Return the command line that uploads a W&B run from this machine."""
    online = "" if run.offline else "--include-online "
    return f"wandb sync {online}{shlex.quote(str(Path(run.dir).parent))}"


def one_line(error: BaseException) -> str:
    """Return an exception's message in one line of at most 300 characters, or its name when it has none."""
    text = " ".join(str(error).split()).partition(" Consider increasing")[0]
    return text[:300] or type(error).__name__


def warn(text: str) -> None:
    """Print a line about W&B to stderr, if that is still open."""
    with suppress(OSError, ValueError):
        print(f"W&B: {text}", file=sys.stderr, flush=True)
