"""Images resized once into one Arrow file, which is mapped into memory and read by row.

A subset reads its own images and no others, in any order. The file holds JPEG bytes, or raw pixels for small images,
with what is known of each image; its last batch carries the names and the fingerprint. Any Arrow reader opens it.
"""

import bisect
import fcntl
import functools
import hashlib
import io
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from sourcewise.core.errors import SourcewiseError
from sourcewise.core.messages import print_once, printable
from sourcewise.data import decoding
from sourcewise.data.dataset import ImageDataset
from sourcewise.data.pictures import depth, eight_bit, is_dark

if TYPE_CHECKING:
    from PIL import Image

Format = Literal["jpeg", "raw"]

BROKEN = (OSError, ValueError, SyntaxError)
"""What PIL raises for broken files."""

SCHEMA = 2
"""Version of a store's file. With another version, stores are made anew."""
_HASHED = {"schema": 2}
"""Settings that fingerprints are computed with in every version, so that data keep their fingerprint."""
COLUMN = "column "
"""What a listing's columns have before their names in a store, so that none is taken for the store's own."""
OPTIONAL = ("path", "digest")
"""Columns of ours that older stores do not have."""
BATCH = 1000
"""Images in a record batch."""


class BrokenImageError(SourcewiseError):
    """An image cannot be opened. setting: the full name of the dataset's settings, where it is known."""

    def __init__(self, problem: str, setting: str = "") -> None:
        where = f"{setting}.broken=skip" if setting else "the dataset's setting broken=skip"
        super().__init__(f"{problem}; {where} leaves such images out")
        self.problem = problem


@dataclass(frozen=True)
class Listing:
    """A dataset as files: how to open each image, and what is known of it.

    open(row): a PIL image of 8 bits, or of larger numbers (mode I), which the store makes 8 bits by the range that all
    images use; raises OSError or ValueError for one that is broken. labels: int64[n], in range(len(class_names));
    columns: further values per image. paths: where each image lies, as seen from the dataset's root; None where there
    is no file. notes: lines about what was left out, or may not be meant. parent: the listing that these images were
    chosen from, whose range counts. origin: where the images are from, in words.
    """

    open: Callable[[int], "Image.Image"]
    labels: Sequence[int] | NDArray[np.int64] | Tensor
    class_names: Sequence[str]
    columns: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    paths: Sequence[str | None] | None = None
    notes: Sequence[str] = ()
    parent: "Listing | None" = None
    origin: str = ""


class Store:
    """JPEG images of an open file, or some of them; see `lightning_modules.data.Stored`."""

    def __init__(self, images: Sequence[pa.Array], channels: int, rows: Tensor, sizes: Tensor) -> None:
        self.sizes, self._images, self._channels, self._rows = sizes, images, channels, rows
        self._ends = np.cumsum([len(batch) for batch in images]).tolist()

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of images and of channels."""
        return len(self._rows), self._channels

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, rows: Tensor) -> "Store":
        """Select by a bool mask or by indices; nothing is read."""
        return Store(self._images, self._channels, self._rows[rows], self.sizes[rows])

    def encoded(self, row: int) -> Tensor:
        """Return an image's bytes, `uint8[bytes]`."""
        row = int(self._rows[row])
        batch = bisect.bisect_right(self._ends, row)
        images = self._images[batch]
        return torch.frombuffer(bytearray(images[row - self._ends[batch] + len(images)].as_buffer()), dtype=torch.uint8)

    def read(self, rows: Tensor, boxes: Tensor, out: Tensor) -> None:
        """Decode the images `rows`, cut out `boxes` `int64[n, 4]`, and resize them into `out` uint8[n, c, s, s].

        A box of negative width is mirrored. All of it is done on the device of `out`.
        """
        if out.device.type != "cpu":
            decoding.read_on_gpu([self.encoded(row) for row in rows.tolist()], boxes, out)
            return
        for row, box, place in zip(rows.tolist(), boxes.tolist(), out, strict=True):
            decoding.read(self.encoded(row), box, place)


