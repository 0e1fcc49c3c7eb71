"""Training a classifier: what pretraining and transfer share."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

import pytorch_lightning as pl
import torch
from annotated_types import Interval
from pydantic import NonNegativeFloat, PositiveInt
from torch import Tensor, nn
from torch.nn import functional

from sourcewise.lightning_modules.data import Batch
from sourcewise.lightning_modules.schedules import Constant, Schedule


class Diverged(RuntimeError):  # noqa: N818  # what has happened, not where
    """The loss of an epoch is not a finite number."""


@dataclass(frozen=True)
class Optimisation:
    """SGD with momentum, its schedule and length.

    lr: the peak learning rate. length: the share of the epochs that are trained, for cheap proxies of a recipe; the
    schedule runs through as much faster.
    """

    epochs: PositiveInt
    batch_size: PositiveInt
    lr: NonNegativeFloat
    momentum: Annotated[float, Interval(ge=0, lt=1)] = 0.9
    weight_decay: NonNegativeFloat = 0.0
    label_smoothing: Annotated[float, Interval(ge=0, le=1)] = 0.0
    schedule: Schedule = field(default_factory=Constant)
    length: Annotated[float, Interval(gt=0, le=1)] = 1.0

    @property
    def trained_epochs(self) -> int:
        """The number of epochs that are trained."""
        return trained_epochs(self.epochs, self.length)

    @property
    def speed(self) -> float:
        """Epochs of the recipe that pass in one that is trained; exactly 1 for the whole length."""
        return self.epochs / self.trained_epochs

    def factor(self, epoch: float) -> float:
        """Return the factor of the peak learning rate at a time in epochs that are trained."""
        return self.schedule(epoch * self.speed, self.epochs)


def trained_epochs(epochs: int, length: float) -> int:
    """Return how many epochs are trained at a share of them, at least one.

    >>> trained_epochs(6, 0.3333), trained_epochs(2, 0.1)
    (2, 1)
    """
    return max(1, round(length * epochs))


class Classification(pl.LightningModule):
    """Cross-entropy training of `network` with SGD.

    It logs `loss` and `accuracy` of every epoch's own batches, and the learning rate `lr` of its last step.

    class_weights: what the loss of an example of each class counts for, `[classes]`; 1 by default.
    """

    class_weights: Tensor | None

    def __init__(
        self,
        network: nn.Module,
        optimisation: Optimisation,
        steps_per_epoch: int,
        *,
        class_weights: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.register_buffer("class_weights", class_weights, persistent=False)
        self.network, self.optimisation, self.steps_per_epoch = network, optimisation, steps_per_epoch
        self._steps: list[tuple[Tensor, Tensor, Tensor]] = []  # loss, predictions and labels of every step

    def forward(self, inputs: Tensor) -> Tensor:
        """Return logits `[batch, classes]`."""
        return self.network(inputs)  # type: ignore[no-any-return]

    def training_step(self, batch: Batch, index: int) -> Tensor:
        """Return the batch's loss, weighted so that the mean over processes is the mean over the batch."""
        logits = self(batch.inputs)
        smoothing, weights = self.optimisation.label_smoothing, self.class_weights
        if weights is None:
            loss = functional.cross_entropy(logits, batch.labels, label_smoothing=smoothing)
        else:  # over examples, not over weights: the mean over processes is then the mean over the batch
            loss = functional.cross_entropy(
                logits, batch.labels, weights, label_smoothing=smoothing, reduction="none"
            ).mean()
        # Summaries wait for the end of the epoch: a metric's update per step would cost more than a small model's.
        self._steps.append((loss.detach(), logits.detach().argmax(1), batch.labels))
        return loss * batch.weight

    def on_train_epoch_end(self) -> None:
        """Log the epoch. Raises Diverged when its loss is not finite."""
        # Where a Lightning epoch holds several of ours, the last one counts.
        losses, predictions, labels = zip(*self._steps[-self.steps_per_epoch :], strict=True)
        self._steps.clear()
        loss = torch.stack(losses).mean()
        if not torch.isfinite(loss):
            raise Diverged(
                f"the training loss is {loss.item()} in epoch {self.current_epoch + 1}; lower the learning rate"
            )
        accuracy = (torch.cat(predictions) == torch.cat(labels)).float().mean()
        schedule: Any = self.lr_schedulers()
        time = (schedule.last_epoch - 1) / self.steps_per_epoch  # of the last step, in epochs
        lr = self.optimisation.lr * self.optimisation.factor(time)
        self.log_dict({"loss": loss, "accuracy": accuracy, "lr": lr}, sync_dist=self.trainer.world_size > 1)

    def configure_optimizers(self) -> Any:
        """Return SGD over the trainable parameters, with the schedule's rate at every step."""
        settings = self.optimisation
        parameters: Sequence[nn.Parameter] = [p for p in self.parameters() if p.requires_grad]
        optimiser = torch.optim.SGD(
            parameters, settings.lr, settings.momentum, weight_decay=settings.weight_decay, nesterov=False
        )

        def factor(step: int) -> float:
            return settings.factor(step / self.steps_per_epoch)

        schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, factor)
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
