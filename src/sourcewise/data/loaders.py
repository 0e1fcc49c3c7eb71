"""Where images come from: folders, tables, Hugging Face and torchvision datasets, and mixtures of them.

A loader says which images there are, and opens one as an 8-bit picture; `load` keeps them, resized, in a store. Nothing
is downloaded, except a repository that `HuggingFace` names.
"""

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from sourcewise.core.errors import SourcewiseError
from sourcewise.data.dataset import ImageDataset
from sourcewise.data.files import Tree, listed_rows, read_lines, required, stamp, stamp_below, walk
from sourcewise.data.pictures import is_picture, open_image, picture, suffix
from sourcewise.data.store import Listing

if TYPE_CHECKING:
    from PIL.Image import Image

SPLITS = frozenset({"train", "val", "valid", "validation", "test"})


class Loader(Protocol):
    """A dataset that can be listed. Its repr names all that decides what is listed, apart from what lies on disk."""

    def stamp(self) -> str:
        """Return, fast, a text that changes with the data on disk. Raises SourcewiseError when something is missing."""

    def listing(self) -> Listing:
        """Return all images. Raises SourcewiseError when what lies on disk is not as it should be."""


@dataclass(frozen=True)
class Folder:
    """Images in `root`/`folder`/<class>/, at any depth; an empty class folder is a class without images.

    nested: every folder that holds images is a class, named by its path, as in a/abbey. only: a text file of the images
    that count, one path a line, as seen from `root`/`folder`. names: a text file that has in each line a class folder
    and then the name to show for it. Both lie below `root`. obtain: a sentence on how to get the data.
    """

    root: str
    folder: str = ""
    nested: bool = False
    only: str | None = None
    names: str | None = None
    obtain: str = field(default="", repr=False)

    def stamp(self) -> str:
        """Return a hash of the sizes and times of all images and lists, and of the classes."""
        listing = self.listing()
        lists = [str(Path(self.root, name)) for name in (self.only, self.names) if name]
        return _stamp(self.root, listing, *lists)

    def listing(self) -> Listing:
        """Return the images in the order of their paths, and classes in that of their folders."""
        top = Path(self.root, self.folder)
        if not top.is_dir():
            raise self._missing("there is no such folder")
        tree, by_class = walk(top), dict[str, list[str]]()
        for place, files in tree.files.items():
            images = [f"{place}/{file}" for file in files if is_picture(file)]
            if place != "." and (images or not self.nested):
                by_class.setdefault(place if self.nested else place.split("/")[0], []).extend(images)
        classes = sorted(by_class)
        paths = [path for name in classes for path in sorted(by_class[name])]
        if not paths:
            raise self._missing("; ".join(["it holds no folders with images", *_passed_over(tree)]))
        if len(by_class) > 1 and by_class.keys() <= SPLITS:
            raise self._missing(f"its folders ({', '.join(classes)}) are splits, not classes; set folder to one")
        labels = np.repeat(np.arange(len(classes)), [len(by_class[name]) for name in classes])
        lines = (line.partition(" ") for line in read_lines(self.root, self.names))
        names = {folder: name.strip() for folder, _, name in lines}
        titles = [names.get(name) or name for name in classes]
        titles = [
            title if titles.count(title) == 1 else f"{title} ({name})"
            for title, name in zip(titles, classes, strict=True)
        ]
        rows = listed_rows(self.root, self.only, paths)
        return Listing(
            lambda row: open_image(top / paths[rows[row]]),
            labels[rows],
            tuple(titles),
            paths=[os.path.join(self.folder, paths[row]) for row in rows],  # noqa: PTH118
            notes=tuple(f"{top}: {note}" for note in self._notes(tree, by_class)),
        )

    def _notes(self, tree: Tree, by_class: Mapping[str, Sequence[str]]) -> Iterator[str]:
        """Yield what a user may not expect of what lies there."""
        yield from _passed_over(tree)
        yield from (f"{loop} is a link to a folder that it lies in, and is not entered" for loop in tree.loops)
        for link, folder in tree.duplicates.items():
            yield f"{link} is a link to {folder}: their images count twice; remove the link if they should not"
        if outside := sum(map(is_picture, tree.files["."])):
            yield f"{outside} images lie in no class folder and are left out"
        if self.nested:
            return
        deeper = {name: {path.split("/")[1] for path in paths} for name, paths in sorted(by_class.items()) if paths}
        if all(len(below) > 1 and not any(map(is_picture, below)) for below in deeper.values()):
            name, below = next(iter(deeper.items()))
            yield (
                f"its classes ({', '.join(list(deeper)[:5])}) hold folders of images only, such as"
                f" {name}/{min(below)}; if these are the classes, take a root one folder lower, or nested=true"
            )

    def _missing(self, problem: str) -> SourcewiseError:
        top = Path(self.root, self.folder)
        return SourcewiseError(f"{top}: {problem}; expected {top}/<class>/<image>.jpg. {self.obtain}".strip())


