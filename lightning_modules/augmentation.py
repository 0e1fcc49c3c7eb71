"""Augmentation of a whole batch at once, on the batch's device.

Each draws one choice per image and applies it to images `[batch, channels, height, width]` (float, normalised). Choices
are drawn on the CPU for the whole batch, so that they are the same on every device and for any number of processes.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Generator, Tensor
from torch.nn import functional


class Augmentation(ABC):
    """A random change of each image of a batch."""

    @abstractmethod
    def draw(self, count: int, height: int, width: int, generator: Generator) -> Tensor:
        """Draw a choice for each of `count` images. Return `[count, ...]`, on the CPU."""

    @abstractmethod
    def apply(self, images: Tensor, choices: Tensor) -> Tensor:
        """Return the changed images, of the same shape."""

    def __call__(self, images: Tensor, generator: Generator) -> Tensor:
        """Return the changed images, of the same shape."""
        return self.apply(images, self.draw(len(images), images.shape[2], images.shape[3], generator).to(images.device))


@dataclass(frozen=True)
class Flip(Augmentation):
    """Mirror left to right with a chance of one half."""

    def draw(self, count: int, height: int, width: int, generator: Generator) -> Tensor:
        """Draw which images to mirror. Return `bool[count]`."""
        return torch.rand(count, generator=generator).lt(0.5)

    def apply(self, images: Tensor, choices: Tensor) -> Tensor:
        """Return the changed images, of the same shape."""
        return torch.where(choices[:, None, None, None], images.flip(-1), images)


@dataclass(frozen=True)
class Translate(Augmentation):
    """Shift by up to `pixels` in both directions; the new border is a reflection of the image."""

    pixels: int

    def draw(self, count: int, height: int, width: int, generator: Generator) -> Tensor:
        """Draw the row and column of the padded image at which the result begins. Return `int64[count, 2]`."""
        return torch.randint(0, 2 * self.pixels + 1, (2, count), generator=generator).T

    def apply(self, images: Tensor, choices: Tensor) -> Tensor:
        """Return the changed images, of the same shape."""
        size, _, height, width = images.shape
        padded = functional.pad(images, [self.pixels] * 4, mode="reflect")
        rows = choices[:, :1] + torch.arange(height, device=images.device)
        columns = choices[:, 1:] + torch.arange(width, device=images.device)
        batch = torch.arange(size, device=images.device)[:, None, None]
        # Advanced indices around the channel slice put it last: [batch, height, width, channels].
        return padded[batch, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2).contiguous()


@dataclass(frozen=True)
class Cutout(Augmentation):
    """Set a square of `pixels` at a random place to 0, the mean colour (arXiv 1708.04552)."""

    pixels: int

    def draw(self, count: int, height: int, width: int, generator: Generator) -> Tensor:
        """Draw the top row and left column of the square. Return `int64[count, 2]`."""
        top = torch.randint(0, height - self.pixels + 1, (count, 1), generator=generator)
        left = torch.randint(0, width - self.pixels + 1, (count, 1), generator=generator)
        return torch.cat([top, left], 1)

    def apply(self, images: Tensor, choices: Tensor) -> Tensor:
        """Return the changed images, of the same shape."""
        height, width = images.shape[-2:]
        top, left = choices[:, :1], choices[:, 1:]
        row = torch.arange(height, device=images.device)
        column = torch.arange(width, device=images.device)
        hole = ((row >= top) & (row < top + self.pixels))[:, :, None] & (
            (column >= left) & (column < left + self.pixels)
        )[:, None]
        return images.masked_fill(hole[:, None], 0.0)
