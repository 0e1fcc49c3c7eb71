"""Transfer to a target task by training: a head on frozen features, or the whole network; then outputs per example."""

from typing import Literal

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from sourcewise.lightning_modules.classification import Classification, Optimisation
from sourcewise.lightning_modules.data import Batch
from sourcewise.lightning_modules.outputs import ExampleOutputs, Outputs

BatchNormMode = Literal["frozen", "adapting"]


class Transfer(Classification):
    """Training of `network` on the target, and its outputs on every test example.

    frozen: the part of the network whose weights stay (fixed features), or None to train all.
    batchnorm: `frozen` keeps the source's running statistics; `adapting` lets them follow the target while training.
    After `Trainer.test`, `outputs` holds the results.
    """

    outputs: Outputs

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
        self.batchnorm, self.frozen = batchnorm, frozen
        if frozen is not None:
            frozen.requires_grad_(False)
        self.examples = ExampleOutputs(test_examples)

    def on_train_epoch_start(self) -> None:
        """Put the frozen part into evaluation mode, the rest into training mode, and BatchNorm layers as asked."""
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
        """Gather the outputs by example id, so that padding never counts twice."""
        # torchmetrics squeezes what has one element
        self.outputs = Outputs(*(values.reshape(-1) for values in self.examples.compute()))
