"""The sizes of images that a model takes."""

from functools import partial

import pytest
import torch
from torch import Tensor, nn

from sourcewise.core.errors import SourcewiseError
from sourcewise.training import sizes
from sourcewise.training.models import Model


class Picky(nn.Module):
    """A backbone that takes images of 48 pixels or more, if there is memory for them."""

    def __init__(self, memory: bool = True) -> None:
        super().__init__()
        self.memory = memory

    def forward(self, images: Tensor) -> Tensor:
        if not self.memory:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        if images.shape[-1] < 48:
            raise RuntimeError("Kernel size can't be greater than actual input size")
        return torch.zeros(len(images), 2)


def picky(name: str, memory: bool = True) -> Model:
    return Model(Picky(memory), 2, 2)


def test_the_smallest_size_that_a_model_takes_is_named() -> None:
    build = partial(picky, name="fussy")
    model = build()
    with pytest.raises(
        SourcewiseError, match="model fussy: it does not take images of 32 pixels; it takes those of 48"
    ):
        sizes.check(model, build, 3, [64, 32])
    sizes.check(model, build, 3, [48, 64])
    assert model.training


def test_want_of_memory_is_no_matter_of_sizes() -> None:
    build = partial(picky, name="large", memory=False)
    with pytest.raises(RuntimeError, match="allocate memory"):
        sizes.check(build(), build, 3, [32])
