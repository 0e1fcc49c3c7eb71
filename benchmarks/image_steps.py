"""Microseconds an image of single steps, on one core: decoders, and ways to crop, resize and mirror what they give.

    pip install simplejpeg opencv-python-headless           # neither is needed by sourcewise
    python benchmarks/image_steps.py ~/cifar10-jpeg/train    # any folder of <class>/*.jpg

It takes three minutes. The photographs, crops and turns are those of image_pipeline.py; times are processor time.
"""

import argparse
import io
import tempfile
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median

import cv2
import numpy as np
import simplejpeg
import torch
import torchvision
from image_pipeline import LAYOUTS, SETTINGS, photographs, resized
from PIL import Image

from sourcewise.data import decoding
from sourcewise.lightning_modules.crops import RandomResizedCrop

DECODERS: dict[str, Callable[[bytes], object]] = {
    "TorchCodec": lambda jpeg: decoding.decode(torch.frombuffer(bytearray(jpeg), dtype=torch.uint8)),
    "torchvision": lambda jpeg: torchvision.io.decode_jpeg(torch.frombuffer(bytearray(jpeg), dtype=torch.uint8)),
    "simplejpeg": simplejpeg.decode_jpeg,
    "OpenCV": lambda jpeg: cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR_RGB),
    "Pillow": lambda jpeg: Image.open(io.BytesIO(jpeg)).load(),
}


def by_opencv(image: torch.Tensor, box: list[int], side: int, filter_: int) -> np.ndarray:
    """Crop, resize and mirror by OpenCV, which averages over areas to avoid aliasing."""
    top, left, height, width = box
    part = image.permute(1, 2, 0).numpy()[top : top + height, left : left + abs(width)]
    part = cv2.resize(part, (side, side), interpolation=filter_)
    return cv2.flip(part, 1) if width < 0 else part


def by_pillow(image: torch.Tensor, box: list[int], side: int) -> Image.Image:
    """Crop, resize and mirror by Pillow, whose filters avoid aliasing."""
    top, left, height, width = box
    whole = Image.fromarray(image.permute(1, 2, 0).numpy())
    part = whole.resize((side, side), Image.Resampling.BILINEAR, (left, top, left + abs(width), top + height))
    return part.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if width < 0 else part


def steps(jpegs: list[bytes], size: tuple[int, int], sides: tuple[int, ...]) -> dict[str, Callable[[int], object]]:
    """Return what is done to an image, given its number, by step and way."""
    decoded = [DECODERS["TorchCodec"](jpeg) for jpeg in jpegs]
    boxes = RandomResizedCrop(flip=True)(torch.tensor([size] * len(jpegs)), torch.Generator().manual_seed(0)).tolist()
    doing = {f"decoding | {name}": lambda i, f=decode: f(jpegs[i]) for name, decode in DECODERS.items()}
    ways = {f"torchvision, {name}": partial(resized, layout=layout) for name, layout in LAYOUTS.items()}
    ways |= {"OpenCV, by area": partial(by_opencv, filter_=cv2.INTER_AREA), "Pillow": by_pillow}
    ways |= {"OpenCV, linear, with aliasing": partial(by_opencv, filter_=cv2.INTER_LINEAR)}
    for side in sides:
        for name, way in ways.items():
            doing[f"to {side} pixels | {name}"] = lambda i, f=way, side=side: f(decoded[i], boxes[i], side=side)
    return doing


def microseconds(doing: dict[str, Callable[[int], object]], images: int, rounds: int) -> dict[str, float]:
    """Let the steps take turns. Return the median over rounds of the processor time of an image, of each."""
    times: dict[str, list[float]] = {name: [] for name in doing}
    for _ in range(rounds):
        for name, step in doing.items():
            start = time.thread_time()
            for image in range(images):
                step(image)
            times[name].append((time.thread_time() - start) / images * 1e6)
    return {name: median(values) for name, values in times.items()}


def main() -> None:
    """Print a table for each size of photographs and crops."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="images as <class>/*.jpg")
    parser.add_argument("--count", type=int, default=100, help="photographs of each size")
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    warnings.filterwarnings("ignore", "The image decoding and encoding capabilities of TorchVision")
    for width, height, tile, sides in SETTINGS:
        with tempfile.TemporaryDirectory() as folder:
            photographs(options.folder, Path(folder), options.count, width, height, tile)
            jpegs = [path.read_bytes() for path in sorted(Path(folder).rglob("*.jpg"))]
        print(f"\n{len(jpegs)} photographs of {width} x {height}, {sum(map(len, jpegs)) / len(jpegs) / 1000:.0f} kB")
        print("\n| step | way | µs |\n| --- | --- | --- |")
        for name, spent in microseconds(steps(jpegs, (height, width), sides), len(jpegs), options.rounds).items():
            print(f"| {name} | {spent:.0f} |", flush=True)


if __name__ == "__main__":
    main()
