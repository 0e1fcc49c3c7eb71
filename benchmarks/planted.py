"""The embedded datasets with something planted in them, to see whether an analysis finds it.

Each function returns a dataset whose column `planted` is -1 for an example as it was, and otherwise says what was done
to it. What is planted is the same on every machine. `--config-dir benchmarks/conf` makes them options of train.py, run
from the root of the repository.
"""

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
    halves = [f"{name} {half}" for name in source.class_names for half in "ab"]
    innocent = 2 * source.labels + torch.arange(len(source)) % 2
    return ImageDataset(
        images=torch.cat([source.pixels, source.pixels[rows]]),
        labels=torch.cat([source.labels, _wrong(source.labels[rows], f"planted/harm/{seed}/label")]),
        class_names=source.class_names,
        groups=torch.cat([innocent, len(halves) + torch.arange(len(rows)) // 90]),
        group_names=(*halves, *(f"wrong {number}" for number in range(1, 5))),
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


def _with(source: ImageDataset, images: torch.Tensor, labels: torch.Tensor, planted: NDArray[np.int64]) -> ImageDataset:
    return replace(source, images=images, labels=labels, groups=labels, fingerprint="", columns={COLUMN: planted})


def _wrong(labels: torch.Tensor, purpose: str) -> torch.Tensor:
    """For every digit another digit, all as likely."""
    return (labels + 1 + torch.from_numpy((9 * uniform(purpose, len(labels))).astype(np.int64))) % 10
