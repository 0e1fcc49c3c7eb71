"""Where a record comes from: the versions of the libraries, the commit of the code, and when two runs are the same."""

import functools
import platform
import subprocess
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

from sourcewise.core import names
from sourcewise.core.hashing import fingerprint

_PACKAGES = ("sourcewise", "torch", "torchvision", "torchcodec", "pytorch-lightning", "numpy")


@functools.cache
def versions() -> Mapping[str, str]:
    """Return the versions of Python and of the packages that decide outputs, by name."""
    return {"python": platform.python_version(), **{package: version(package) for package in _PACKAGES}}


@functools.cache
def commit() -> str | None:
    """Return the git commit of a checkout of sourcewise, with `-dirty` when tracked files differ; None when installed.

    None also when git is missing or fails.
    """
    folder = Path(__file__).parents[3]
    if not (folder / ".git").exists():
        return None
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip() or None
    except (OSError, subprocess.SubprocessError):
        return None


def checkpoint_key(config: names.Config) -> str:
    """Return a hash of all that must be equal for two runs to be the same bit for bit."""
    parts = {name: config[name] for name in ("source", "target", "subset", "model", "seed")}
    trainer = {name: value for name, value in config["trainer"].items() if name != "checkpoint_minutes"}
    return fingerprint([parts, trainer, versions(), names.REVISION], length=64)
