"""Lightning's data module: batches made by indexing tensors on the device, or decoded ahead from stored images."""

import math
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import KW_ONLY, dataclass, replace
from typing import ClassVar, NamedTuple, Protocol

import pytorch_lightning as pl
import torch
from torch import Generator, Tensor
from torch.nn import functional

from sourcewise.lightning_modules.augmentation import Augmentation
from sourcewise.lightning_modules.crops import CentreCrop, Crop, Resolution

AHEAD = 2
"""Batches that are decoded while another one is in use."""

CHUNK = 8
"""Images that a thread decodes before it takes up others."""


class Batch(NamedTuple):
    """inputs `[batch, ...]`, labels and ids `int64[batch]`; weight: the factor of the mean loss in this process."""

    inputs: Tensor
    labels: Tensor
    ids: Tensor
    weight: float


class Stored(Protocol):
    """Images outside memory, each of its own size; read and decoded a few at a time, by several threads at once."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of images and of channels."""

    @property
    def sizes(self) -> Tensor:
        """Height and width of the images, `int64[images, 2]`."""

    def __getitem__(self, rows: Tensor) -> "Stored":
        """Select by a bool mask or by indices; nothing is read."""

    def read(self, rows: Tensor, boxes: Tensor, out: Tensor) -> None:
        """Decode the images `rows`, cut out `boxes` `int64[n, 4]`, and resize them into `out` uint8[n, c, s, s].

        A box of negative width is mirrored. All of it is done on the device of `out`.
        """


@dataclass(frozen=True)
class Examples:
    """Images (uint8, or stored) or features (float) `[examples, ...]`, with labels and ids `int64[examples]`."""

    inputs: Tensor | Stored
    labels: Tensor
    ids: Tensor

    def to(self, device: torch.device) -> "Examples":
        """Return the examples on a device; stored images stay where they are."""
        inputs = self.inputs.to(device) if isinstance(self.inputs, Tensor) else self.inputs
        return Examples(inputs, self.labels.to(device), self.ids.to(device))

    def select(self, rows: Tensor) -> "Examples":
        """Select by a bool mask or by indices."""
        return Examples(self.inputs[rows], self.labels[rows], self.ids[rows])


@dataclass(frozen=True)
class Normalise:
    """uint8 images to float, per channel minus mean over deviation (on the 0 to 1 scale); features pass as they are."""

    mean: Sequence[float]
    std: Sequence[float]

    def __call__(self, images: Tensor) -> Tensor:
        """Return the batch as the network takes it."""
        if images.dtype != torch.uint8:
            return images
        mean, std = (torch.tensor(values, device=images.device) for values in (self.mean, self.std))
        scale, shift, result = std.mul(255).reciprocal(), mean.div(std), images.float()
        if not result.is_contiguous(memory_format=torch.channels_last):
            return result.mul_(scale[:, None, None]).sub_(shift[:, None, None])
        # Channels last, as stored images come: whole rows at a time take a third of the time that pixels take.
        rows, width = result.permute(0, 2, 3, 1).flatten(2), images.shape[3]
        rows.mul_(scale.repeat(width)).sub_(shift.repeat(width))
        return result


