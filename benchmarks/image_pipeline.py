"""Images per second from stored photographs to normalised training batches, against bare decoding and a DataLoader.

    python benchmarks/image_pipeline.py ~/cifar10-jpeg/train        # any folder of <class>/*.jpg

Photographs of 320x256 pixels are made of the folder's images, 20 of a class tiled and enlarged to each, and written as
JPEGs once. Every side makes batches of 160 pixels with random-resized crops, flips and normalisation, on the CPU with
the same number of workers: our pipeline reads its store in threads ("up to the device" leaves out what a GPU does where
there is one: the change to normalised floats); `ImageFolder` with a `DataLoader` and transforms
for each image is what most people write; bare decoding decodes the store's JPEGs and drops them. The sides take turns
and medians over rounds are reported; processor time, in which other work on the machine does not show, stands beside.
"""

import argparse
import os
import resource
import sys
import tempfile
import time
import warnings
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

from sourcewise.data import ImageDataset
from sourcewise.data.store import Listing, decode, prepared
from sourcewise.lightning_modules.crops import RandomResizedCrop
from sourcewise.lightning_modules.data import Batches, Examples, Normalise

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


def photographs(source: Path, out: Path, count: int) -> None:
    """Tile 5x4 images of a class, enlarged to 64 pixels, into each photograph; as many of each class."""
    rng = np.random.default_rng(0)
    folders = sorted(path for path in source.iterdir() if path.is_dir())
    for folder in folders:
        (out / folder.name).mkdir(parents=True)
        files = sorted(folder.iterdir())
        for number in range(count // len(folders)):
            photograph = Image.new("RGB", (320, 256))
            for place, chosen in enumerate(rng.integers(len(files), size=20)):
                tile = Image.open(files[chosen]).convert("RGB").resize((64, 64), Image.Resampling.BICUBIC)
                photograph.paste(tile, (place % 5 * 64, place // 5 * 64))
            photograph.save(out / folder.name / f"{number:05}.jpg", quality=90)


def listing(folder: Path) -> Listing:
    """List the photographs as `prepared` takes them."""
    files = ImageFolder(str(folder))
    return Listing(lambda row: Image.open(files.samples[row][0]), files.targets, files.classes)


def ours(dataset: ImageDataset, workers: int, batch: int, side: int) -> int:
    """One epoch of our pipeline."""
    examples = Examples(dataset.images, dataset.labels, dataset.ids)
    options = {"crop": RandomResizedCrop(flip=True), "resolution": side, "threads": workers, "order_seed": 0}
    batches = Batches(examples, batch, Normalise(MEAN, STD), **options)
    return sum(len(made.labels) for made in batches)


def read(dataset: ImageDataset, workers: int, side: int) -> int:
    """Our pipeline up to the device: decoded, cropped, mirrored and resized bytes."""
    store = dataset.images
    boxes = RandomResizedCrop(flip=True)(store.sizes, torch.Generator().manual_seed(0))

    def chunk(rows: torch.Tensor) -> None:
        store.read(rows, boxes[rows], torch.empty(len(rows), side, side, 3, dtype=torch.uint8).permute(0, 3, 1, 2))

    with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        list(pool.map(chunk, torch.arange(len(store)).split(8)))
    return len(store)


def bare(dataset: ImageDataset, workers: int) -> int:
    """Decode every image and drop it."""
    store = dataset.images

    def chunk(rows: range) -> None:
        for row in rows:
            decode(store.encoded(row))

    with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        list(pool.map(chunk, (range(i, min(i + 8, len(store))) for i in range(0, len(store), 8))))
    return len(store)


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


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="images as <class>/*.jpg")
    parser.add_argument("--count", type=int, default=2000, help="photographs")
    parser.add_argument("--side", type=int, default=160)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder:
        photos = Path(folder, "photographs")
        photographs(options.folder, photos, options.count)
        dataset = prepared(partial(listing, photos), str(Path(folder, "store.arrow")), side=256)
        half = dataset.keep_groups(np.arange(len(dataset.group_names)) % 2 == 0)
        workers, batch, side = options.workers, options.batch, options.side
        sides: dict[str, Callable[[], int]] = {
            "bare decoding": partial(bare, dataset, workers),
            "our pipeline up to the device": partial(read, dataset, workers, side),
            "our pipeline": partial(ours, dataset, workers, batch, side),
            "our pipeline, half the groups": partial(ours, half, workers, batch, side),
            "ImageFolder + DataLoader": partial(ordinary, photos, workers, batch, side),
        }
        wall: dict[str, list[float]] = {name: [] for name in sides}
        cpu: dict[str, list[float]] = {name: [] for name in sides}
        for round_ in range(options.rounds + 1):
            for name, run in sides.items():
                start, used = time.perf_counter(), processor_time()
                run()
                if round_:  # the first warms up
                    wall[name].append(time.perf_counter() - start)
                    cpu[name].append(processor_time() - used)
            print(f"round {round_} of {options.rounds}", file=sys.stderr, flush=True)
    print(
        f"{len(dataset)} photographs, {workers} workers, batches of {batch} at {side} pixels, torch {torch.__version__}"
    )
    print("\n| | images/s | of bare decoding | epoch, s | epoch, processor s | of bare decoding |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name in sides:
        images = len(half) if "half" in name else len(dataset)
        share, used = (
            median(images / len(dataset) * a / b for a, b in zip(times["bare decoding"], times[name], strict=True))
            for times in (wall, cpu)
        )
        rate, seconds, processor = images / median(wall[name]), median(wall[name]), median(cpu[name])
        print(f"| {name} | {rate:.0f} | {share:.2f} | {seconds:.2f} | {processor:.2f} | {used:.2f} |")


if __name__ == "__main__":
    main()
