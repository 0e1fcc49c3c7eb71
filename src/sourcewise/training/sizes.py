"""The sizes of images that a model takes, tried with one image before anything is trained."""

from collections.abc import Callable, Collection

import torch

from sourcewise.core.errors import SourcewiseError
from sourcewise.core.messages import lacks_memory
from sourcewise.training.models import Model

SIDES = (8, 16, 24, 32, 48, 64, 75, 96, 112, 128, 160, 192, 224, 256, 288, 299, 320, 384, 448, 512, 518)
"""Sides in pixels that are tried to find one that a model takes."""

_PASSED: dict[tuple[str, int, frozenset[int]], Callable[..., Model]] = {}
"""Builds whose models passed in this process, which may do many runs of them, by repr, channels and sides. They are
kept, since another object could have the address in their repr."""


def check(model: Model, build: Callable[..., Model], channels: int, sides: Collection[int]) -> None:
    """Check that a model, which is on the CPU, takes square images of all `sides`, in pixels.

    build: made the model; a process tries the models of a build once. Raises SourcewiseError, with a side that the
    model does take; a model that takes none passes, since it fails for another reason.
    """
    key = repr(build), channels, frozenset(sides)
    if key in _PASSED:
        return
    training = model.training
    model.eval()
    refused = [side for side in sorted(sides) if not _takes(model, channels, side)]
    taken = next((side for side in SIDES if refused and side > refused[0] and _takes(model, channels, side)), None)
    model.train(training)
    if taken:
        name = getattr(build, "keywords", {}).get("name", type(model).__name__)
        raise SourcewiseError(
            f"model {name}: it does not take images of {refused[0]} pixels; it takes those of {taken}: set"
            f" source.resolution={taken}, and target.<name>.resolution={taken} of every target"
        )
    _PASSED[key] = build


def _takes(model: Model, channels: int, side: int) -> bool:
    """Return whether a model takes an image of this side. Raises what the model does where memory does not suffice."""
    try:
        with torch.inference_mode():
            model.backbone(torch.zeros(1, channels, side, side))
    except Exception as error:  # models say in many ways that an image is too small
        if lacks_memory(error):
            raise
        return False
    return True
