"""The commands of an installed sourcewise: each runs the script of its name, which lies here, or in the checkout."""

import sys
from pathlib import Path
from types import ModuleType

HERE = Path(__file__).parents[1]


def train() -> None:
    """`sourcewise-train`: see train.py."""
    _run("train.py")


def estimate() -> None:
    """`sourcewise-estimate`: see estimate.py."""
    _run("estimate.py")


def _run(script: str) -> None:
    installed = HERE / script
    path = installed if installed.is_file() else HERE.parents[1] / script
    sys.modules["__main__"] = main = ModuleType("__main__")
    main.__file__ = str(path)
    # Not by runpy, which renames the command: completion and messages call it what the user does.
    exec(compile(path.read_text(encoding="utf-8"), str(path), "exec"), main.__dict__)  # noqa: S102  # our own file
