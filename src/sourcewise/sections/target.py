"""What the sections about one target are made from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import xarray as xr

from sourcewise import figures
from sourcewise.figures import Floats
from sourcewise.influences import SMALL
from sourcewise.page import Effect, number, small
from sourcewise.pictures import Album

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

    def arrays(self, suffix: str, *dims: str) -> list[Floats]:
        """Influences, standard errors and q-values."""
        names = (f"{name}{suffix}" for name in ("influence", "stderr", "qvalue"))
        return [np.asarray(self.influences[name].transpose(*dims).values, float) for name in names]

    def show(self, value: float | None, sign: bool = True) -> str:
        """An influence as text, in `unit`."""
        return number(None if value is None else value * self.unit.factor, self.unit.decimals, sign)

    def significant(self, q: float | None) -> bool:
        """Whether a q-value is."""
        return q is not None and q <= self.summary["fdr"]

    def ends(
        self, dim: str, value: Floats, error: Floats, q: Floats, *, most: int = 3, fdr: float = 1
    ) -> list[list[Effect]]:
        """The groups or classes (`dim`) that help most and that hurt most, of those with q at most `fdr`."""
        names = self.influences[dim].values
        known = np.flatnonzero(np.isfinite(value) & (q <= fdr))
        known = known[np.argsort(-value[known], kind="stable")]
        sides = known[value[known] > 0][:most], known[value[known] < 0][::-1][:most]
        return [[self.effect(str(names[i]), value[i], error[i], q[i]) for i in side] for side in sides]

    def effect(self, name: str, value: float | None, error: float | None, q: float | None) -> Effect:
        """An influence in a table."""
        return Effect(name, self.show(value), self.show(error, sign=False), small(q), self.significant(q))

    def within(self, item: Mapping[str, Any]) -> str:
        """An `influence` with its `stderr`, as text."""
        return f"{self.show(item['influence'])} ± {self.show(item['stderr'], sign=False)}"
