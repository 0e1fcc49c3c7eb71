"""What the sections about one target are made from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import xarray as xr

from sourcewise.report import figures
from sourcewise.report.figures import KEYS, Floats
from sourcewise.report.page import Effect, number, small
from sourcewise.report.pictures import Album, Picture
from sourcewise.study.influences import SMALL

Summary = Mapping[str, Any]


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
    def facts(self) -> Summary:
        """The part of the summary that is about this target."""
        facts: Summary = self.summary["targets"][self.name]
        return facts

    @property
    def unexamined(self) -> str:
        """Why `analyses.examine` found nothing of its examples."""
        if self.facts.get("unexamined"):
            size = f"It is left out where examples times models, or times groups, are more than {SMALL:,}, as here."
            return size + " influences.nc has all influences, top.parquet the strongest on every example."
        needs = "It needs groups of several source examples, and outputs of every target example:"
        return needs + " python train.py -m 'subset.seed=range(0,96)'"

    @property
    def unit(self) -> figures.Unit:
        """The unit in which influences are shown."""
        return figures.unit(self.summary["output"])

    def show(self, value: float | None, sign: bool = True) -> str:
        """An influence as text, in `unit`."""
        return number(None if value is None else value * self.unit.factor, self.unit.decimals, sign)

    def significant(self, q: float | None) -> bool:
        """Whether a q-value is."""
        return q is not None and q <= self.summary["fdr"]

    def ends(self, dim: str, arrays: Sequence[Floats], fdr: float = 1) -> list[list[Effect]]:
        """The three groups or classes (`dim`) that help most and that hurt most, of those with q at most `fdr`.

        arrays: influences, standard errors and q-values along `dim`.
        """
        names, (value, _, q) = self.influences[dim].values, arrays
        known = np.flatnonzero(np.isfinite(value) & (q <= fdr))
        known = known[np.argsort(-value[known], kind="stable")]
        sides = known[value[known] > 0][:3], known[value[known] < 0][::-1][:3]
        items = ([(i, dict(zip(KEYS, (array[i] for array in arrays), strict=True))) for i in side] for side in sides)
        return [[self.effect(str(names[i]), item) for i, item in side] for side in items]

    def effect(self, name: str, item: Mapping[str, Any], picture: Picture | None = None) -> Effect:
        """An `influence` with its `stderr` and `qvalue`, in a table."""
        value, error, q = map(item.get, KEYS)
        return Effect(name, self.show(value), self.show(error, sign=False), small(q), self.significant(q), picture)

    def within(self, item: Mapping[str, Any]) -> str:
        """An `influence` with its `stderr`, as text."""
        return f"{self.show(item['influence'])} ± {self.show(item['stderr'], sign=False)}"
