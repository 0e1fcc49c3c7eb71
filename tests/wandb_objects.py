"""What the server of the tests holds: runs, sweeps, and artifacts."""

from __future__ import annotations

import itertools
import json
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import yaml
from wandb_graphql import GraphQLError, Json, encode_id


@dataclass
class Run:
    """A run, as its client described it."""

    entity: str
    project: str
    name: str
    about: Json = field(default_factory=dict)  # displayName, groupName, jobType, tags, notes, sweep, host ...
    raw_config: Json = field(default_factory=dict)
    summary: Json = field(default_factory=dict)
    lines: dict[str, list[str]] = field(default_factory=dict)  # by file of the stream
    started: bool = False
    exitcode: int | None = None
    created: float = field(default_factory=time.time)
    heartbeat: float = field(default_factory=time.time)

    @property
    def path(self) -> str:
        return f"{self.entity}/{self.project}/{self.name}"

    @property
    def id(self) -> str:
        return encode_id("Run:v1", self.name, self.project, self.entity)

    @property
    def config(self) -> Json:
        own = {k: v for k, v in self.raw_config.items() if k not in ("_wandb", "wandb_version")}
        return {k: v.get("value") if isinstance(v, dict) else v for k, v in own.items()}

    @property
    def history(self) -> list[Json]:
        return [json.loads(line) for line in self.lines.get("wandb-history.jsonl", [])]

    @property
    def group(self) -> str | None:
        return self.about.get("groupName")

    @property
    def tags(self) -> list[str]:
        return self.about.get("tags") or []

    @property
    def sweep(self) -> str | None:
        return self.about.get("sweep")

    @property
    def state(self) -> str:
        """The state as the hosted server words it: it takes 255 (ctrl-c) for killed and 254 for crashed."""
        if self.exitcode is not None:
            return {0: "finished", 254: "crashed", 255: "killed"}.get(self.exitcode, "failed")
        if not self.started:
            return "pending"
        return "running"

    def look_up(self, key: str) -> Any:
        """Return what a filter names."""
        fields = {"name": self.name, "state": self.state, "group": self.group, "tags": self.tags, "sweep": self.sweep}
        return fields[key] if key in fields else self.about.get(key)


def matches(run: Run, query: Json) -> bool:
    """Say whether a run passes a filter in the style of MongoDB."""
    groups: dict[str, Callable[[list[Json]], bool]] = {
        "$and": lambda parts: all(matches(run, part) for part in parts),
        "$or": lambda parts: any(matches(run, part) for part in parts),
    }
    return all(groups[k](v) if k in groups else _passes(run.look_up(k), v) for k, v in query.items())


def _passes(value: Any, want: Any) -> bool:
    if not isinstance(want, dict):
        return want == value or (isinstance(value, list) and want in value)
    if unknown := set(want) - {"$in"}:
        raise GraphQLError(f"unknown filter operators {unknown}")
    return any(_passes(value, choice) for choice in want["$in"])


@dataclass
class Sweep:
    """A sweep: its config, what its search has still to hand out, and its agents."""

    entity: str
    project: str
    name: str
    text: str  # the config, as YAML
    state: str = "PENDING"
    agents: dict[str, list[str]] = field(default_factory=dict)  # the runs that each was given
    created: float = field(default_factory=time.time)

    def __post_init__(self) -> None:
        self.config: Json = yaml.safe_load(self.text)
        self.expected: int | None = self.config.get("run_cap")
        parameters = self.config.get("parameters", {})
        draws: Iterator[tuple[Any, ...]]
        if self.config.get("method") == "grid":
            grid = list(itertools.product(*(self._values(name, spec) for name, spec in parameters.items())))
            self.expected = min(len(grid), self.expected or len(grid))
            draws = iter(grid)
        elif self.config.get("method") == "random":
            rng = random.Random(0)
            draws = (tuple(self._draw(spec, rng) for spec in parameters.values()) for _ in itertools.count())
        else:
            raise GraphQLError(f"this server knows no search method {self.config.get('method')!r}")
        self.left = (dict(zip(parameters, draw, strict=True)) for draw in itertools.islice(draws, self.expected))

    @staticmethod
    def _values(name: str, spec: Json) -> list[Any]:
        if isinstance(spec.get("min"), int) and isinstance(spec.get("max"), int):
            return list(range(spec["min"], spec["max"] + 1))
        if "value" not in spec and "values" not in spec:
            raise GraphQLError(f"Invalid sweep config: grid search needs values of {name}")
        return list(spec["values"]) if "values" in spec else [spec["value"]]

    def _draw(self, spec: Json, rng: random.Random) -> Any:
        if isinstance(spec.get("min"), float):
            return rng.uniform(spec["min"], spec["max"])
        return rng.choice(self._values("a parameter", spec))


@dataclass
class Artifact:
    """A version of an artifact, or a draft of one."""

    entity: str
    project: str
    collection: str
    type: str
    id: str
    run: str  # its path
    about: Json
    version: int | None = None  # None until it is committed
    aliases: set[str] = field(default_factory=set)
    created: float = field(default_factory=time.time)
