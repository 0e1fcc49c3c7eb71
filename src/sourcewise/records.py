"""Records of one study, one at a time, from wherever they are; what does not belong is left out, with the reason."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from tqdm import tqdm

from sourcewise import record
from sourcewise.errors import SourcewiseError
from sourcewise.record import Record, RecordError
from sourcewise.study import RECORD


@dataclass(frozen=True)
class LeftOut:
    """A record that was not used, and why."""

    path: str
    reason: str


@dataclass
class Records:
    """An iterator over the records below a folder: of a run, a study, or several studies (which is then an error).

    `left_out` fills while iterating. Raises SourcewiseError when there is no folder or no record, or when records are
    of different recipes, datasets or examples, and says which it found.
    """

    place: str
    progress: bool = True
    left_out: list[LeftOut] = field(default_factory=list)

    def __iter__(self) -> Iterator[Record]:
        self.left_out.clear()
        folder = Path(self.place)
        if not folder.is_dir():
            raise SourcewiseError(f"records={self.place}: there is no such folder; it should hold the runs of a study")
        # Not deeper than <study>/<run>: W&B keeps copies of records further below.
        paths = sorted(path for depth in ("", "*/", "*/*/") for path in folder.glob(depth + RECORD))
        first: Record | None = None
        studies: Counter[str] = Counter()
        seen: dict[tuple[str, str], Path] = {}
        for path in tqdm(paths, desc="records", unit="", disable=None if self.progress else True, leave=False):
            try:
                item = record.read(path)
            except RecordError as error:
                self.left_out.append(LeftOut(str(path), str(error).removeprefix(f"{path}: ")))
                continue
            key = (item.header.study, item.header.run)
            studies[item.header.study] += 1
            if key in seen:
                self.left_out.append(LeftOut(str(path), f"the same run as {seen[key]}"))
                continue
            seen[key] = path
            if first is None:
                first = item
            if item.header.recipe == first.header.recipe:
                _same_data(first, item, path)
                yield item
        if len(studies) > 1:
            found = ", ".join(f"{name} ({count} records)" for name, count in studies.most_common())
            raise SourcewiseError(
                f"records={self.place}: records of different recipes do not mix: {found}; choose one folder"
            )
        if first is None:
            why = f"; {len(self.left_out)} files could not be used, the first: {self._first()}" if self.left_out else ""
            raise SourcewiseError(f"records={self.place}: no record found here{why}")

    def _first(self) -> str:
        return f"{self.left_out[0].path} ({self.left_out[0].reason})"


def _same_data(first: Record, item: Record, path: Path) -> None:
    """Raise unless two records are about the same groups and examples."""
    one, other = first.header, item.header
    for name, fingerprint in one.fingerprints.items():
        if other.fingerprints.get(name) != fingerprint:
            raise SourcewiseError(
                f"{path}: its dataset {name} has fingerprint {other.fingerprints.get(name)}, that of {one.run} has"
                f" {fingerprint}: the data changed between the runs; estimate from runs on the same data"
            )
    if one.group_names != other.group_names or len(first.mask) != len(item.mask):
        raise SourcewiseError(f"{path}: its {len(item.mask)} groups are not the {len(first.mask)} groups of {one.run}")
    for target, outputs in first.targets.items():
        mine = item.targets.get(target)
        if mine is None:
            raise SourcewiseError(f"{path}: it has no outputs on target {target}, which {one.run} has")
        if not (np.array_equal(mine.ids, outputs.ids) and np.array_equal(mine.labels, outputs.labels)):
            raise SourcewiseError(f"{path}: its examples of target {target} are not those of {one.run}")