def prepared(
    listing: Callable[[], Listing],
    path: str,
    side: int,
    format: Format = "jpeg",
    channels: Literal[1, 3] = 3,
    quality: int = 90,
    broken: Literal["error", "skip"] = "error",
) -> ImageDataset:
    """Return the dataset in the store at `path`, which is made first if it is missing.

    listing: lists the images; called only when the store is made. side: of a jpeg, pixels of the shorter side, which is
    shrunk to this and never enlarged; of raw images, which are square and cut from the centre, pixels of both. The
    other settings are those of `load.load`.

    Raises SourcewiseError for a broken image or file, or one that was made with other settings.
    """
    file = Path(path)
    settings = {"schema": SCHEMA, "side": side, "format": format, "channels": channels, "quality": quality}
    if not file.exists():
        with _alone(file):  # all runs of a sweep may come here at once
            if not file.exists():
                _write(listing(), file, settings, broken == "skip")
    return open_store(file, settings)


def content(file: Path) -> tuple[list[pa.RecordBatch], dict[str, Any]]:
    """Return a store's batches, mapped into memory, and its header. Raises SourcewiseError if it is not whole."""
    try:
        reader = pa.ipc.open_file(pa.memory_map(str(file)))
        *batches, (_, last) = (reader.get_batch_with_custom_metadata(i) for i in range(reader.num_record_batches))
        return [batch for batch, _ in batches], json.loads(last[b"sourcewise"])
    except (OSError, pa.ArrowException, ValueError, KeyError, TypeError) as error:
        raise SourcewiseError(f"{file}: not a whole store of images; delete it and it will be made again") from error


def remove(file: Path) -> None:
    """Remove a store and what was left of making it; a process that is making it is waited for."""
    with _alone(file):
        for path in (file, *file.parent.glob(f".{file.name}.*")):  # with its lock
            path.unlink(missing_ok=True)


def open_store(file: Path, settings: Mapping[str, Any]) -> ImageDataset:
    """Open a store that exists, and return its dataset. Raises SourcewiseError if it was made with other settings."""
    batches, header = content(file)
    if differing := {key: header.get(key) for key, value in settings.items() if header.get(key) != value}:
        wanted = {key: settings[key] for key in differing}
        raise SourcewiseError(f"{file}: made with {differing}, not {wanted}; delete it, or give another path")
    table = pa.Table.from_batches(batches).drop_columns(["image"])
    arrays = (table.column(name).to_numpy().copy() for name in ("label", "id", "height", "width"))
    labels, ids, height, width = map(torch.from_numpy, arrays)
    names = [name for name in table.column_names if name.startswith(COLUMN)]
    columns = {name.removeprefix(COLUMN): table.column(name).to_numpy() for name in names}
    paths, digests = (table.column(name).to_numpy() if name in table.column_names else None for name in OPTIONAL)
    encoded = [batch.column("image") for batch in batches]
    images: Tensor | Store
    if header["format"] == "raw":
        pixels = np.concatenate([np.frombuffer(image.as_buffer(), np.uint8) for part in encoded for image in part])
        images = torch.from_numpy(pixels).view(len(labels), header["side"], header["side"], -1)
        images = images.permute(0, 3, 1, 2).contiguous()
    else:
        sizes = torch.stack([height, width], 1)
        images = Store(encoded, header["channels"], torch.arange(len(labels)), sizes)
    return ImageDataset(
        images,
        labels,
        tuple(header["class_names"]),
        ids,
        fingerprint=header["fingerprint"],
        columns=columns,
        paths=paths,
        digests=digests,
    )


