"""Source models kept in files: written after pretraining, and loaded in its place."""

import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import torch
import xxhash
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from sourcewise.core import names
from sourcewise.core.files import open_regular, write_atomically
from sourcewise.core.hashing import fingerprint
from sourcewise.core.messages import print_once
from sourcewise.data import ImageDataset, Numbers
from sourcewise.records.source_models import MAX_HEADER, Dtype, Header, ModelError, damaged
from sourcewise.training import provenance
from sourcewise.training.states import misfit

MEANS = "group_means"
"""The tensor of the mean features of each group, in files of models of the full source."""
MAX_FEATURES = 2**14
"""Features that a network may have, for the size of a file."""
DTYPES: Mapping[Dtype, torch.dtype] = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def header(config: names.Config, source: ImageDataset, dtype: str) -> Header:
    """Return the header of the source model of a resolved config, without metrics and seconds."""
    settings, group_names = names.source_recipe(config), source.group_names
    return Header(
        recipe=fingerprint(settings),
        settings=settings,
        subset=config["subset"],
        seed=config["seed"],
        groups=len(group_names),
        group_names=None if isinstance(group_names, Numbers) else fingerprint(list(group_names), length=64),
        fingerprint=source.fingerprint,
        dtype=dtype,  # type: ignore[arg-type]  # the config was checked
        versions=provenance.versions(),
    )


def to_bytes(network: nn.Module, mask: NDArray[np.bool_], header: Header, group_means: Tensor | None = None) -> bytes:
    """Return the content of a kept model's file: its state, and the subset; floating-point numbers have the dtype.

    group_means: float32[groups, features], mean features of each group, which feature mapping needs; None: not known.

    Raises ModelError when the network computes in another precision than float32.
    """
    tensors = {"mask": torch.from_numpy(np.packbits(mask))}
    if group_means is not None:
        tensors[MEANS] = group_means.contiguous()
    for name, value in network.state_dict().items():
        if value.is_floating_point() and value.dtype is not torch.float32:
            raise ModelError(f"{name} is {value.dtype}; source models are kept of trainer.precision=32-true or mixed")
        kept = value.detach().to("cpu", DTYPES[header.dtype] if value.is_floating_point() else value.dtype)
        tensors[name] = kept.contiguous()
    text = header.as_text()
    return save({**tensors, "xxh3": _checksum(text, tensors)}, {"sourcewise": text})


def keep(
    path: Path, network: nn.Module, mask: NDArray[np.bool_], header: Header, group_means: Tensor | None = None
) -> None:
    """Write a source model to a file, as `to_bytes` has it.

    What cannot be written costs the model, and never the run: a line says so.
    """
    try:
        write_atomically(path, to_bytes(network, mask, header, group_means))
    except (OSError, ModelError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        print_once(f"{path.parent.parent}: a source model is not kept: {reason}")


def restore(path: Path, network: nn.Module, mask: NDArray[np.bool_], expected: Header) -> tuple[Header, Tensor | None]:
    """Give a network the weights in a file; return the file's header and the mean features of groups, if it has them.

    mask, expected: subset and header of the model that the run would have trained.

    Raises ModelError when the file is damaged, or not of this source, subset, seed and network.
    """
    current = network.state_dict()
    header, tensors = _read(
        path, MAX_HEADER + 2 * sum(value.nbytes for value in current.values()) + 4 * len(mask) * MAX_FEATURES
    )
    for part in ("recipe", "subset", "seed", "fingerprint", "groups", "group_names"):
        if getattr(header, part) != getattr(expected, part):
            raise ModelError(f"{path}: {_PARTS[part]} is another than that of this run")
    if not np.array_equal(tensors.pop("mask").numpy(), np.packbits(mask)):
        raise ModelError(f"{path}: the subset is another than that of this run")
    means = tensors.pop(MEANS, None)
    if means is not None and (means.dtype is not torch.float32 or means.ndim != 2 or len(means) != len(mask)):
        raise ModelError(f"{path}: {MEANS} is {list(means.shape)}, and there are {len(mask)} groups")
    as_kept = {
        name: value.to("meta", DTYPES[header.dtype]) if value.is_floating_point() else value
        for name, value in current.items()
    }
    if problem := misfit(as_kept, tensors, lambda value: f"{value.dtype}{list(value.shape)}".removeprefix("torch.")):
        raise ModelError(f"{path}: {problem}")
    network.load_state_dict(tensors)
    return header, means


def restore_first(
    paths: Iterable[Path], network: nn.Module, mask: NDArray[np.bool_], expected: Header, *, must_fit: bool
) -> tuple[Header, Tensor | None] | None:
    """Restore from the first file that can be used, as `restore` does; None if there is none.

    must_fit: whether ModelError is raised for a file that cannot be used. Otherwise it gets a line on stderr.
    """
    for path in paths:
        try:
            return restore(path, network, mask, expected)
        except ModelError as error:
            if must_fit:
                raise
            print(f"{error}: it is left aside", file=sys.stderr, flush=True)
    return None


_PARTS = {
    "recipe": "the source recipe",
    "subset": "the subset",
    "seed": "the training seed",
    "fingerprint": "the source's dataset",
    "groups": "the number of groups",
    "group_names": "the names of the groups",
}


def _read(path: Path, limit: int) -> tuple[Header, dict[str, Tensor]]:
    """Return the header and the tensors of a file of `limit` bytes at most, verified by its checksum.

    Raises ModelError when it cannot be used.
    """
    try:
        with open_regular(path) as (_, size):
            if size > limit:
                raise ModelError(f"{path}: {size:,} bytes, and this model has at most {limit:,}")
        with safe_open(path, "pt") as file:  # maps the file: its bytes are read once, and copied into the network only
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # it has no __iter__
            text = file.metadata()["sourcewise"]
    except OSError as error:
        raise ModelError(f"{path}: cannot be read ({error.strerror})") from error
    except (SafetensorError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise damaged(path, "truncated, or another kind of file") from error
    header = Header.from_text(text, path)
    written = tensors.pop("xxh3", None)
    if written is None or not torch.equal(written, _checksum(text, tensors)):
        raise damaged(path, "its content was changed since it was written")
    if "mask" not in tensors:
        raise damaged(path, "it has no mask")
    return header, tensors


def _checksum(text: str, tensors: Mapping[str, Tensor]) -> Tensor:
    """Return the XXH3 of header and tensors, `uint8[16]`, which reveals accidents in a tenth of SHA-256's time."""
    state = xxhash.xxh3_128(text.encode())
    for name, value in sorted(tensors.items()):
        numbers = value.view(torch.int16) if value.dtype is torch.bfloat16 else value  # numpy has no bfloat16
        state.update(f"\0{name}\0{value.dtype}\0{tuple(value.shape)}\0".encode())
        state.update(numbers.numpy().data)
    return torch.tensor(list(state.digest()), dtype=torch.uint8)
