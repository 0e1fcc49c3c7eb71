"""Augmentation of a whole batch at once, on the batch's device.

Each callable takes images `[batch, channels, height, width]` (float, normalised) and a generator, and draws one choice
per image. Choices are drawn on the CPU, so that they are the same on every device.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Generator, Tensor
from torch.nn import functional


class Augmentation(Protocol):
    """A random change of each image of a batch."""

    def __call__(self, images: Tensor, generator: Generator) -> Tensor:
        """The changed images, same shape."""


@dataclass(frozen=True)
class Flip:
    """Mirror left to right with a chance of one half."""

    def __call__(self, images: Tensor, generator: Generator) -> Tensor:
        """The changed images, same shape."""
        chosen = torch.rand(len(images), generator=generator).lt(0.5).to(images.device)
        return torch.where(chosen[:, None, None, None], images.flip(-1), images)


@dataclass(frozen=True)
class Translate:
    """Shift by up to `pixels` in both directions; what comes in is the border, reflected."""

    pixels: int

    def __call__(self, images: Tensor, generator: Generator) -> Tensor:
        """The changed images, same shape."""
        size, _, height, width = images.shape
        shift = torch.randint(0, 2 * self.pixels + 1, (2, size), generator=generator).to(images.device)
        padded = functional.pad(images, [self.pixels] * 4, mode="reflect")
        rows = shift[0, :, None] + torch.arange(height, device=images.device)
        columns = shift[1, :, None] + torch.arange(width, device=images.device)
        batch = torch.arange(size, device=images.device)[:, None, None]
        # Advanced indices around the channel slice put it last: [batch, height, width, channels].
        return padded[batch, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2).contiguous()


@dataclass(frozen=True)
class Cutout:
    """Set a square of `pixels` at a random place to 0, the mean colour (arXiv 1708.04552)."""

    pixels: int

    def __call__(self, images: Tensor, generator: Generator) -> Tensor:
        """The changed images, same shape."""
        size, _, height, width = images.shape
        top = torch.randint(0, height - self.pixels + 1, (size, 1), generator=generator).to(images.device)
        left = torch.randint(0, width - self.pixels + 1, (size, 1), generator=generator).to(images.device)
        row = torch.arange(height, device=images.device)
        column = torch.arange(width, device=images.device)
        hole = ((row >= top) & (row < top + self.pixels))[:, :, None] & (
            (column >= left) & (column < left + self.pixels)
        )[:, None]
        return images.masked_fill(hole[:, None], 0.0)
