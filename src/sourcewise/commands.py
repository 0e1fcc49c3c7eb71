"""The commands of an installed sourcewise: each runs the script of its name, which lies here, or in the checkout."""

import runpy
from pathlib import Path

HERE = Path(__file__).parent


def train() -> None:
    """`sourcewise-train`: see train.py."""
    _run("train.py")


def estimate() -> None:
    """`sourcewise-estimate`: see estimate.py."""
    _run("estimate.py")


def _run(script: str) -> None:
    installed = HERE / script
    path = installed if installed.is_file() else HERE.parents[1] / script
    runpy.run_path(str(path), run_name="__main__")
