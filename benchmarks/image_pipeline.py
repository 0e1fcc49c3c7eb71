"""Images per second from stored photographs to training batches, against the bare functions and a DataLoader.

    python benchmarks/image_pipeline.py ~/cifar10-jpeg/train        # any folder of <class>/*.jpg

It takes 15 minutes on two cores. Photographs of 320 x 256 and of 500 x 375 pixels are made of the folder's images, in
tiles, so that the large ones have as many bytes as ImageNet's, 104 kB, and are written as JPEGs once. From these, every
side makes random-resized crops of 160, 128 or 224 pixels, half of them mirrored, with the same number of workers:

* bare decoding decodes the store's JPEGs in threads, and drops them;
* the functions decode, crop and resize (antialiased) each image by itself, and drop it: TorchCodec, then
  torchvision.transforms.v2.functional, on planes or with channels last. The fastest way is the bound;
* our pipeline shuffles, reads its store in threads and hands on batches of bytes, as a GPU gets them, which normalises
  them itself; or of normalised floats, made on the CPU;
* `ImageFolder` with a `DataLoader` and transforms for each image is what most people write.

The sides take turns, and a share is the median over rounds of shares within a round. Processor time, in which other
work on the machine hardly shows, stands beside.
"""

import argparse
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
import torch
from PIL import Image
from torchvision import transforms
from torchvision.datasets import ImageFolder
from torchvision.transforms.v2 import functional

from sourcewise.data import ImageDataset
from sourcewise.data.decoding import decode
from sourcewise.data.store import Listing, prepared
from sourcewise.lightning_modules.crops import RandomResizedCrop
from sourcewise.lightning_modules.data import CHUNK, Batches, Examples, Normalise

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
SETTINGS = ((320, 256, 64, (160,)), (500, 375, 25, (128, 224)))
"""Width and height of photographs, side of their tiles, and sides of crops."""
DECODING, FUNCTIONS = "bare decoding", "functions, {}"
LAYOUTS = {
    "planes": torch.contiguous_format,
    "channels last, as decoded": torch.preserve_format,
    "channels last, moved together": torch.channels_last,
}
"""In which order in memory a crop is resized."""


