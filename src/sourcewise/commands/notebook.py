"""The interface for notebooks: `sourcewise.load(...)`, then `estimate()`, and the tables and figures that it gives."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from html import escape
from pathlib import Path
from typing import Any, cast, get_args

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import xarray as xr
from numpy.typing import NDArray

from sourcewise.acting.search.account import read as read_account
from sourcewise.commands.analysis import analyse
from sourcewise.core.errors import SourcewiseError, did_you_mean
from sourcewise.core.files import write_atomically
from sourcewise.records.places import as_list
from sourcewise.records.reading import LeftOut, Records
from sourcewise.report import contents, figures
from sourcewise.report.contents import TargetReport
from sourcewise.report.formatting import count, number
from sourcewise.report.printing import WIDTHS, Kind, to_file
from sourcewise.study import comparison
from sourcewise.study.collect import Study, collect, join_counterfactuals
from sourcewise.study.effects import count_significant, effect_table, strongest_lines
from sourcewise.study.influences import Estimated, estimate
from sourcewise.study.levels import LEVELS
from sourcewise.study.priors import PriorSetting, find_priors, values
from sourcewise.study.recipes import train_command

FDR = 0.05
"""False discovery rate of figures and tables, the default of conf/estimate.yaml."""


@dataclass(frozen=True)
class Plots:
    """Figures of the influences on one target, the same as on the report's page; `save_figure` prints them for a paper.

    Each raises SourcewiseError where the records have no such figure; the error says what it needs.
    """

    estimated: Estimated
    build: Callable[[], TargetReport]

    def heatmap(self) -> go.Figure:
        """Draw the influence of every group on every target class; pale is not significant."""
        return figures.heatmap(self.estimated.dataset, FDR)

    def overall(self) -> go.Figure:
        """Draw the influence of each group on the whole target, with 95% intervals."""
        return figures.overall_bars(self.estimated.dataset, FDR)

    def convergence(self) -> go.Figure:
        """Draw LDS and split-half reliability against the number of models."""
        return figures.convergence(self.estimated.checks)

    def subpopulations(self, place: int = 0) -> go.Figure:
        """Draw the examples of a class that leans on different groups, by their influences: the first class, ..."""
        return self._from_report("subpopulations", f"split-{place}")

    def counterfactuals(self, place: int = 0, *, output: bool = False) -> go.Figure:
        """Draw the score after retraining without chosen groups; or the mean output, with what influences predict.

        place: of several sets of such models, those of `counterfactuals` of `estimate` come last.
        """
        return self._from_report("counterfactuals", f"removal-{place}-{'output' if output else 'score'}")

    def between(self) -> go.Figure:
        """Draw the influence of each group on this target and on the others."""
        return self._from_report("between", "between-figure")

    def studies(self) -> go.Figure:
        """Draw the correlations with the studies that `compare` of `estimate` names."""
        return self._from_report("compare", "studies")

    def search(self) -> go.Figure:
        """Draw the candidates of the search that `search` of `estimate` names."""
        return self._from_report("search", "search")

    @cached_property
    def report(self) -> TargetReport:
        """All sections of the report on this target, which takes a while to make."""
        return self.build()

    def _from_report(self, section: str, id: str) -> go.Figure:
        drawn = {figure.id: figure.figure for part in self.report.sections for figure in part.figures}
        if id not in drawn:
            needs = self.report.needs.get(section, "The report has its section without it.")
            raise SourcewiseError(f"these records give no figure of {section} ({id}). {needs}")
        return go.Figure(drawn[id])


@dataclass(frozen=True, repr=False)
class Influences(Estimated):
    """Influences on one target.

    `checks` holds, by level (example, class, overall), LDS, split-half reliability and a `verdict` in words.
    build: gives the report on the target.
    """

    build: Callable[[], TargetReport]

    @property
    def influences(self) -> xr.Dataset:
        """`influence`, `stderr`, `qvalue` by example, with suffix `_class` by class and `_overall` by group.

        Dimensions are example, class and group; docs/architecture.md describes all of it.
        """
        return self.dataset

    @cached_property
    def plot(self) -> Plots:
        """Plotly figures."""
        return Plots(self, self.build)

    def top(self, n: int = 5, target_class: str | None = None) -> pd.DataFrame:
        """Return the `n` groups that help most and the `n` that hurt most, from best to worst: on a class, or overall.

        Columns are group, influence, stderr, qvalue. Raises SourcewiseError for an unknown class.
        """
        names = [str(name) for name in self.influences["class"].values]
        if target_class not in (None, *names):
            raise SourcewiseError(f"{target_class}: no class of the target{did_you_mean(str(target_class), names)}")
        table = effect_table(self.influences, target_class)
        return table if len(table) <= 2 * n else pd.concat([table.head(n), table.tail(n)])

    def __repr__(self) -> str:
        head = f"{self.influences.attrs['target']}: {self.checks['class'].verdict}"
        return "\n".join([head, f"Overall, {self.influences.attrs['sign']}:", *strongest_lines(self.influences)])

    def _repr_html_(self) -> str:
        rows = [
            [
                level,
                check.estimator,
                number(check.lds),
                number(check.split_half, unknown="–"),
                "{:,} of {:,}".format(*count_significant(self.dataset, LEVELS[level], FDR)),
            ]
            for level, check in self.checks.items()
        ]
        head = escape(f"{self.influences.attrs['target']}: {self.checks['class'].verdict}")
        return f"<p><b>{head}</b></p>" + _html(["Level", "Estimator", "LDS", "Split-half", "Significant"], rows)


@dataclass(frozen=True)
class Loaded:
    """The records of one study, and those that were not used, each with the reason."""

    study: Study = field(repr=False)
    left_out: Sequence[LeftOut]

    @property
    def targets(self) -> list[str]:
        """Names of the targets."""
        return list(self.study.targets)

    @property
    def masks(self) -> NDArray[np.bool_]:
        """Which groups each model kept, `bool[models, groups]`."""
        return self.study.masks.unpack()

    def outputs(self, target: str | None = None) -> NDArray[np.floating[Any]]:
        """Return the output of each model on each example of a target, `float[models, examples]`.

        A single target need not be named. Raises SourcewiseError for an unknown target.
        """
        return self.study.targets[self._target(target)].examples

    def estimate(
        self,
        target: str | None = None,
        estimator: str = "auto",
        priors: PriorSetting = "auto",
        *,
        compare: str | Sequence[str] = (),
        counterfactuals: str | Sequence[str] = (),
        search: str | None = None,
    ) -> Influences:
        """Estimate the influences on a target, as `python estimate.py` does. A single target need not be named.

        estimator, priors, compare, counterfactuals, search: as in conf/estimate.yaml; the last three add figures.

        Raises SourcewiseError for an unknown target, estimator or place, or fewer than two models.
        """
        name, known = self._target(target), find_priors(self.study, priors)
        others = comparison.read_studies(as_list(compare), self.study.header.study)
        account = read_account(Path(search)) if search else None
        study = self.study
        for place in as_list(counterfactuals):
            study = join_counterfactuals(study, Records(place, {}))
        chosen = estimate(study, estimator, [name], priors=values(known))

        def build() -> TargetReport:
            rest = [each for each in self.targets if each != name]
            more = estimate(study, estimator, rest, priors=values(known)) if rest else {}
            estimated = {each: {**chosen, **more}[each] for each in self.targets}
            summary = analyse(study, estimated, self.left_out, FDR, priors=known, others=others, search=account)
            datasets = {each: item.dataset for each, item in estimated.items()}
            train = partial(train_command, study.header)
            reports = contents.build(datasets, summary, train, Path("outputs/estimate"))
            return next(report for report in reports if report.target.name == name)

        return Influences(**vars(chosen[name]), build=build)

    def __repr__(self) -> str:
        left_out = f"; {len(self.left_out)} left out" if self.left_out else ""
        return f"{self.study.models} records of {self.study.header.study}; targets: {', '.join(self.targets)}{left_out}"

    def _repr_html_(self) -> str:
        rows = []
        for name, target in self.study.targets.items():
            score = f"{target.score} {np.mean(target.scores):.3g}"
            rows.append([name, f"{len(target.ids):,}", f"{len(target.class_names):,}", score])
        designs = ", ".join(f"{design} ({models:,})" for design, models in self.study.designs.items())
        facts = f"{self!r}; subsets of {count(self.study.groups, 'group')}: {designs}"
        return f"<p><b>{escape(facts)}</b></p>" + _html(["Target", "Examples", "Classes", "Mean score"], rows)

    def _target(self, name: str | None) -> str:
        if name is None and len(self.targets) == 1:
            return self.targets[0]
        if name not in self.targets:
            raise SourcewiseError(f"target={name}: choose one of {', '.join(self.targets)}")
        return str(name)


def _html(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a small table; every cell is escaped."""
    return str(pd.DataFrame(rows, columns=list(columns)).to_html(index=False, border=0))


