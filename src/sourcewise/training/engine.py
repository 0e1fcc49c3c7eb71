"""How the stages of one run compute: batches in seeded order, training that can be resumed, features of a backbone."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from sourcewise.core.errors import RunFailed
from sourcewise.data import ImageDataset
from sourcewise.lightning_modules.classification import Classification, Diverged
from sourcewise.lightning_modules.data import Batches, Examples, ImageData, Normalise
from sourcewise.lightning_modules.scalars import ScalarLogger
from sourcewise.training.checkpoints import Checkpoint
from sourcewise.training.hardware import Hardware, interruptible
from sourcewise.training.models import Model
from sourcewise.training.views import View

EVALUATION_BATCH = 1000
"""Examples in a batch where nothing is trained."""

LogScalars = Callable[[Mapping[str, float]], None]


@dataclass(frozen=True)
class SourceModel:
    """A pretrained model.

    device: what it computes on. epochs: what it was trained for. metrics: its last ones. group_means: mean features of
    each group, float[groups, features], if they are known already.
    """

    network: Model
    device: torch.device
    epochs: int
    metrics: Mapping[str, float]
    group_means: Tensor | None = None


@dataclass(frozen=True)
class Engine:
    """The means of computation that all stages of one run share.

    derive_seed: from a purpose, such as `order/digits`, to the seed of its own generator. log: takes the scalars of
    every epoch. checkpoint: from a stage's name and `log` to the stage's Checkpoint; None: nothing is saved.
    """

    hardware: Hardware
    normalise: Normalise
    derive_seed: Callable[[str], int]
    log: LogScalars
    checkpoint: Callable[[str, LogScalars], Checkpoint] | None = None

    def fit(
        self, module: Classification, data: ImageData, epochs: int, stage: str
    ) -> tuple[pl.Trainer, dict[str, float]]:
        """Train a module, from its checkpoint if there is one; return the trainer and the last epoch's metrics.

        Raises RunFailed when training diverges.
        """
        saved = self.checkpoint(stage, self.log) if self.checkpoint else None
        passes = data.at_once or 1
        logger = ScalarLogger(saved.log if saved else self.log, stage, passes)
        callbacks = [_DropoutSeeds(self.derive_seed(f"dropout/{stage}")), *([saved] if saved else [])]
        trainer = self.hardware.trainer(epochs // passes, logger, callbacks)
        if saved:
            progress: Any = trainer.fit_loop.epoch_progress.current
            progress.processed = progress.completed = saved.restore(module)
            if trainer.current_epoch == trainer.max_epochs:
                return trainer, saved.metrics
        with torch.random.fork_rng():
            try:
                with interruptible():
                    trainer.fit(module, datamodule=data)
            except Diverged as error:
                raise RunFailed(f"{stage}: {error}") from error
        return trainer, {name: float(value) for name, value in trainer.callback_metrics.items()}

    def features(self, model: SourceModel, dataset: ImageDataset, view: View) -> Tensor:
        """Return the features `float32[examples, features]` of the source model's backbone, on the CPU."""
        backbone = self.hardware.prepare(model.network.backbone).to(model.device).eval()
        mixed = "bf16" in str(self.hardware.precision)
        dtype = next((weights.dtype for weights in backbone.parameters()), torch.float32)
        batches = self.in_order(as_examples(dataset).to(model.device), view, model.epochs)
        with torch.inference_mode(), torch.autocast(model.device.type, torch.bfloat16, enabled=mixed):
            parts = [backbone(batch.inputs.to(dtype)).float().cpu() for batch in batches]
        return torch.cat(parts).clone()

    def shuffled(self, examples: Examples, batch_size: int, view: View, name: str = "") -> Batches:
        """Return batches to train on.

        name: tells apart the random orders and augmentations of a run's stages, such as `/digits`.
        """
        return Batches(
            examples,
            batch_size,
            self.normalise,
            order_seed=self.derive_seed(f"order{name}"),
            augmentation=view.augmentation,
            augmentation_seed=self.derive_seed(f"augmentation{name}"),
            crop=view.crop,
            resolution=view.resolution,
            threads=self.hardware.threads,
            decode_on_device=self.hardware.decoding == "gpu",
        )

    def in_order(self, examples: Examples, view: View, epoch: int = 0) -> Batches:
        """Return batches to evaluate on, of images at the resolution of this epoch."""
        return Batches(
            examples,
            EVALUATION_BATCH,
            self.normalise,
            resolution=view.resolution,
            threads=self.hardware.threads,
            decode_on_device=self.hardware.decoding == "gpu",
            epoch=epoch,
        )


def as_examples(dataset: ImageDataset) -> Examples:
    """Return a dataset's images with their labels and ids, as batches are made from."""
    return Examples(dataset.images, dataset.labels, dataset.ids)


class _DropoutSeeds(pl.Callback):
    """Seeds torch's own generator, which dropout draws from, anew for every epoch, as order and augmentation are."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Seed the generator, and the device's."""
        seed = (self.seed + trainer.current_epoch) % 2**63
        if pl_module.device.type == "cpu":
            torch.default_generator.manual_seed(seed)  # a hundred times faster than asking all devices
        else:
            torch.manual_seed(seed)
