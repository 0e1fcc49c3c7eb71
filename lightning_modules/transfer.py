"""Transfer to a target task: a new head on frozen features, or fine-tuning of everything; then outputs per example."""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torchmetrics.functional.classification import binary_auroc, multiclass_accuracy

from sourcewise.lightning_modules.classification import Classification, Optimisation
from sourcewise.lightning_modules.data import Batch
from sourcewise.lightning_modules.outputs import ExampleOutputs, Outputs

BatchNormMode = Literal["frozen", "adapting"]


class Transfer(Classification):
    """Trains `network` on the target and says what it says of every test example.

    frozen: the part of the network whose weights stay (fixed features), or None to train all.
    batchnorm: `frozen` keeps the source's running statistics; `adapting` lets them follow the target while training.
    After `Trainer.test`, `outputs` and `scores` hold the results.
    """

    outputs: Outputs
    scores: dict[str, float]

    def __init__(
        self,
        network: nn.Module,
        optimisation: Optimisation,
        steps_per_epoch: int,
        *,
        classes: int,
        test_examples: int,
        frozen: nn.Module | None = None,
        batchnorm: BatchNormMode = "frozen",
        class_weights: Tensor | None = None,
    ) -> None:
        super().__init__(network, optimisation, steps_per_epoch, classes=classes, class_weights=class_weights)
        self.batchnorm, self.frozen, self.classes = batchnorm, frozen, classes
        if frozen is not None:
            frozen.requires_grad_(False)
        self.examples = ExampleOutputs(test_examples)

    def on_train_epoch_start(self) -> None:
        """What is frozen evaluates, the rest trains, and BatchNorm layers take the mode that was asked for."""
        self.network.train()
        if self.frozen is not None:
            self.frozen.eval()
        for module in self.network.modules():
            if isinstance(module, _BatchNorm):
                module.train(self.batchnorm == "adapting")

    def test_step(self, batch: Batch, index: int) -> None:
        """Collect the outputs of a batch."""
        self.examples.update(self(batch.inputs), batch.labels, batch.ids)

    def on_test_epoch_end(self) -> None:
        """Outputs by example id, and the scores from them: so that padding never counts twice."""
        # torchmetrics squeezes what has one element
        self.outputs = Outputs(*(values.reshape(-1) for values in self.examples.compute()))
        said = self.outputs.prediction, self.outputs.labels, self.classes
        # Of the classes that have examples: torchmetrics' macro average counts others as wrong.
        there = self.outputs.labels.bincount(minlength=self.classes) > 0
        self.scores = {
            "accuracy": float(multiclass_accuracy(*said, average="micro")),
            "mean_per_class": float(multiclass_accuracy(*said, average="none")[there].mean()),
            "prob": float(self.outputs.prob.double().mean()),
        }
        if self.classes == 2 and 0 < self.outputs.labels.sum() < len(self.outputs.labels):
            # Of two classes, the margin is the logit of the correct one.
            logit = torch.where(self.outputs.labels == 1, self.outputs.margin, -self.outputs.margin)
            self.scores["auroc"] = float(binary_auroc(logit.double().sigmoid(), self.outputs.labels))
