"""A loopback W&B server with records, and how they are read back."""

# ruff: noqa: F401, F811  (fixtures are imported, and named again as arguments)

import copy
import functools
from pathlib import Path
from typing import Any

import fake_records as made
import numpy as np
import pytest
from conftest import compose_config
from wandb_server import WandbServer, wandb_server

from sourcewise.core import names
from sourcewise.core.hashing import fingerprint
from sourcewise.records import browsing, download, record, wandb_reader
from sourcewise.records.reading import Reading, Records
from sourcewise.records.record import Record

PLACE = "wandb:tester/demo"
METRIC = "target/pets/accuracy"


@pytest.fixture
def server(wandb_server: WandbServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> WandbServer:
    """This process is a client of the server, with a cache of its own."""
    for key, value in wandb_server.env(tmp_path / "wandb", XDG_CACHE_HOME=str(tmp_path / "cache")).items():
        monkeypatch.setenv(key, value)
    monkeypatch.setattr(download, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(wandb_reader, "ANSWER_TIMEOUT", 3)
    return wandb_server


composed = functools.cache(compose_config)


def make(seed: int = 0, *overrides: str, **changes: Any) -> Record:
    """A record that says of itself what a real run would."""
    config = copy.deepcopy(composed(*overrides))
    config["subset"]["seed"] = seed
    folder = names.run_dir(config)
    named = {"study": folder.parent.name, "run": folder.name, "recipe": fingerprint(names.recipe(config))}
    metrics = {METRIC: 0.5 + seed / 100}
    return made.make(seed, **({"config": config, "metrics": metrics, **named} | changes))


def put(
    server: WandbServer, item: Record, id: str = "", content: bytes | None = None, old: bool = True, **about: Any
) -> Any:
    """Put a run on the server as train.py would have; old: as the first versions did."""
    config, subset = (
        browsing.shown_config(item.header.config),
        browsing.shown_subset(item.mask, item.header.group_names),
    )
    if old:
        config = dict(item.header.config)
        bits = np.packbits(item.mask).tobytes().hex()
        subset = {"subset/groups": len(item.mask), "subset/names": item.header.group_names, "subset/mask": bits}
    summary = {**item.header.metrics, **subset}
    files = {names.RECORD: record.to_bytes(item) if content is None else content}
    values = {"groupName": item.header.study, "jobType": "run", "displayName": item.header.run} | about
    return server.add_run("demo", id or f"r{item.header.subset_seed}", config, summary, files, **values)


@pytest.fixture
def stocked(server: WandbServer) -> WandbServer:
    """A project with four good runs, two of them as the first versions showed them, and the run of an estimate."""
    for seed in range(4):
        put(
            server,
            make(seed),
            old=seed % 2 == 0,
            tags=["even"] if seed % 2 == 0 else [],
            sweep="s1" if seed < 2 else None,
        )
    server.add_run("demo", "estimate", jobType="estimate")
    return server


def read(places: Any = PLACE, **settings: Any) -> tuple[list[int | None], Reading]:
    records = iter(Records(places, progress=False, **settings))
    return [item.header.subset_seed for item in records], records


def reasons(records: Reading) -> dict[str, str]:
    return {item.path.rpartition("/")[2]: item.reason for item in records.left_out}


def refusal(answer: Any) -> Any:
    return {"errors": [{"message": "no\nway"}]}


def scalars(places: Any = PLACE, metric: str = METRIC, **settings: Any) -> tuple[list[Record], Reading]:
    records = Records(places, progress=False, **settings).with_output(f"metric:{metric}")
    return list(records), records