def _write(listing: Listing, file: Path, settings: Mapping[str, Any], skip: bool) -> None:
    """Resize and encode on all cores, and write atomically."""
    labels = np.asarray(listing.labels, dtype=np.int64)
    count, skipped, dark, lock = len(labels), dict[int, str](), list[bool](), Lock()
    place = printable(listing.origin or str(file))
    state = hashlib.sha256(repr(({**settings, **_HASHED}, tuple(listing.class_names))).encode())
    print(f"preparing {file}: {count} images, once", file=sys.stderr, flush=True)
    for note in listing.notes:
        print_once(note)
    bits = functools.cache(lambda: _bits(listing.parent or listing, place))

    def first_reason() -> str:
        return printable("the first: " + next(iter(skipped.values()), "there is none"))

    def encode(row: int) -> tuple[bytes, int, int] | Exception:
        try:
            image = listing.open(row)
            if image.mode == "I":
                with lock:  # the first of these images has all others looked at
                    bits()
                image = eight_bit(image, bits())
            return _encode(image, settings, dark)
        except BROKEN as error:
            return error

    def batches() -> Iterator[pa.RecordBatch]:
        for start in tqdm(range(0, count, BATCH), unit="k", disable=None):
            rows, images = range(start, min(start + BATCH, count)), []
            for row, result in zip(rows, pool.map(encode, rows), strict=True):
                if isinstance(result, Exception):
                    has_path = listing.paths and listing.paths[row]
                    reason = str(result) if has_path else f"{place}: image {row} of {count} is broken ({result})"
                    if not skip:
                        raise BrokenImageError(reason)
                    skipped[row] = reason
                else:
                    images.append((row, *result))
                    state.update(result[0])
            if images:
                ids, encoded, height, width = zip(*images, strict=True)
                chosen = np.array(ids)
                state.update(chosen.tobytes() + labels[chosen].tobytes())
                known = {"id": chosen, "label": labels[chosen], "height": np.array(height), "width": np.array(width)}
                known |= {COLUMN + name: np.asarray(values)[chosen] for name, values in listing.columns.items()}
                if listing.paths is not None:
                    known["path"] = pa.array([_printable(listing.paths[row]) for row in ids], pa.string())
                known["digest"] = np.array([_digest(image) for image in encoded], np.uint64)
                yield pa.RecordBatch.from_pydict({"image": pa.array(encoded, pa.binary()), **known})

    temporary = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    try:
        with ThreadPoolExecutor(os.cpu_count()) as pool, pa.OSFile(str(temporary), "wb") as sink:
            made = batches()
            if (first := next(made, None)) is None:
                raise SourcewiseError(f"{place}: none of its {count} images can be opened; {first_reason()}")
            with pa.ipc.new_file(sink, first.schema) as writer:
                writer.write_batch(first)
                for batch in made:
                    writer.write_batch(batch)
                header = {**settings, "class_names": list(listing.class_names), "fingerprint": state.hexdigest()[:16]}
                header |= {"skipped": list(skipped), "origin": listing.origin}
                writer.write_batch(first.slice(0, 0), custom_metadata={"sourcewise": json.dumps(header)})
        temporary.replace(file)
    except OSError as error:
        raise SourcewiseError(f"{file}: cannot be written ({error})") from error
    finally:
        temporary.unlink(missing_ok=True)
    if skipped:
        summary = f"{place}: {len(skipped)} of {count} images are broken and were left out; {first_reason()}"
        print(summary, file=sys.stderr, flush=True)
    if 2 * sum(dark) > count:
        print_once(f"{place}: {sum(dark)} of {count} images are nearly black: 99% of their values are below 16 of 255")


def _bits(listing: Listing, place: str) -> int:
    """Return the bit depth of a dataset's images of more than 8 bits, and print it if it is not 16."""

    def largest(row: int) -> int:
        with suppress(*BROKEN):
            image = listing.open(row)
            return int(image.getextrema()[1]) if image.mode == "I" else 0  # type: ignore[arg-type]
        return 0

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        top = max(pool.map(largest, range(len(listing.labels))))
    bits = depth(top)
    if bits != 16:
        print_once(
            f"{place}: its images of more than 8 bits hold numbers up to {top}; they are taken as {bits}-bit images"
        )
    return bits


def _printable(path: str | None) -> str | None:
    """Return a path as text that Arrow takes: bytes of it that are no UTF-8 become question marks."""
    return path if path is None else path.encode(errors="replace").decode()


def _digest(image: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(image, digest_size=8).digest())


def _encode(image: "Image.Image", settings: Mapping[str, Any], dark: list[bool]) -> tuple[bytes, int, int]:
    """Return the image's bytes, height and width in the store; add to `dark` whether it is nearly black."""
    from PIL import Image  # slow to import, and only needed here

    side: int = settings["side"]
    image = image.convert("L" if settings["channels"] == 1 else "RGB")
    scale = side / min(image.size)
    if settings["format"] == "raw" or scale < 1:
        width, height = (max(side, int(length * scale)) for length in image.size)
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    dark.append(is_dark(image))
    if settings["format"] == "raw":
        left, top = (image.width - side) // 2, (image.height - side) // 2
        return image.crop((left, top, left + side, top + side)).tobytes(), side, side
    file = io.BytesIO()
    image.save(file, "JPEG", quality=settings["quality"])
    return file.getvalue(), image.height, image.width


@contextmanager
def _alone(file: Path) -> Iterator[None]:
    """Hold the lock of a file, which one process of this machine has at a time."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.with_name(f".{file.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
    except OSError as error:
        advice = "choose another folder by the setting cache_dir of source.train, or by XDG_CACHE_HOME for all"
        raise SourcewiseError(f"{file}: cannot be made ({error.strerror}); {advice}") from error
