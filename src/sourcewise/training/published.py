"""Weights that somebody else trained, read from a file: tensors alone, nothing that could be executed."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from sourcewise.core.errors import SourcewiseError
from sourcewise.core.weights import Weights, describe
from sourcewise.training.states import misfit

_NESTED = ("state_dict", "model", "model_state_dict")
"""Keys under which training scripts save the tensors of a network."""
_WRAPPER = "module."
"""What `DataParallel` puts before every name."""


def read(weights: Weights | str) -> dict[str, Tensor]:
    """Return the tensors in a file of weights by name.

    Raises SourcewiseError for a file that changed since it was named, or that holds anything else than tensors.
    """
    stated = describe(weights if isinstance(weights, str) else weights["root"])
    path = Path(stated["root"])
    if not isinstance(weights, str) and stated["sha256"] != weights["sha256"]:
        raise SourcewiseError(f"model.weights={path}: its content changed since the run was named; start it again")
    try:
        content: Any = load_file(path) if path.suffix == ".safetensors" else _unpickled(path)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, ValueError, OSError) as error:
        reason = str(error).partition("\n")[0][:150]
        raise SourcewiseError(f"model.weights={path}: not a file of tensors alone ({reason})") from error
    for key in _NESTED:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise SourcewiseError(f"model.weights={path}: it holds something else than the tensors of a network by name")
    return {str(name).removeprefix(_WRAPPER): value for name, value in content.items()}


def load_into(network: nn.Module, tensors: Mapping[str, Tensor], weights: Weights | str) -> None:
    """Give a network these weights. Raises SourcewiseError that names the first tensor that does not fit."""
    path = weights if isinstance(weights, str) else weights["root"]
    current = network.state_dict()
    counts = {name: value for name, value in current.items() if name.endswith("num_batches_tracked")}
    given = {**counts, **tensors}  # files of old versions of torch lack counts
    if problem := misfit(current, given, lambda value: str(list(value.shape))):
        raise SourcewiseError(f"model.weights={path}: {problem}")
    network.load_state_dict(given)


def _unpickled(path: Path) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the format of old files
        return torch.load(path, map_location="cpu", weights_only=True)