@dataclass
class Batches:
    """An iterable of `Batch`, shuffled when a seed is given, sharded over processes when there are several.

    Order and augmentation of an epoch depend on (seed, epoch) alone: not on earlier epochs, so that a resumed run
    goes on as if it had never stopped, and not on the number of processes, each of which takes its part of every batch.

    Stored images are cropped and resized by `threads` as they are decoded; those in memory are resized last, if
    `resolution` asks for another size. Crops are at the centre unless `crop` says otherwise. decode_on_device: stored
    images are decoded where the labels are, a batch at a time, rather than by the processor.
    """

    examples: Examples
    batch_size: int
    normalise: Normalise
    _: KW_ONLY
    order_seed: int | None = None
    augmentation: Sequence[Augmentation] = ()
    augmentation_seed: int = 0
    crop: Crop | None = None
    resolution: Resolution | int | None = None
    threads: int = 1
    decode_on_device: bool = False
    epoch: int = 0
    rank: int = 0
    processes: int = 1
    batch_sampler: ClassVar[None] = None  # Lightning looks for one, and for a sampler

    @property
    def sampler(self) -> "Batches":
        """The object whose method `set_epoch` Lightning calls before each epoch."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch whose order the next iteration has."""
        self.epoch = epoch

    def __len__(self) -> int:
        return batches_per_epoch(len(self.examples.labels), self.batch_size, self.processes)

    def __iter__(self) -> Iterator[Batch]:
        number, size = self.epoch, len(self.examples.labels)
        order = torch.arange(size)
        if self.order_seed is not None:
            order = torch.randperm(size, generator=_generator(self.order_seed, number))
        rows = order.tensor_split(len(self))
        choices = _generator(self.augmentation_seed, number)
        side = self.resolution(number) if callable(self.resolution) else self.resolution
        if isinstance(self.examples.inputs, Tensor):
            images = self._indexed(self.examples.inputs, rows)
        else:
            # torch's generators use only the low 32 bits of a seed.
            geometry = _generator(self.augmentation_seed + 2**31, number)
            images = self._decoded(self.examples.inputs, rows, side, geometry)
        for chosen, part in zip(rows, images, strict=True):
            yield self._batch(part, chosen, choices, side)

    def _indexed(self, inputs: Tensor, batches: Sequence[Tensor]) -> Iterator[Tensor]:
        for rows in batches:
            yield inputs[self._part(rows).to(inputs.device)]

    def _decoded(
        self, inputs: Stored, batches: Sequence[Tensor], side: int | None, geometry: Generator
    ) -> Iterator[Tensor]:
        """Yield this process's part of every batch, on the device of the labels; decode the next ones meanwhile."""
        assert side is not None
        device, sizes, crop = self.examples.labels.device, inputs.sizes, self.crop or CentreCrop()
        ahead: deque[tuple[Tensor, list[Future[None]]]] = deque()
        chunk = self.batch_size if self.decode_on_device else CHUNK  # a GPU decodes many images at once
        memory = {"device": device} if self.decode_on_device else {"pin_memory": device.type == "cuda"}
        # Each image is work for one thread: threads of torch's own would only stand in each other's way.
        pool = ThreadPoolExecutor(self.threads, initializer=torch.set_num_threads, initargs=(1,))

        def oldest() -> Tensor:
            images, parts = ahead.popleft()
            for part in parts:
                part.result()
            return images.to(device, non_blocking=True)

        try:
            for rows in batches:
                boxes, part = self._part(crop(sizes[rows], geometry)), self._part(rows)
                # Decoders write channels last, and so does this: bytes are copied as they come.
                shape = (len(part), side, side, inputs.shape[1])
                images = torch.empty(shape, dtype=torch.uint8, **memory).permute(0, 3, 1, 2)
                work = zip(*(torch.split(values, chunk) for values in (part, boxes, images)), strict=True)
                ahead.append((images, [pool.submit(inputs.read, *part) for part in work]))
                if len(ahead) > AHEAD:
                    yield oldest()
            while ahead:
                yield oldest()
        finally:
            pool.shutdown(cancel_futures=True)

    def _batch(self, images: Tensor, rows: Tensor, choices: Generator, side: int | None) -> Batch:
        inputs = self.normalise(images)
        for augment in self.augmentation:
            drawn = self._part(augment.draw(len(rows), inputs.shape[2], inputs.shape[3], choices))
            inputs = augment.apply(inputs, drawn.to(inputs.device))
        if side is not None and inputs.ndim == 4 and inputs.shape[-2:] != (side, side):
            inputs = functional.interpolate(inputs, (side, side), mode="bilinear", antialias=True)
        part = self._part(rows).to(self.examples.labels.device)
        weight = self.processes * len(part) / len(rows)
        return Batch(inputs, self.examples.labels[part], self.examples.ids[part], weight)

    def _part(self, values: Tensor) -> Tensor:
        """Return this process's part of values that a batch has for each example."""
        return values.tensor_split(self.processes)[self.rank]


@dataclass
class AtOnce:
    """An iterable of one item: an iterator of the batches of several epochs, for a training step that takes all."""

    batches: Batches
    epochs: int

    def __len__(self) -> int:
        return 1

    def __iter__(self) -> Iterator[Iterator[Batch]]:
        yield (batch for epoch in range(self.epochs) for batch in replace(self.batches, epoch=epoch))


class ImageData(pl.LightningDataModule):
    """Batches to train on and to test on; examples in memory are moved to the device once.

    at_once: epochs whose batches are given to training as one item; None: each batch is an item, of one epoch.
    """

    def __init__(self, train: Batches, test: Batches | None = None, at_once: int | None = None) -> None:
        super().__init__()
        self.train, self.test, self.at_once = train, test, at_once

    def train_dataloader(self) -> Batches | AtOnce:
        """Return batches of the training examples."""
        batches = self._for_trainer(self.train)
        return batches if self.at_once is None else AtOnce(batches, self.at_once)

    def test_dataloader(self) -> Batches:
        """Return batches of the test examples."""
        assert self.test is not None
        return self._for_trainer(self.test)

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        """Return the batch, which is on the device already."""
        return batch

    def _for_trainer(self, batches: Batches) -> Batches:
        """Return the batches on the trainer's device, for this process, from the current epoch on."""
        trainer = self.trainer
        assert trainer is not None
        return replace(
            batches,
            examples=batches.examples.to(trainer.strategy.root_device),
            epoch=trainer.current_epoch,
            rank=trainer.global_rank,
            processes=trainer.world_size,
        )


def batches_per_epoch(examples: int, batch_size: int, processes: int = 1) -> int:
    """Return the number of batches in an epoch, over which the examples are dealt evenly.

    A batch holds at most `batch_size` examples and, where there are several, at least half as many: a last batch of a
    few images would make BatchNorm so noisy that the number of examples modulo `batch_size` would decide how good a
    model gets. Batches are larger only where a process would else be left with one example, which BatchNorm refuses.
    """
    return max(1, min(math.ceil(examples / batch_size), examples // (2 * processes)))


def _generator(seed: int, epoch: int) -> Generator:
    return Generator().manual_seed((seed + epoch) % 2**63)
