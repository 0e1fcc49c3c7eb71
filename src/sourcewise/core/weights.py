"""Published weights that a config names: where they lie on this machine, and what they hold, by a hash."""

import functools
import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sourcewise.core.errors import SourcewiseError
from sourcewise.core.files import home_folder, open_regular
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

    name: a path; or what was downloaded before: the name of a file of torch.hub, or of a model of the Hugging Face Hub,
        such as `timm/resnet10t.c3_in1k`.

    Raises SourcewiseError when there is no such file.
    """
    hub = Path(os.environ.get("TORCH_HOME") or home_folder() / ".cache" / "torch") / "hub" / "checkpoints"
    path = next((path for path in (Path(name), hub / name) if path.is_file()), None) or _hugging_face(name)
    if path is None:
        raise SourcewiseError(
            f"model.weights={name}: there is no such file, and none of this name in {hub} or in the cache of Hugging"
            " Face; nothing is downloaded: give the path of a .safetensors or .pth file"
        )
    return {"root": str(path), "sha256": _hash(path, path.stat().st_mtime_ns, path.stat().st_size)}


def _hugging_face(name: str) -> Path | None:
    """Return the weights of a model of the Hub in the cache on this machine; None if it is not there."""
    try:
        from huggingface_hub import try_to_load_from_cache
        from huggingface_hub.errors import HFValidationError
    except ImportError:
        return None
    try:
        cached = (try_to_load_from_cache(name, file) for file in ("model.safetensors", "pytorch_model.bin"))
        return next((Path(path) for path in cached if isinstance(path, str)), None)
    except HFValidationError:  # no name that a model could have
        return None


@functools.lru_cache(maxsize=64)
def _hash(path: Path, changed: int, size: int) -> str:
    """Return the hash of a file's content; changed, size: when it was written, and its bytes."""
    try:
        with open_regular(path) as (file, _):
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise SourcewiseError(f"model.weights={path}: cannot be read ({error.strerror})") from error