@dataclass(frozen=True)
class Table:
    """Images named by a CSV, TSV or Parquet file; its other columns can serve as groups.

    file: seen from `root`; its paths are seen from `root`/`folder`. path, label: names of columns. where: values that
    rows must have, by column. only: a text file below `root` of the paths that count. positive: two classes, rows whose
    label has this among its parts, which | separates, and the others. obtain: a sentence on how to get the data.
    """

    root: str
    file: str
    path: str = "path"
    label: str = "label"
    folder: str = ""
    where: Mapping[str, Any] = field(default_factory=dict)
    only: str | None = None
    positive: str | None = None
    obtain: str = field(default="", repr=False)

    def stamp(self) -> str:
        """Return a hash of the sizes and times of the table, the list and all images."""
        table = required(Path(self.root, self.file), self.obtain)
        only = [str(Path(self.root, self.only))] if self.only else []
        return _stamp(self.root, self.listing(), table, *only)

    def listing(self) -> Listing:
        """Return the images in the order of the table; classes are those of all its rows, whichever are taken."""
        import pandas as pd  # slow to import, and only needed here

        source = Path(self.root, self.file)
        try:
            if source.suffix.lower() in (".parquet", ".pq"):
                table = pd.read_parquet(source)
            else:
                separator = "\t" if source.suffix.lower() == ".tsv" else ","
                table = pd.read_csv(source, sep=separator, dtype=str, keep_default_na=False)
        except (OSError, ValueError) as error:  # ValueError: what pandas and pyarrow raise
            raise SourcewiseError(f"{source}: cannot be read ({error})") from error
        for name in (self.path, self.label, *self.where):
            if name not in table.columns:
                raise SourcewiseError(f"{source}: no column {name}; there are {', '.join(map(str, table.columns))}")
        table = table.astype(str).where(table.notna(), "").reset_index(drop=True)
        if bad := int((table[self.label] == "").sum()):
            raise SourcewiseError(f"{source}: {bad} rows have no {self.label}")
        if self.positive is None:
            names, labels = _named(table[self.label].tolist())
        else:
            names = (f"no {self.positive}", self.positive)
            labels = np.array([self.positive in value.split("|") for value in table[self.label]], dtype=np.int64)
        table = table.iloc[listed_rows(self.root, self.only, table[self.path].tolist())]
        for name, value in self.where.items():
            table = table[table[name] == str(value)]
        folder, paths = Path(self.root, self.folder), table[self.path].tolist()
        columns = {str(n): table[n].to_numpy(str) for n in table.columns if n not in (self.path, self.label)}
        return Listing(
            lambda row: open_image(folder / paths[row]),
            labels[table.index.to_numpy()],
            names,
            columns,
            paths=[os.path.join(self.folder, path) for path in paths],  # noqa: PTH118
        )