def save_figure(figure: go.Figure, path: str | Path, columns: int | None = None) -> None:
    """Write a figure of `Influences.plot` for a paper, as PDF, SVG or PNG by the ending of the path.

    columns: of print that it is wide: 1 (3.3 inches) or 2 (6.9 inches); None: as many as its cells need.

    Raises SourcewiseError for another ending or width.
    """
    kind = Path(path).suffix.removeprefix(".")
    if kind not in get_args(Kind) or columns not in (None, *WIDTHS):
        raise SourcewiseError(f"{path}: figures are .pdf, .svg or .png, and 1 or 2 columns wide")
    write_atomically(Path(path), to_file(figure, cast(Kind, kind), columns))


def load(places: str | Sequence[str] | Mapping[str, str], outputs: str = "prob", **filters: Any) -> Loaded:
    """Read the records in one place or several, as `python estimate.py records=...` does.

    Args:
        places: runs/<study>, a bank, wandb:<entity>/<project> or wandb-offline:<folder>, or a list of them; or plain
            arrays, such as {"masks": "masks.csv", "outputs": "outputs.csv"}.
        outputs: prob, margin, correct, or metric:<name of a scalar>; of plain arrays also value.
        filters: those of conf/estimate.yaml: group, tags, sweep, state, config.

    Raises SourcewiseError as `Records` and `collect` do.
    """
    reading = Records(places, filters).with_output(outputs)
    return Loaded(collect(reading, outputs), reading.left_out)
