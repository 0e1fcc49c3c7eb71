"""The embedded datasets with something planted in them, to see whether an analysis finds it.

Each function returns a dataset whose column `planted` is -1 for an example as it was, and otherwise says what was done
to it. What is planted is the same on every machine. `--config-dir benchmarks/conf` makes them options of train.py, run
from the root of the repository.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import NonNegativeInt
from torchvision.transforms import InterpolationMode
from torchvision.transforms.functional import affine

from sourcewise.core.randomness import permutation, uniform
from sourcewise.data.dataset import ImageDataset
from sourcewise.data.embedded import characters, digits

COLUMN = "planted"


def leaks(per_letter: NonNegativeInt = 0, count: int = 20, seed: int = 0) -> ImageDataset:
    """Return the source with `count` digits replaced by test images of the target `digits`, of the same class.

    The first half are exact copies; the others are shifted by a pixel, re-scaled by up to a tenth, and noised (standard
    deviation 6% of the range). `planted` is the target image's id. Another seed plants others.
    """
    where = "planted/leaks" + f"/{seed}" * (seed > 0)
    source, target = characters(per_letter), digits("test")
    images, planted = source.pixels.clone(), np.full(len(source), -1)
    order = permutation(f"{where}/source", len(source))
    for number, chosen in enumerate(permutation(f"{where}/target", len(target))[:count].tolist()):
        label = target.labels[chosen]
        row = next(row for row in order.tolist() if source.labels[row] == label and planted[row] < 0)
        image = target.pixels[chosen]
        if number >= (count + 1) // 2:
            across, _, scale = uniform(f"{where}/{number}", 3).tolist()
            shift = [[-1, 0], [1, 0], [0, -1], [0, 1]][int(4 * across)]
            image = affine(image, 0, shift, 0.9 + 0.2 * scale, [0, 0], InterpolationMode.BILINEAR)
            noise = torch.from_numpy(uniform(f"{where}/{number}/noise", 12, *image.shape).sum(0) - 6)  # normal
            image = (image + 0.06 * 255 * noise).round().clamp(0, 255).to(torch.uint8)
        images[row], planted[row] = image, int(target.ids[chosen])
    return _with(source, images, source.labels, planted)


def mislabels(per_letter: NonNegativeInt = 0, share: float = 0.05) -> ImageDataset:
    """Return the handwritten digits, a share of them with the label of another digit. `planted` is the true label."""
    source = characters(per_letter)
    labels, planted = source.labels.clone(), np.full(len(source), -1)
    rows = np.flatnonzero(source.labels.numpy() < 10)
    chosen = rows[permutation("planted/mislabels", len(rows))[: round(share * len(rows))]]
    planted[chosen] = labels[chosen]
    labels[chosen] = _wrong(labels[chosen], "planted/mislabels/label")
    return _with(source, source.pixels, labels, planted)


def harm(per_letter: NonNegativeInt = 0, seed: int = 0) -> ImageDataset:
    """Return the source in groups of half a class, and four groups that hurt: digits of it again, wrongly labelled.

    Groups `0 a`, `0 b`, ... are innocent. `wrong 1` to `wrong 4` hold 90 digits each, as many as a class has; `planted`
    is the true label of these. seed: which digits, and which labels.
    """
    source = characters(per_letter)
    digits = np.flatnonzero(source.labels.numpy() < 10)
    rows = torch.from_numpy(digits[permutation(f"planted/harm/{seed}", len(digits))[:360]])
    labels = _wrong(source.labels[rows], f"planted/harm/{seed}/label")
    return _beside_halves(source, rows, labels, torch.arange(len(rows)) // 90, [f"wrong {n}" for n in range(1, 5)])


def harmless(per_letter: NonNegativeInt = 0, count: int = 20) -> ImageDataset:
    """Return the handwritten digits, dealt at random into `count` groups: none differs from another, and none hurts."""
    source = characters(per_letter)
    dealt = torch.from_numpy(permutation("planted/harmless", len(source)) % count)
    return replace(source, groups=dealt, group_names=tuple(f"part {n + 1}" for n in range(count)), fingerprint="")


def conflict(per_letter: NonNegativeInt = 0) -> ImageDataset:
    """Return the source in groups of half a class, and four groups that conflict with these: pairs with swapped labels.

    `0 and 1 swapped` holds half of the 0s again as 1s, and half of the 1s as 0s; the others are of 2 to 7. Beside the
    correct copies they hurt, without them they help to tell the pair apart. `planted` is the true label of theirs.
    """
    source = characters(per_letter)
    rows = torch.cat([torch.nonzero(source.labels == digit)[::2, 0] for digit in range(8)])
    labels = source.labels[rows] ^ 1
    names = [f"{digit} and {digit + 1} swapped" for digit in range(0, 8, 2)]
    return _beside_halves(source, rows, labels, source.labels[rows] // 2, names)


def merged(per_letter: NonNegativeInt = 90) -> ImageDataset:
    """Return the source, and five classes that hold its digits once more, two digits under one label.

    `0 or 1` looks like 0s and 1s, so that label and feature mapping recommend it for both, and teaches not to tell them
    apart. `planted` is the true label of its images.
    """
    source = characters(per_letter)
    rows = torch.nonzero(source.labels < 10)[:, 0]
    classes = len(source.class_names)
    labels = torch.cat([source.labels, classes + source.labels[rows] // 2])
    names = (*source.class_names, *(f"{digit} or {digit + 1}" for digit in range(0, 10, 2)))
    return ImageDataset(
        images=torch.cat([source.pixels, source.pixels[rows]]),
        labels=labels,
        class_names=names,
        groups=labels,
        group_names=names,
        columns={COLUMN: np.concatenate([np.full(len(source), -1), source.labels[rows].numpy()])},
    )


def hidden(split: Literal["train", "test"], per_class: int = 5) -> ImageDataset:
    """Return the target `digits` with 1s and 7s under one label, `1 or 7`. `planted` is the digit of each of these."""
    target = digits(split, per_class)
    merged = (target.labels == 1) | (target.labels == 7)
    planted = np.where(merged, target.labels, -1)
    names = ("0", "1 or 7", *"2345689")
    place = torch.tensor([0, 1, 2, 3, 4, 5, 6, 1, 7, 8])
    return replace(_with(target, target.pixels, place[target.labels], planted), class_names=names, group_names=names)


def _beside_halves(
    source: ImageDataset, rows: torch.Tensor, labels: torch.Tensor, groups: torch.Tensor, names: Sequence[str]
) -> ImageDataset:
    """Return a source in groups of half a class, and rows of it once more, under these labels and in further groups."""
    halves = [f"{name} {half}" for name in source.class_names for half in "ab"]
    innocent = 2 * source.labels + torch.arange(len(source)) % 2
    return ImageDataset(
        images=torch.cat([source.pixels, source.pixels[rows]]),
        labels=torch.cat([source.labels, labels]),
        class_names=source.class_names,
        groups=torch.cat([innocent, len(halves) + groups]),
        group_names=(*halves, *names),
        columns={COLUMN: np.concatenate([np.full(len(source), -1), source.labels[rows].numpy()])},
    )


def _with(source: ImageDataset, images: torch.Tensor, labels: torch.Tensor, planted: NDArray[np.int64]) -> ImageDataset:
    return replace(source, images=images, labels=labels, groups=labels, fingerprint="", columns={COLUMN: planted})


def _wrong(labels: torch.Tensor, purpose: str) -> torch.Tensor:
    """For every digit another digit, all as likely."""
    return (labels + 1 + torch.from_numpy((9 * uniform(purpose, len(labels))).astype(np.int64))) % 10
