"""What the sections about one target are made from, and how they write its influences."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from sourcewise.report.figures import Floats
from sourcewise.report.formatting import DisplayUnit, display_unit, q_value
from sourcewise.report.parts import THUMBNAIL_SIDE, Effect, Picture
from sourcewise.report.summary import Summary, TargetSummary
from sourcewise.study.collect import SMALL
from sourcewise.study.effects import EffectEstimate

if TYPE_CHECKING:  # torch is slow to import, and only images need it
    from sourcewise.data import ImageDataset

BYTES = 4_000_000
"""Size of all pictures of a page; when it is used up, further examples are shown by their ids alone."""
TrainCommand = Callable[..., str]
"""A function that returns the command which trains models of the study's recipe with these further overrides."""


@dataclass
class Album:
    """The pictures of a page, which are made when a section asks for them, until BYTES are used up.

    images: datasets by the name of the target, and that of the source under "". paths: files of their examples as seen
    from the dataset's root, by id; "" for an example without a file. budget: bytes that are left for URIs. missing:
    whether a section asked for an example of a dataset that is not here.
    """

    images: Mapping[str, ImageDataset] = field(default_factory=dict)
    paths: Mapping[str, pd.Series[str]] = field(default_factory=dict)
    budget: int = BYTES
    missing: bool = False

    def __call__(self, target: str, example: int) -> Picture | None:
        """Return the picture of a target's example by its id, or, for the target "", of a source example by its number.

        Return None if its dataset is not here, holds no such example or no images, or if the budget is used up.
        """
        dataset, rows = self.images.get(target), self._rows(target, example)
        self.missing |= dataset is None
        if dataset is None or dataset.channels not in (1, 3) or self.budget <= 0 or not len(rows):
            return None
        from PIL import Image  # slow to import

        selected = dataset.select(dataset.labels.new_tensor(rows))
        pixels = selected.thumbnails(THUMBNAIL_SIDE)[0].permute(1, 2, 0).numpy()
        pixels = pixels[:, :, 0] if dataset.channels == 1 else pixels
        kind, file = "png" if max(pixels.shape) <= 16 else "jpeg", io.BytesIO()  # a tiny PNG is smaller, and exact
        Image.fromarray(pixels).save(file, kind, quality=85)
        uri = f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"
        self.budget -= len(uri)
        label = dataset.class_names[int(selected.labels[0])]
        name = self.path(target, example) or f"{target or 'source'} example {example}"
        return Picture(pixels, uri, f"{name}, class {label}", label)

    def path(self, target: str, example: int) -> str | None:
        """Return the path of an example as seen from its dataset's root; None where it is not known, or no file."""
        return (self.paths[target].get(example) or None) if target in self.paths else None

    def _rows(self, target: str, example: int) -> NDArray[np.intp]:
        """Return the positions of an example in its dataset: one, or none."""
        dataset = self.images.get(target)
        if dataset is None:
            return np.empty(0, np.intp)
        return np.flatnonzero((dataset.ids if target else np.arange(len(dataset))) == example)


@dataclass(frozen=True)
class TargetContext:
    """One target of a report.

    influences: on the target, as docs/architecture.md lays them out. out: folder of the estimate's results.
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
        return "target-" + "".join(c if c.isascii() and c.isalnum() else f"-{ord(c):x}-" for c in self.name)

    @property
    def title(self) -> str:
        """How texts call the target."""
        return self.summary.title_of(self.name)

    @property
    def relative(self) -> bool:
        """Whether influences are relative to the average group, so that a negative one need not be harm."""
        return "reference" in self.influences.attrs

    @property
    def worst(self) -> str:
        """What the groups with the most negative influences do, in the plural."""
        return "help least" if self.relative else "hurt most"

    @property
    def sides(self) -> tuple[str, str]:
        """Titles of columns of the largest and the most negative influences of a group."""
        return "Helps most", "Helps least" if self.relative else "Hurts most"

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

    def example_name(self, target: str, example: int) -> str:
        """Return what an example is called: its path, or where that is not known its id; arguments: as of an album."""
        return self.album.path(target, example) or str(example)

    def named_by(self, target: str) -> str:
        """Return what examples of a dataset go by, for a caption."""
        return "path" if target in self.album.paths else "id"

    def is_significant(self, q: float | None) -> bool:
        """Return whether an influence with this q-value is significant at the estimate's false discovery rate."""
        return q is not None and bool(q <= self.summary.fdr)

    def strongest(self, dim: str, arrays: Sequence[Floats], fdr: float = 1, limit: int = 3) -> list[list[Effect]]:
        """Return the effects of the groups, or on the classes, that help most, and of those that hurt most.

        dim: `group` or `class`. arrays: `figures.EXPECTED` along it. fdr: the largest q-value.
        """
        names, (value, error, q) = self.influences[dim].values, arrays
        known = np.flatnonzero(np.isfinite(value) & (q <= fdr))
        known = known[np.argsort(-value[known], kind="stable")]
        sides = known[value[known] > 0][:limit], known[value[known] < 0][::-1][:limit]
        return [
            [self.effect(str(names[i]), EffectEstimate(influence=value[i], stderr=error[i], qvalue=q[i])) for i in side]
            for side in sides
        ]

    def effect(self, name: str, estimate: EffectEstimate, picture: Picture | None = None) -> Effect:
        """Return an effect for a table, under the name of its group, class or example."""
        q = estimate.qvalue
        value, error = self.unit.pair(estimate.influence, estimate.stderr)
        return Effect(name, value, error, q_value(q), self.is_significant(q), picture)

    def with_error(self, influence: float | None, stderr: float | None) -> str:
        """Return an influence with its standard error as text."""
        return " ± ".join(self.unit.pair(influence, stderr))
