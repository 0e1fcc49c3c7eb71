"""The interface for notebooks: `sourcewise.load(...)`, then `estimate()`, and the tables and figures that it gives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import xarray as xr
from numpy.typing import NDArray

from sourcewise.core.errors import SourcewiseError, did_you_mean
from sourcewise.records.reading import LeftOut, Records
from sourcewise.report import figures
from sourcewise.study.collect import Study, collect
from sourcewise.study.effects import effect_table, strongest_lines
from sourcewise.study.influences import Estimated, estimate
from sourcewise.study.priors import PriorSetting, find_priors, values


@dataclass(frozen=True)
class Plots:
    """Figures of the influences on one target, the same as on the report's page."""

    estimated: Estimated

    def heatmap(self) -> go.Figure:
        """Draw the influence of every group on every target class; pale is not significant."""
        return figures.heatmap(self.estimated.dataset)

    def overall(self) -> go.Figure:
        """Draw the influence of each group on the whole target, with 95% intervals."""
        return figures.overall_bars(self.estimated.dataset)

    def convergence(self) -> go.Figure:
        """Draw LDS and split-half reliability against the number of models."""
        return figures.convergence(self.estimated.checks)


class Influences(Estimated):
    """Influences on one target.

    `checks` holds, by level (example, class, overall), LDS, split-half reliability and a `verdict` in words.
    """

    @property
    def influences(self) -> xr.Dataset:
        """`influence`, `stderr`, `qvalue` by example, with suffix `_class` by class and `_overall` by group.

        Dimensions are example, class and group; docs/architecture.md describes all of it.
        """
        return self.dataset

    @property
    def plot(self) -> Plots:
        """Plotly figures."""
        return Plots(self)

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
        lines = "".join(f"<li>{escape(check.verdict)}</li>" for check in self.checks.values())
        return f"<b>{escape(str(self.influences.attrs['target']))}</b><ul>{lines}</ul>"


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

    def estimate(self, target: str | None = None, estimator: str = "auto", priors: PriorSetting = "auto") -> Influences:
        """Estimate the influences on a target, as `python estimate.py` does. A single target need not be named.

        Raises SourcewiseError for an unknown target, estimator or place of priors, or fewer than two models.
        """
        name = self._target(target)
        known = values(find_priors(self.study, priors))
        return Influences(**vars(estimate(self.study, estimator, [name], priors=known)[name]))

    def __repr__(self) -> str:
        left_out = f"; {len(self.left_out)} left out" if self.left_out else ""
        return f"{self.study.models} records of {self.study.header.study}; targets: {', '.join(self.targets)}{left_out}"

    def _target(self, name: str | None) -> str:
        if name is None and len(self.targets) == 1:
            return self.targets[0]
        if name not in self.targets:
            raise SourcewiseError(f"target={name}: choose one of {', '.join(self.targets)}")
        return str(name)


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
