"""Ways to transfer a source model to a target: a new head on fixed features, fine-tuning, and a probe.

A user adds one as a class with the method `transfer`, which conf/transfer/<name>.yaml names in `_target_`. The name of
the class, in lower case, is the readable name of the transfer in the names of studies.
"""

import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor, nn

from sourcewise.core.errors import RunFailed, SourcewiseError
from sourcewise.core.randomness import ranks
from sourcewise.data import ImageDataset
from sourcewise.lightning_modules.classification import Optimisation
from sourcewise.lightning_modules.data import Examples, ImageData, batches_per_epoch
from sourcewise.lightning_modules.outputs import Outputs
from sourcewise.lightning_modules.transfer import BatchNormMode, HeadTransfer, Transfer
from sourcewise.training import metrics
from sourcewise.training.engine import Engine, SourceModel, as_examples
from sourcewise.training.hardware import interruptible
from sourcewise.training.logistic import logistic_regression
from sourcewise.training.models import Model, initialise
from sourcewise.training.views import View


@dataclass(frozen=True)
class TransferTask:
    """One source model to transfer to one target.

    name: name of the target. metric: name of the target's metric, for choosing between settings. view: how its images
    are shown. engine: the means to train with.
    """

    name: str
    train: ImageDataset
    test: ImageDataset
    metric: str
    view: View
    source: SourceModel
    engine: Engine

    @property
    def classes(self) -> int:
        """The number of the target's classes."""
        return len(self.train.class_names)

    def features(self, dataset: ImageDataset) -> Tensor:
        """Return the source model's features `float32[examples, features]` of `train` or `test`, on the CPU."""
        return self.engine.features(self.source, dataset, self.view)

    def outputs(self, logits: Tensor) -> Outputs:
        """Return the outputs of logits `[test examples, classes]`, given in the order of `test`.

        Raises SourcewiseError when they have another shape.
        """
        if logits.shape != (len(self.test), self.classes):
            raise SourcewiseError(
                f"target {self.name}: its transfer gave logits of shape {list(logits.shape)};"
                f" there are {len(self.test)} test examples of {self.classes} classes"
            )
        order = self.test.ids.argsort()
        return Outputs.from_logits(logits.float().cpu()[order], self.test.labels[order], self.test.ids[order])

    def seed(self, purpose: str) -> int:
        """Return a seed for one purpose: another one for each purpose, target, training seed and subset."""
        return self.engine.derive_seed(f"{purpose}/{self.name}")

    def scores(self, outputs: Outputs) -> dict[str, float]:
        """Return all metrics that are defined for these outputs, by name."""
        return metrics.scores(outputs, self.classes, self.metric)


@dataclass(frozen=True)
class TransferResult:
    """Outputs on the test examples, and the settings that the method chose, such as lr, recorded as metrics."""

    outputs: Outputs
    chosen: Mapping[str, float] = field(default_factory=dict)


class TransferMethod(ABC):
    """A way to transfer a source model to a target. Its fields are the settings that conf/transfer gives."""

    @abstractmethod
    def transfer(self, task: TransferTask) -> TransferResult:
        """Return outputs on all test examples of the task. The source model must be left as it is."""

    def check(self, view: View) -> None:  # noqa: B027  # most methods take any view
        """Raise SourcewiseError, before a run, when the method cannot train on images that are shown like this."""

    def note(self, view: View) -> str | None:
        """Return a line for the user on how the method trains on images shown like this, or None."""
        return None


