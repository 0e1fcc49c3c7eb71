"""Which part of a stored image is read, and at what size: pure functions of the images' sizes and the epoch."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Generator, Tensor

TRIES = 10


class Crop(Protocol):
    """A part of each image."""

    def __call__(self, sizes: Tensor, generator: Generator) -> Tensor:
        """Choose a box in each image. Return top, left, height and width, `int64[n, 4]`.

        sizes: heights and widths of the images, `int64[n, 2]`. A negative width of a box: it is mirrored left to right.
        """


class Resolution(Protocol):
    """The side, in pixels, of the images of an epoch."""

    def __call__(self, epoch: float) -> int:
        """Return the side in pixels."""


@dataclass(frozen=True)
class CentreCrop:
    """The square in the middle, `share` of the shorter side long: 224 of 256 pixels by default."""

    share: float = 224 / 256

    def __call__(self, sizes: Tensor, generator: Generator) -> Tensor:
        """Choose boxes. Return `int64[n, 4]`."""
        side = (self.share * sizes.amin(1, keepdim=True)).round().long().clamp_min(1).expand(-1, 2)
        return torch.cat([(sizes - side) // 2, side], 1)


@dataclass(frozen=True)
class RandomResizedCrop:
    """A random share of the area at a random aspect ratio (width to height): torchvision's, for all images at once.

    The first of ten tries that fits is taken; if none fits, the largest part in the middle of an allowed ratio.
    flip: mirror half of them, which costs less here than as an augmentation.
    """

    scale: Sequence[float] = (0.08, 1.0)
    ratio: Sequence[float] = (3 / 4, 4 / 3)
    flip: bool = False

    def __call__(self, sizes: Tensor, generator: Generator) -> Tensor:
        """Choose boxes. Return `int64[n, 4]`."""
        low, high = self.ratio
        draws = torch.rand(len(sizes), TRIES + 1, 2, dtype=torch.float64, generator=generator)
        area = sizes.prod(1, keepdim=True) * (self.scale[0] + (self.scale[1] - self.scale[0]) * draws[:, :TRIES, 0])
        ratio = torch.exp(math.log(low) + (math.log(high) - math.log(low)) * draws[:, :TRIES, 1])
        tries = torch.stack([(area / ratio).sqrt(), (area * ratio).sqrt()], 2).round().long()
        fits = ((tries > 0) & (tries <= sizes[:, None])).all(2)
        first = fits.int().argmax(1)
        height, width = sizes.unbind(1)
        middle = torch.stack(
            [torch.minimum(height, (width / low).round().long()), torch.minimum(width, (height * high).round().long())],
            1,
        )
        fitted = fits.any(1, keepdim=True)
        box = torch.where(fitted, tries[torch.arange(len(sizes)), first], middle)
        room = sizes - box
        place = torch.where(fitted, (draws[:, TRIES] * (room + 1)).long(), room // 2)
        if self.flip:
            box[:, 1] *= 1 - 2 * torch.randint(2, (len(sizes),), generator=generator)
        return torch.cat([place, box], 1)


@dataclass(frozen=True)
class Progressive:
    """From `start` to `end` pixels between the epochs `first` and `last`, in multiples of `step` (ffcv's ImageNet)."""

    start: int
    end: int
    first: float
    last: float
    step: int = 32

    def __call__(self, epoch: float) -> int:
        """Return the side in pixels."""
        share = min(1.0, max(0.0, (epoch - self.first) / (self.last - self.first)))
        return self.step * round((self.start + share * (self.end - self.start)) / self.step)


@dataclass(frozen=True)
class Faster:
    """A resolution that runs through `speed` times as fast, for pretraining that is shortened."""

    resolution: Resolution
    speed: float

    def __call__(self, epoch: float) -> int:
        """Return the side in pixels."""
        return self.resolution(epoch * self.speed)