@dataclass(frozen=True)
class HuggingFace:
    """A dataset of the Hugging Face `datasets` library: a repository, or a folder, however it was saved.

    image, label: names of columns; others can serve as groups. name, revision: of a repository's configuration and
    version. Needs `pip install 'sourcewise[hf]'`.
    """

    root: str
    split: str = "train"
    image: str = "image"
    label: str = "label"
    name: str | None = None
    revision: str | None = None

    def stamp(self) -> str:
        """Return a hash of the sizes and times of a folder's files; a repository is what it is at `revision`."""
        return stamp_below(self.root) if Path(self.root).is_dir() else ""

    def listing(self) -> Listing:
        """Return the rows in their order. Raises SourcewiseError when there is no such dataset, split or column."""
        data = self._load()
        below = sum(map(is_picture, walk(self.root).paths)) if Path(self.root).is_dir() else 0
        for column in (self.image, self.label):
            if column not in data.column_names:
                # The library gives files and folders that are called like a split to this split, and no classes then.
                hint = "; is a folder called like a split, or an image beside the folders? imagefolder reads any" * (
                    below > 0
                )
                raise SourcewiseError(
                    f"{self.root}: no column {column}; there are {', '.join(data.column_names)}{hint}"
                )
        plain = {c: data[c][:] for c, kind in data.features.items() if type(kind).__name__ in ("Value", "ClassLabel")}
        if type(data.features[self.image]).__name__ != "Image" or self.label not in plain:
            raise SourcewiseError(f"{self.root}: {self.image} must be a column of images, {self.label} one of labels")
        labels = plain.pop(self.label)
        if None in labels:
            raise SourcewiseError(f"{self.root}: {labels.count(None)} rows have no {self.label}")
        names = getattr(data.features[self.label], "names", None)
        names, labels = (names, np.array(labels)) if names else _named(list(map(str, labels)))
        columns = {column: np.array(values).astype(str) for column, values in plain.items()}
        return Listing(
            lambda row: picture(data[row][self.image]),
            labels,
            tuple(names),
            columns,
            self._paths(data),
            tuple(f"{self.root}: {note}" for note in self._notes(data, below)),
        )

    def _paths(self, data: Any) -> list[str | None] | None:
        """Return where the images lie, as far as the library knows."""
        parts = [part.field("path").to_pylist() for part in data.data.column(self.image).chunks]
        paths = [path and os.path.relpath(path, self.root) if os.path.isabs(path or "") else path  # noqa: PTH117
                 for part in parts for path in part]  # fmt: skip
        return paths if len(paths) == len(data) and any(paths) else None

    def _notes(self, data: Any, below: int) -> Iterator[str]:
        """Yield what was not taken: other splits, and images that the library finds in none."""
        splits = {name: split.num_examples for name, split in (data.info.splits or {}).items()}
        if unused := ", ".join(f"{count} of {name}" for name, count in splits.items() if name != self.split):
            yield f"{len(data)} images of split {self.split} are taken; not taken: {unused}"
        if splits and below > sum(splits.values()):
            yield (
                f"{below - sum(splits.values())} of {below} image files are in no split: where some are called like a"
                " split (train_1.png), the library takes these alone; imagefolder takes all"
            )

    def _load(self) -> Any:
        try:
            import datasets
        except ImportError as error:
            raise SourcewiseError("Hugging Face datasets are an extra: pip install 'sourcewise[hf]'") from error
        folder = Path(self.root)
        try:
            if (folder / "dataset_dict.json").exists():
                return datasets.load_from_disk(str(folder))[self.split]
            if (folder / "state.json").exists():
                return datasets.load_from_disk(str(folder))
            return datasets.load_dataset(self.root, self.name, split=self.split, revision=self.revision)
        except (OSError, ValueError, KeyError, datasets.exceptions.DatasetsError) as error:
            raise SourcewiseError(f"{self.root}: no Hugging Face dataset with split {self.split} ({error})") from error


@dataclass(frozen=True)
class Torchvision:
    """A dataset class of torchvision, by name, already on disk below `root`.

    parts: arguments of its constructor, several when splits are joined: [{split: train}, {split: val}]. labels and
    classes: its attributes that hold them. obtain: a sentence on how to get the data.
    """

    name: str
    root: str
    parts: Sequence[Mapping[str, Any]]
    labels: str = "_labels"
    classes: str = "classes"
    obtain: str = field(default="", repr=False)

    def stamp(self) -> str:
        """Return a hash of the sizes and times of all files below `root`."""
        return stamp_below(required(self.root, self.obtain))

    def listing(self) -> Listing:
        """Return the images in torchvision's order. Raises SourcewiseError when torchvision does not find them."""
        from torchvision import datasets  # slow to import, and only needed here

        try:
            parts = [getattr(datasets, self.name)(self.root, **part) for part in self.parts]
        except (RuntimeError, OSError) as error:
            # torchvision advises to download, which a user of sourcewise has no switch for.
            reason = str(error).partition(" You can use download=True")[0]
            raise SourcewiseError(f"{self.root}: torchvision's {self.name}: {reason} {self.obtain}".strip()) from error
        where = [(part, row) for part in parts for row in range(len(part))]
        values = [label for part in parts for label in getattr(part, self.labels)]
        labels = np.array([label[-1] if isinstance(label, tuple) else label for label in values], dtype=np.int64)

        def open_image(row: int) -> "Image":
            part, at = where[row]
            return picture(part[at][0])

        return Listing(open_image, labels, tuple(map(str, getattr(parts[0], self.classes))))