def photographs(source: Path, out: Path, count: int, width: int, height: int, tile: int) -> None:
    """Tile images of a class, resized to `tile` pixels, into each photograph; as many of each class."""
    rng = np.random.default_rng(0)
    folders = sorted(path for path in source.iterdir() if path.is_dir())
    corners = [(left, top) for top in range(0, height, tile) for left in range(0, width, tile)]
    for folder in folders:
        (out / folder.name).mkdir(parents=True)
        files = sorted(folder.iterdir())
        for number in range(count // len(folders)):
            photograph = Image.new("RGB", (width, height))
            for corner, chosen in zip(corners, rng.integers(len(files), size=len(corners)), strict=True):
                picture = Image.open(files[chosen]).convert("RGB")
                photograph.paste(picture.resize((tile, tile), Image.Resampling.BICUBIC), corner)
            photograph.save(out / folder.name / f"{number:05}.jpg", quality=90)


def listing(folder: Path) -> Listing:
    """List the photographs as `prepared` takes them."""
    files = ImageFolder(str(folder))
    return Listing(lambda row: Image.open(files.samples[row][0]), files.targets, files.classes)


def ours(dataset: ImageDataset, workers: int, batch: int, side: int, floats: bool) -> int:
    """One epoch of our pipeline: of normalised floats, or of bytes."""
    examples = Examples(dataset.images, dataset.labels, dataset.ids)
    options = {"crop": RandomResizedCrop(flip=True), "resolution": side, "threads": workers, "order_seed": 0}
    batches = Batches(examples, batch, Normalise(MEAN, STD) if floats else lambda images: images, **options)
    return sum(len(made.labels) for made in batches)


def functions(dataset: ImageDataset, workers: int, make: Callable[[torch.Tensor, list[int]], object]) -> int:
    """Decode every image, do with it and a random crop what `make` does, and drop it."""
    store, crop = dataset.images, RandomResizedCrop(flip=True)
    boxes = crop(store.sizes, torch.Generator().manual_seed(0)).tolist()

    def chunk(rows: range) -> None:
        for row in rows:
            make(decode(store.encoded(row)), boxes[row])

    with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        list(pool.map(chunk, (range(i, min(i + CHUNK, len(store))) for i in range(0, len(store), CHUNK))))
    return len(store)


def resized(image: torch.Tensor, box: list[int], side: int, layout: torch.memory_format) -> torch.Tensor:
    """Crop, resize and mirror by torchvision.v2."""
    top, left, height, width = box
    part = functional.crop(image[None], top, left, height, abs(width))
    if layout != torch.preserve_format:
        part = part.contiguous(memory_format=layout)
    part = functional.resize(part, [side, side], antialias=True)
    return functional.horizontal_flip(part) if width < 0 else part


def ordinary(folder: Path, workers: int, batch: int, side: int) -> int:
    """ImageFolder, DataLoader, and transforms for each image."""
    steps = [transforms.RandomResizedCrop(side), transforms.RandomHorizontalFlip(), transforms.ToTensor()]
    dataset = ImageFolder(str(folder), transforms.Compose([*steps, transforms.Normalize(MEAN, STD)]))
    loader = torch.utils.data.DataLoader(dataset, batch, shuffle=True, num_workers=workers)
    return sum(len(labels) for _, labels in loader)


def processor_time() -> float:
    """Seconds of this process and of its children that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(item.ru_utime + item.ru_stime for item in used)


def measure(sides: dict[str, Callable[[], int]], rounds: int) -> dict[str, np.ndarray]:
    """Let the sides take turns. Return wall and processor seconds an image, `float[rounds, 2]`, of each."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
    for round_ in range(rounds + 1):
        for name, run in sides.items():
            start, used = time.perf_counter(), processor_time()
            images = run()
            if round_:  # the first warms up
                times[name].append(((time.perf_counter() - start) / images, (processor_time() - used) / images))
        print(f"round {round_} of {rounds}", file=sys.stderr, flush=True)
    return {name: np.array(values) for name, values in times.items()}


def show(times: dict[str, np.ndarray]) -> None:
    """Print the table."""
    bound = min(map(FUNCTIONS.format, LAYOUTS), key=lambda name: median(times[name][:, 1]))
    print("\n| | images/s | of decoding | of the bound | processor ms an image | of decoding | of the bound |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for name, spent in times.items():
        shares = [np.median(times[other] / spent, axis=0) for other in (DECODING, bound)]
        wall, processor = np.median(spent, axis=0)
        columns = [f"{1 / wall:,.0f}", *(f"{share[0]:.2f}" for share in shares)]
        columns += [f"{1000 * processor:.3f}", *(f"{share[1]:.2f}" for share in shares)]
        print(f"| {name}{', the bound' * (name == bound)} | {' | '.join(columns)} |", flush=True)


def main() -> None:
    """Print a table for each size of photographs and crops."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="images as <class>/*.jpg")
    parser.add_argument("--count", type=int, default=2000, help="photographs of each size")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    options = parser.parse_args()
    workers, batch = options.workers, options.batch
    torch.set_num_threads(1)
    for width, height, tile, crops in SETTINGS:
        with tempfile.TemporaryDirectory() as folder:
            photos = Path(folder, "photographs")
            photographs(options.folder, photos, options.count, width, height, tile)
            dataset = prepared(partial(listing, photos), str(Path(folder, "store.arrow")), side=height)
            half = dataset.keep_groups(np.arange(len(dataset.group_names)) % 2 == 0)
            for side in crops:
                print(f"\n{len(dataset)} photographs of {width} x {height}, batches of {batch} crops of {side} pixels,")
                print(f"{workers} workers, torch {torch.__version__}", flush=True)
                sides: dict[str, Callable[[], int]] = {
                    DECODING: partial(functions, dataset, workers, lambda image, box: None),
                    **{
                        FUNCTIONS.format(name): partial(
                            functions, dataset, workers, partial(resized, side=side, layout=layout)
                        )
                        for name, layout in LAYOUTS.items()
                    },
                    "our pipeline, bytes": partial(ours, dataset, workers, batch, side, floats=False),
                    "our pipeline, bytes, half the groups": partial(ours, half, workers, batch, side, floats=False),
                    "our pipeline, floats": partial(ours, dataset, workers, batch, side, floats=True),
                    "ImageFolder + DataLoader": partial(ordinary, photos, workers, batch, side),
                }
                show(measure(sides, options.rounds))


if __name__ == "__main__":
    main()
