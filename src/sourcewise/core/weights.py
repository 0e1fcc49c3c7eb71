"""Published weights that a config names: where they lie on this machine, and what they hold, by a hash."""

import functools
import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sourcewise.core.errors import SourcewiseError
from sourcewise.core.files import open_regular
from sourcewise.core.names import Config

Weights = Mapping[str, str]
"""`root`: the file. `sha256`: of its content, which the recipe holds in place of the file's name."""


def with_weights(config: Config) -> dict[str, Any]:
    """Return a resolved config whose `model.weights`, if it has any, say what the file holds.

    Raises SourcewiseError when there is no such file.
    """
    model = config.get("model") or {}
    if not isinstance(name := model.get("weights"), str):
        return dict(config)
    return {**config, "model": {**model, "weights": describe(name)}}


def describe(name: str) -> Weights:
    """Return where weights lie, and the hash of their file.

    name: a path, or the name of a file that torch.hub has downloaded before.

    Raises SourcewiseError when there is no such file.
    """
    hub = Path(os.environ.get("TORCH_HOME") or Path.home() / ".cache" / "torch") / "hub" / "checkpoints"
    path = next((path for path in (Path(name), hub / name) if path.is_file()), None)
    if path is None:
        raise SourcewiseError(
            f"model.weights={name}: there is no such file, and none of this name in {hub}; nothing is downloaded:"
            " give the path of a .safetensors or .pth file"
        )
    return {"root": str(path), "sha256": _hash(path, path.stat().st_mtime_ns, path.stat().st_size)}


@functools.lru_cache(maxsize=64)
def _hash(path: Path, changed: int, size: int) -> str:
    """Return the hash of a file's content; changed, size: when it was written, and its bytes."""
    try:
        state = hashlib.sha256()
        with open_regular(path) as (file, _):
            while block := file.read(2**20):
                state.update(block)
        return state.hexdigest()
    except OSError as error:
        raise SourcewiseError(f"model.weights={path}: cannot be read ({error.strerror})") from error