@dataclass(frozen=True)
class Memory:
    """A dataset that is in memory already, such as the embedded one."""

    dataset: ImageDataset

    def __repr__(self) -> str:
        return f"Memory({self.dataset.fingerprint})"

    def stamp(self) -> str:
        """Return the dataset's fingerprint."""
        return self.dataset.fingerprint

    def listing(self) -> Listing:
        """Return the dataset's images in their order."""
        from torchvision.transforms.functional import to_pil_image  # slow to import, and only needed here

        data = self.dataset
        return Listing(lambda row: to_pil_image(data.pixels[row]), data.labels, data.class_names, data.columns)


@dataclass(frozen=True)
class Mixture:
    """Several datasets as one, by name. Classes stay apart; those of one name get their dataset's name before it.

    The column `part` says which dataset an image is from, so that `source.groups=part` keeps or removes whole datasets.
    """

    parts: Mapping[str, Loader]

    def stamp(self) -> str:
        """Return the stamps of all parts."""
        return "/".join(part.stamp() for part in self.parts.values())

    def listing(self) -> Listing:
        """List the parts one after another."""
        parts = {name: part.listing() for name, part in self.parts.items()}
        all_names = [name for part in parts.values() for name in part.class_names]
        clash = {name for name in all_names if all_names.count(name) > 1}
        names = [f"{part}/{n}" if n in clash else n for part, listing in parts.items() for n in listing.class_names]
        starts = np.cumsum([0, *(len(part.class_names) for part in parts.values())])
        labels = [np.asarray(part.labels) + start for part, start in zip(parts.values(), starts, strict=False)]
        places = [(part.open, row) for part in parts.values() for row in range(len(part.labels))]
        column = np.repeat(list(parts), [len(part) for part in labels])

        paths = [path for part in parts.values() for path in part.paths or [None] * len(part.labels)]
        notes = [note for part in parts.values() for note in part.notes]

        def open_image(row: int) -> "Image":
            open_part, place = places[row]
            return open_part(place)

        return Listing(open_image, np.concatenate(labels), tuple(names), {"part": column}, paths, notes)


def _passed_over(tree: Tree) -> list[str]:
    """Return a line with the numbers of files that are no images, by kind; none if there are none."""
    files = Counter(suffix(name) or "without suffix" for names in tree.files.values() for name in names)
    kinds = Counter({kind: count for kind, count in files.items() if not is_picture(f"x{kind}")}) + tree.junk
    ordered = sorted(kinds.items(), key=lambda item: (-item[1], item[0]))
    shown = ", ".join(f"{count} {kind}" for kind, count in ordered[:10])
    heic = " (HEIC needs pip install pillow-heif)" if kinds.keys() & {".heic", ".heif"} else ""
    return [f"passed over {shown}{', ...' * (len(kinds) > 10)}{heic}"] if kinds else []


def _stamp(root: str, listing: Listing, *files: str) -> str:
    """Return the stamp of images that have paths, and of files beside them."""
    top = os.path.abspath(root)  # noqa: PTH100
    images = (os.path.join(top, path) for path in listing.paths or () if path)  # noqa: PTH118
    return stamp((*files, *images), *listing.class_names)


def _named(labels: Sequence[str]) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    """Return the class names, sorted (as numbers if all are numbers), and the place of each row's name among them."""
    distinct = set(labels)
    names = sorted(distinct, key=int) if all(map(str.isdecimal, distinct)) else sorted(distinct)
    place = {name: i for i, name in enumerate(names)}
    return tuple(names), np.array([place[label] for label in labels], dtype=np.int64)
