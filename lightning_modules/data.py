"""Data in memory, as Lightning's data module: batches made by indexing tensors that already lie on the device."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import pytorch_lightning as pl
import torch
from torch import Generator, Tensor

from lightning_modules.augmentation import Augmentation


class Batch(NamedTuple):
    """inputs `[batch, ...]`, labels and ids `int64[batch]`; weight: what the mean loss counts for in this process."""

    inputs: Tensor
    labels: Tensor
    ids: Tensor
    weight: float


@dataclass(frozen=True)
class Examples:
    """Images (uint8) or features (float) `[examples, ...]`, with labels and ids `int64[examples]`, on any device."""

    inputs: Tensor
    labels: Tensor
    ids: Tensor

    def to(self, device: torch.device) -> "Examples":
        """The same on a device."""
        return Examples(self.inputs.to(device), self.labels.to(device), self.ids.to(device))


@dataclass(frozen=True)
class Normalise:
    """uint8 images to float, per channel minus mean over deviation (on the 0 to 1 scale); features pass as they are."""

    mean: Sequence[float]
    std: Sequence[float]

    def __call__(self, images: Tensor) -> Tensor:
        """The batch as the network takes it."""
        if images.dtype != torch.uint8:
            return images
        shape = (1, -1, 1, 1)
        scale = torch.tensor(self.std, device=images.device).mul(255).reciprocal().view(shape)
        shift = (
            torch.tensor(self.mean, device=images.device).div(torch.tensor(self.std, device=images.device)).view(shape)
        )
        return images.float().mul_(scale).sub_(shift)


class Batches:
    """An iterable of `Batch`, shuffled when a seed is given, sharded over processes when there are several.

    Order and augmentation of an epoch depend on (seed, epoch) alone: not on earlier epochs, so that a resumed run
    goes on as if it had never stopped, and not on the number of processes, each of which takes its part of every batch.
    """

    def __init__(
        self,
        examples: Examples,
        batch_size: int,
        normalise: Normalise,
        *,
        order_seed: int | None = None,
        augmentation: Sequence[Augmentation] = (),
        augmentation_seed: int = 0,
        passes: int = 1,
        epoch: int = 0,
        rank: int = 0,
        processes: int = 1,
    ) -> None:
        self.examples, self.batch_size, self.normalise = examples, batch_size, normalise
        self.order_seed, self.augmentation, self.augmentation_seed = order_seed, augmentation, augmentation_seed
        self.passes, self.rank, self.processes = passes, rank, processes
        self.epoch = epoch
        # What Lightning looks for in a loader: it calls `sampler.set_epoch` before each epoch.
        self.sampler, self.batch_sampler = self, None

    def set_epoch(self, epoch: int) -> None:
        """Which epoch's order the next iteration has."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.passes * batches_per_epoch(
            len(self.examples.labels), self.batch_size, self.processes, self._training
        )

    @property
    def _training(self) -> bool:
        return self.order_seed is not None

    def __iter__(self) -> Iterator[Batch]:
        for number in range(self.epoch * self.passes, (self.epoch + 1) * self.passes):
            yield from self._epoch(number)

    def _epoch(self, number: int) -> Iterator[Batch]:
        size = len(self.examples.labels)
        order = torch.arange(size)
        if self.order_seed is not None:
            order = torch.randperm(size, generator=_generator(self.order_seed, number))
        order = order.to(self.examples.inputs.device)
        choices = _generator(self.augmentation_seed, number)
        for i in range(batches_per_epoch(size, self.batch_size, self.processes, self._training)):
            yield self._batch(order[i * self.batch_size : (i + 1) * self.batch_size], choices)

    def _batch(self, rows: Tensor, choices: Generator) -> Batch:
        mine = rows.tensor_split(self.processes)[self.rank]
        if self.augmentation:
            # All processes change the whole batch with the same choices, and keep their part.
            inputs = self.normalise(self.examples.inputs[rows])
            for augment in self.augmentation:
                inputs = augment(inputs, choices)
            inputs = inputs.tensor_split(self.processes)[self.rank]
        else:
            inputs = self.normalise(self.examples.inputs[mine])
        weight = self.processes * len(mine) / len(rows)
        return Batch(inputs, self.examples.labels[mine], self.examples.ids[mine], weight)


class MemoryData(pl.LightningDataModule):
    """Train and test examples in memory, moved to the device once."""

    def __init__(
        self,
        train: Examples,
        test: Examples | None,
        normalise: Normalise,
        *,
        batch_size: int,
        order_seed: int,
        augmentation: Sequence[Augmentation] = (),
        augmentation_seed: int = 0,
        passes: int = 1,
        test_batch_size: int = 1000,
    ) -> None:
        super().__init__()
        self.train, self.test, self.normalise = train, test, normalise
        self.batch_size, self.order_seed, self.passes = batch_size, order_seed, passes
        self.augmentation, self.augmentation_seed = augmentation, augmentation_seed
        self.test_batch_size = test_batch_size

    def train_dataloader(self) -> Batches:
        """Shuffled batches of the training examples."""
        return Batches(
            self.train.to(self._device),
            self.batch_size,
            self.normalise,
            order_seed=self.order_seed,
            augmentation=self.augmentation,
            augmentation_seed=self.augmentation_seed,
            passes=self.passes,
            epoch=self._trainer.current_epoch,
            rank=self._trainer.global_rank,
            processes=self._trainer.world_size,
        )

    def test_dataloader(self) -> Batches:
        """All test examples in order."""
        assert self.test is not None
        return Batches(
            self.test.to(self._device),
            self.test_batch_size,
            self.normalise,
            rank=self._trainer.global_rank,
            processes=self._trainer.world_size,
        )

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        """Nothing to do: the batch was made there."""
        return batch

    @property
    def _trainer(self) -> pl.Trainer:
        assert self.trainer is not None
        return self.trainer

    @property
    def _device(self) -> torch.device:
        return self._trainer.strategy.root_device


def batches_per_epoch(examples: int, batch_size: int, processes: int = 1, training: bool = True) -> int:
    """How many batches an epoch has. In training a last batch too small for BatchNorm in every process is left out."""
    if training and examples > batch_size and 0 < examples % batch_size < 2 * processes:
        return examples // batch_size
    return math.ceil(examples / batch_size)


def _generator(seed: int, epoch: int) -> Generator:
    return Generator().manual_seed((seed + epoch) % 2**63)
