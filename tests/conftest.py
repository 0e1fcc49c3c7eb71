"""Fixtures: the real config composed, tiny runs, and hypothesis settings for two busy cores."""

import copy
import functools
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hypothesis import HealthCheck, settings

from sourcewise.sweep.composition import plain

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # train.py and estimate.py are modules to the tests

# A background job starts with Ctrl-C ignored, and so would all commands that tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile("ci", deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("ci")

Compose = Callable[..., dict[str, Any]]

READ_BY_CONFIGS = ("SOURCEWISE_DATA", "WANDB_ENTITY", "WANDB_PROJECT")
"""Variables that `${oc.env:...}` reads."""

TINY = ("source.pretraining.epochs=1", "model.width=4", "transfer.epochs=3", "logger=none")


def compose_config(*overrides: str, name: str = "train") -> dict[str, Any]:
    """The resolved config that a command would run with."""
    return copy.deepcopy(_composed(name, overrides, tuple(map(os.environ.get, READ_BY_CONFIGS))))


@functools.cache
def _composed(name: str, overrides: tuple[str, ...], environment: tuple[str | None, ...]) -> dict[str, Any]:
    """Composing takes a third of a second, and many tests have the same overrides. environment: of READ_BY_CONFIGS."""
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return plain(compose(name, overrides=list(overrides)))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put what takes longest first, by its timeout, so that workers end at about the same time."""
    items.sort(key=lambda item: -max((mark.args[0] for mark in item.iter_markers("timeout")), default=0))


@pytest.fixture(autouse=True)
def _no_wandb_left() -> Iterator[None]:
    """What wandb keeps in a process, a server of its own and who is logged in, would meet the next test."""
    yield
    if wandb := sys.modules.get("wandb"):
        wandb.teardown()


@pytest.fixture
def tiny(tmp_path: Path) -> Compose:
    """Composes a run of about a tenth of a second, with its records in a fresh folder."""
    anywhere, runs = "/the-runs", json.dumps(str(tmp_path / "runs"))[1:-1]

    def composed(*overrides: str) -> dict[str, Any]:
        config: dict[str, Any] = compose_config(*TINY, f"runs_dir={anywhere}", *overrides)  # the same for many tests
        return dict(json.loads(json.dumps(config).replace(anywhere, runs)))

    return composed
