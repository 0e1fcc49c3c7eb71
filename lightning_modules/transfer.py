"""Transfer to a target task by training: a head on frozen features, or the whole network; then outputs per example."""

from collections.abc import Iterable
from typing import Any, Literal

import torch
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
        test_examples: int,
        frozen: nn.Module | None = None,
        batchnorm: BatchNormMode = "frozen",
        class_weights: Tensor | None = None,
    ) -> None:
        super().__init__(network, optimisation, steps_per_epoch, class_weights=class_weights)
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


class HeadTransfer(Transfer):
    """Training of a head on features, all of it in one step of Lightning's.

    Around each step, Lightning takes several times as long as a head does. The data are given `at_once`, see
    `ImageData`. After `Trainer.fit`, `outputs` holds the results.
    """

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.automatic_optimization = False

    def training_step(self, batches: Iterable[Batch], index: int) -> None:  # type: ignore[override]  # an item is many batches
        """Train on all batches. A head computes in 32 bits, so 16-bit precision needs no scaled losses here."""
        optimiser: Any = self.optimizers(use_pl_optimizer=False)
        schedule: Any = self.lr_schedulers()
        with torch.autocast(self.device.type, enabled=False):
            for batch in batches:
                loss = super().training_step(self._cast(batch), index)
                optimiser.zero_grad()
                self.trainer.strategy.pre_backward(loss)  # prepares the exchange of gradients between processes
                loss.backward()  # type: ignore[no-untyped-call]  # torch's
                optimiser.step()
                schedule.step()

    def on_train_end(self) -> None:
        """Compute the outputs: `Trainer.test` would take longer to begin than this takes."""
        trainer: Any = self.trainer
        with torch.inference_mode():
            for index, batch in enumerate(trainer.datamodule.test_dataloader()):
                self.test_step(self._cast(batch), index)
        self.on_test_epoch_end()

    def _cast(self, batch: Batch) -> Batch:
        """Return the batch in the precision of the weights, as Lightning does with batches that it hands out itself."""
        return batch._replace(inputs=batch.inputs.to(self.dtype))