@dataclass(frozen=True)
class GradientTransfer(Optimisation, TransferMethod):
    """Training of a new head by SGD, and of the rest of the network unless `freezes_backbone`.

    lr: of several learning rates, the best on held-out training examples is taken. batchnorm: `frozen` keeps the
    source's running statistics; `adapting` lets them follow the target while training. weighted: every class counts the
    same in the loss, however many examples it has.
    """

    lr: NonNegativeFloat | Sequence[NonNegativeFloat]  # type: ignore[assignment]  # one of them reaches the optimiser
    batchnorm: BatchNormMode = "frozen"
    weighted: bool = False
    freezes_backbone: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.lr == []:
            raise SourcewiseError("transfer.lr=[]: give a learning rate, or several to choose from")

    def transfer(self, task: TransferTask) -> TransferResult:
        """Train on the training examples, with the best of several learning rates, and return the test outputs."""
        backbone, train, test = self._prepared(task)
        if not isinstance(self.lr, Sequence):
            return TransferResult(self._train(task, backbone, train, test))
        lr = self._best_lr(task, backbone, train, self.lr)
        return TransferResult(replace(self, lr=lr)._train(task, backbone, train, test), {"lr": lr})

    def _prepared(self, task: TransferTask) -> tuple[nn.Module, Examples, Examples]:
        """Return the module below the head, and the training and test examples that go into it."""
        return task.source.network.backbone, as_examples(task.train), as_examples(task.test)

    def _best_lr(self, task: TransferTask, backbone: nn.Module, train: Examples, rates: Sequence[float]) -> float:
        """Return the learning rate of best metric, then probability, on the held-out part of the training examples.

        Raises RunFailed when training diverges with all of them.
        """
        fit, held = (train.select(rows) for rows in held_out(train.labels))
        results: dict[float, tuple[float, float]] = {}
        for lr in rates:
            stage = f"/lr={lr}"
            try:
                scores = task.scores(replace(self, lr=lr)._train(task, backbone, fit, held, stage))
            except RunFailed as error:
                failure = error
                continue
            task.engine.log({f"target/{task.name}{stage}/held_out/{name}": value for name, value in scores.items()})
            results[lr] = scores.get(metrics.short_name(task.metric), 0.0), scores["prob"]
        if not results:
            raise failure
        return max(results, key=results.__getitem__)

    def _train(
        self, task: TransferTask, backbone: nn.Module, train: Examples, test: Examples, stage: str = ""
    ) -> Outputs:
        """Train on `train` (images, or features when `backbone` is the identity), and return outputs on `test`."""
        engine, classes = task.engine, task.classes
        cached = isinstance(backbone, nn.Identity)
        features = task.source.network.head.in_features
        # Targets do not see each other: each starts from the source model's weights.
        network = initialise(
            lambda: Model(copy.deepcopy(backbone), features, classes).requires_grad_(True), task.seed("initialisation")
        )
        if not cached:
            engine.hardware.prepare(network)
        module = (HeadTransfer if cached else Transfer)(
            network,
            self,
            batches_per_epoch(len(train.labels), self.batch_size, engine.hardware.devices),
            test_examples=len(test.labels),
            frozen=network.backbone if self.freezes_backbone else None,
            batchnorm=self.batchnorm,
            class_weights=class_weights(train.labels, classes) if self.weighted else None,
        )
        shuffled = engine.shuffled(train, self.batch_size, task.view, f"/{task.name}")
        data = ImageData(shuffled, engine.in_order(test, task.view), self.trained_epochs if cached else None)
        trainer, _ = engine.fit(module, data, self.trained_epochs, f"target/{task.name}{stage}")
        if not hasattr(module, "outputs"):  # a head has them after its training
            with interruptible():
                trainer.test(module, datamodule=data, verbose=False)
        return module.outputs


@dataclass(frozen=True)
class Fixed(GradientTransfer):
    """A new head on a frozen backbone, whose features are computed once where they are the same in every epoch."""

    freezes_backbone: ClassVar[bool] = True

    def note(self, view: View) -> str | None:
        """Return a line that says why features are not computed once, if they are not."""
        if self._can_cache(view):
            return None
        return (
            "the backbone runs in every epoch, as BatchNorm adapts or training images change"
            " (see conf/transfer/fixed.yaml)"
        )

    def _can_cache(self, view: View) -> bool:
        return self.batchnorm == "frozen" and view.is_static

    def _prepared(self, task: TransferTask) -> tuple[nn.Module, Examples, Examples]:
        if not self._can_cache(task.view):
            return super()._prepared(task)
        train, test = (
            replace(as_examples(dataset), inputs=task.features(dataset)) for dataset in (task.train, task.test)
        )
        return nn.Identity(), train, test


@dataclass(frozen=True)
class Full(GradientTransfer):
    """Fine-tuning of all weights, below a new head."""


@dataclass(frozen=True)
class Probe(TransferMethod):
    """Logistic regression on fixed features, solved to convergence: no learning rate, no epochs, no randomness.

    C: the inverse strength of the L2 penalty, as scikit-learn's `LogisticRegression` has it. weighted: every class
    counts the same, however many examples it has. iterations: of L-BFGS, at most.
    """

    C: PositiveFloat = 1.0
    weighted: bool = False
    iterations: PositiveInt = 1000

    def check(self, view: View) -> None:
        """Raise SourcewiseError when training images change from epoch to epoch, as there are no epochs."""
        if not view.is_static:
            raise SourcewiseError(
                "target: transfer=probe sees each image once, as it is; set augmentation=[], crop=null"
                " and a fixed resolution"
            )

    def transfer(self, task: TransferTask) -> TransferResult:
        """Fit the regression on the features of the training examples, and return its outputs on the test examples."""
        train, labels = task.features(task.train), task.train.labels
        weights = class_weights(labels, task.classes)[labels] if self.weighted else None
        device = task.source.device
        predict = logistic_regression(
            train.to(device), labels.to(device), task.classes, self.C, weights, self.iterations
        )
        return TransferResult(task.outputs(predict(task.features(task.test).to(device))))


def held_out(labels: Tensor, share: float = 0.2) -> tuple[Tensor, Tensor]:
    """Return rows to train on and rows to compare settings on: `share` of each class, rounded down.

    The rows are the same in every run. A class of fewer examples than 1 / share has none to spare. Raises
    SourcewiseError when no class has.
    """
    limit = (share * labels.bincount().double()).floor()[labels]
    held = torch.from_numpy(ranks("held out", labels.numpy())) < limit
    if not held.any():
        raise SourcewiseError(f"several transfer.lr: too few training examples to hold out {share:.0%} of a class")
    return (~held).nonzero().squeeze(1), held.nonzero().squeeze(1)


def class_weights(labels: Tensor, classes: int) -> Tensor:
    """Return weights `[classes]` by which each class counts the same in a mean over examples; their mean there is 1."""
    counts = labels.bincount(minlength=classes)
    return len(labels) / (counts.gt(0).sum() * counts.clamp_min(1))
