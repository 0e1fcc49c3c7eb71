"""What the sections about one target are made from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import xarray as xr

from sourcewise.report import figures
from sourcewise.report.figures import Floats
from sourcewise.report.page import Effect, number, small
from sourcewise.report.pictures import Album, Picture
from sourcewise.report.summary import Summary, TargetSummary
from sourcewise.study.effects import EffectEstimate
from sourcewise.study.influences import SMALL


class HasInfluence(Protocol):
    """Anything with an influence and its standard error."""

    @property
    def influence(self) -> float | None:
        """The influence."""

    @property
    def stderr(self) -> float | None:
        """Its standard error."""


@dataclass(frozen=True)
class Target:
    """A target's influences, and the summary of the estimate, of which `facts` are about this target; its pictures."""

    name: str
    influences: xr.Dataset
    summary: Summary
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
        """Why its examples were not examined."""
        if self.facts.unexamined:
            size = f"It is left out where examples times models, or times groups, are more than {SMALL:,}, as here."
            return size + " influences.nc has all influences, top.parquet the strongest on every example."
        needs = "It needs groups of several source examples, and outputs of every target example:"
        return needs + " python train.py -m 'subset.seed=range(0,96)'"

    @property
    def unit(self) -> figures.Unit:
        """The unit in which influences are shown."""
        return figures.unit(self.summary.output)

    def show(self, value: float | None, sign: bool = True) -> str:
        """An influence as text, in `unit`."""
        return number(None if value is None else value * self.unit.factor, self.unit.decimals, sign)

    def significant(self, q: float | None) -> bool:
        """Whether a q-value is."""
        return q is not None and q <= self.summary.fdr

    def ends(self, dim: str, arrays: Sequence[Floats], fdr: float = 1) -> list[list[Effect]]:
        """The three groups or classes (`dim`) that help most and that hurt most, of those with q at most `fdr`.

        arrays: influences, standard errors and q-values along `dim`.
        """
        names, (value, _, q) = self.influences[dim].values, arrays
        known = np.flatnonzero(np.isfinite(value) & (q <= fdr))
        known = known[np.argsort(-value[known], kind="stable")]
        sides = known[value[known] > 0][:3], known[value[known] < 0][::-1][:3]
        value, error, q = arrays
        return [
            [
                self.effect(str(names[i]), EffectEstimate(influence=value[i], stderr=error[i], qvalue=q[i]))
                for i in side.tolist()
            ]
            for side in sides
        ]

    def effect(self, name: str, item: EffectEstimate, picture: Picture | None = None) -> Effect:
        """An `influence` with its `stderr` and `qvalue`, in a table."""
        value, error, q = item.influence, item.stderr, item.qvalue
        return Effect(name, self.show(value), self.show(error, sign=False), small(q), self.significant(q), picture)

    def within(self, item: HasInfluence) -> str:
        """An `influence` with its `stderr`, as text."""
        return f"{self.show(item.influence)} ± {self.show(item.stderr, sign=False)}"
