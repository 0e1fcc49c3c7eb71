"""What the sections about one target are made from, and how they write its influences."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import xarray as xr

from sourcewise.report.figures import Floats
from sourcewise.report.formatting import DisplayUnit, display_unit, q_value
from sourcewise.report.parts import Effect
from sourcewise.report.pictures import Album, Picture
from sourcewise.report.summary import Summary, TargetSummary
from sourcewise.study.collect import SMALL
from sourcewise.study.effects import GroupEffect

TrainCommand = Callable[..., str]
"""A function that returns the command which trains models of the study's recipe with these further overrides."""


@dataclass(frozen=True)
class TargetContext:
    """One target of a report.

    Attributes:
        name: of the target.
        influences: on the target, as docs/architecture.md lays them out.
        summary: of the estimate.
        train_command: makes the commands that sections print.
        out: folder of the estimate's results.
        album: pictures of examples.
    """

    name: str
    influences: xr.Dataset
    summary: Summary
    train_command: TrainCommand
    out: Path
    album: Album = field(default_factory=Album)

    @property
    def id(self) -> str:
        """An element id that differs between targets, whatever their names."""
        escaped = (c if c.isascii() and c.isalnum() else f"-{ord(c):x}-" for c in self.name)
        return "target-" + "".join(escaped)

    @property
    def facts(self) -> TargetSummary:
        """The part of the summary that is about this target."""
        return self.summary.targets[self.name]

    @property
    def unexamined(self) -> str:
        """Why there are no results on single examples, in sentences."""
        if self.facts.unexamined:
            return (
                f"It is left out where examples times models, or times groups, are more than {SMALL:,}, as here."
                " influences.nc has all influences, top.parquet the strongest on every example."
            )
        return (
            "It needs groups of several source examples (setting source.groups of train.py), and an output of every"
            " target example (setting outputs of estimate.py)."
        )

    @property
    def unit(self) -> DisplayUnit:
        """The unit in which influences are shown."""
        return display_unit(self.summary.output)

    def is_significant(self, q: float | None) -> bool:
        """Return whether an influence with this q-value is significant at the estimate's false discovery rate."""
        return q is not None and bool(q <= self.summary.fdr)

    def strongest(self, dim: str, arrays: Sequence[Floats], fdr: float = 1, limit: int = 3) -> list[list[Effect]]:
        """Return the effects of the groups, or on the classes, that help most, and of those that hurt most.

        dim: `group` or `class`. arrays: influences, standard errors and q-values along it. fdr: the largest q-value.
        """
        names, (value, error, q) = self.influences[dim].values, arrays
        known = np.flatnonzero(np.isfinite(value) & (q <= fdr))
        known = known[np.argsort(-value[known], kind="stable")]
        sides = known[value[known] > 0][:limit], known[value[known] < 0][::-1][:limit]
        return [[self._effect(str(names[i]), value[i], error[i], q[i]) for i in side] for side in sides]

    def effect(self, name: str, estimate: GroupEffect, picture: Picture | None = None) -> Effect:
        """Return an effect for a table, under the name of its group, class or example."""
        return self._effect(name, estimate.influence, estimate.stderr, estimate.qvalue, picture)

    def with_error(self, influence: float | None, stderr: float | None) -> str:
        """Return an influence with its standard error as text."""
        return f"{self.unit.show(influence)} ± {self.unit.show(stderr, sign=False)}"

    def _effect(self, name: str, value: float, error: float, q: float, picture: Picture | None = None) -> Effect:
        show = self.unit.show
        return Effect(name, show(value), show(error, sign=False), q_value(q), self.is_significant(q), picture)
