"""A small W&B server on the loopback interface, for tests.

The unmodified `wandb` client, `wandb sync`, `wandb sweep`, `wandb agent` and `wandb.Api` talk to it. It holds
what sourcewise uses: runs with their history, summary, console and files; queries with filters and pages;
sweeps with grid or random search, and agents; artifacts. Everything lives in memory and goes with the server.

    with WandbServer() as server:
        subprocess.run([...], env=os.environ | server.env(tmp_path))
        server.run("abc123").summary, server.runs, server.files, server.requests

`server.add_run(...)` puts a run there without a client. Faults are rules for the requests that match a
regular expression on "METHOD /path GraphQLOperation":

    server.fail(500, "UpsertBucket", count=2)   server.drop("PUT")
    server.corrupt("GET /storage", "flip")      server.alter("RunFiles", function)    server.refuse()
"""

from __future__ import annotations

import base64
import contextlib
import functools
import gzip
import hashlib
import itertools
import json
import mimetypes
import random
import re
import socket
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

ENTITY, API_KEY = "tester", "local-" + "0" * 40
FEATURES = [  # what the server says it can do; the client takes other paths where a feature is missing
    "ARTIFACT_COLLECTION_MEMBERSHIP_FILES",
    "ARTIFACT_DIGEST_ALGORITHM",
    "ARTIFACT_TAGS",
    "CLIENT_IDS",
    "FILESTREAM_GZIP",
    "LARGE_FILENAMES",
    "MARK_RUN_FILES_UPLOADED",
    "PROJECT_ARTIFACT_COLLECTION_MEMBERSHIP",
    "SWEEPS_QUERY_FILTERING",
    "TOTAL_COUNT_IN_FILE_CONNECTION",
    "USE_ARTIFACT_WITH_ENTITY_AND_PROJECT_INFORMATION",
]

Json = dict[str, Any]


# ---------------------------------------------------------------------------- as much of GraphQL as is needed

_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|\.\.\.|[_A-Za-z]\w*|-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?|[^\s,]')
_CONSTANTS = {"null": None, "true": True, "false": False}


class GraphQLError(Exception):
    """Becomes an answer with `errors`."""

    def __init__(self, message: str, status: int = 400):
        super().__init__(message)
        self.status = status


class Variable(str):
    """A `$name` in a query."""


@dataclass
class Field:
    name: str  # "..." for an inline fragment, "...Name" for a named one
    alias: str
    args: Json
    tests: list[tuple[str, Any]]  # @include and @skip
    fields: list[Field]


class Query:
    """A parsed document. Fragments apply whatever the type; variables have no defaults."""

    def __init__(self, text: str):
        self._rest = _TOKEN.findall(re.sub(r"#[^\n]*", "", text))[::-1]
        self.name = ""
        self.fields: list[Field] = []
        self._fragments: dict[str, list[Field]] = {}
        while self._rest:
            kind, name = self._take(), self._take()
            while self._rest[-1] != "{":  # the type of a fragment, the variables of an operation
                self._take()
            if kind == "fragment":
                self._fragments["..." + name] = self._fields()
            else:
                self.name, self.fields = name, self._fields()

    def answer(self, root: Mapping[str, Any], variables: Json) -> Any:
        return self._pick(root, self.fields, variables)

    def _take(self) -> str:
        return str(self._rest.pop())

    def _fields(self) -> list[Field]:
        self._take()
        fields = []
        while self._rest[-1] != "}":
            alias = name = self._take()
            if name == "...":
                target = self._take()
                name += "" if target == "on" and self._take() else target
            elif self._rest[-1] == ":":
                self._take()
                name = self._take()
            args, tests = self._arguments(), []
            while self._rest[-1] == "@":
                self._take()
                tests.append((self._take(), self._arguments()["if"]))
            fields.append(Field(name, alias, args, tests, self._fields() if self._rest[-1] == "{" else []))
        self._take()
        return fields

    def _arguments(self) -> Json:
        return self._value() if self._rest[-1] == "(" else {}

    def _value(self) -> Any:
        token = self._take()
        if token in ("(", "{"):
            pairs = {}
            while self._rest[-1] not in (")", "}"):
                key, _ = self._take(), self._take()
                pairs[key] = self._value()
            self._take()
            return pairs
        if token == "[":
            items = []
            while self._rest[-1] != "]":
                items.append(self._value())
            self._take()
            return items
        if token == "$":
            return Variable(self._take())
        if token in _CONSTANTS:
            return _CONSTANTS[token]
        return json.loads(token) if token[0] in '"-0123456789' else token

    def _fill(self, value: Any, variables: Json) -> Any:
        """Put the variables in; a null argument is as good as none."""
        if isinstance(value, Variable):
            return self._fill(variables.get(value), {})
        if isinstance(value, dict):
            filled = {key: self._fill(item, variables) for key, item in value.items()}
            return {key: item for key, item in filled.items() if item is not None}
        return [self._fill(v, variables) for v in value] if isinstance(value, list) else value

    def _pick(self, value: Any, fields: list[Field], variables: Json) -> Any:
        """Keep of `value` what was asked for. A callable is a field with arguments, or a costly one."""
        if isinstance(value, list):
            return [self._pick(item, fields, variables) for item in value]
        if not isinstance(value, dict):
            return value
        out: Json = {}
        for wanted in fields:
            if any(self._fill(test, variables) == (name == "skip") for name, test in wanted.tests):
                continue
            if wanted.name.startswith("..."):
                out |= self._pick(value, wanted.fields or self._fragments[wanted.name], variables)
                continue
            child = value.get(wanted.name)
            if callable(child):
                child = child(**self._fill(wanted.args, variables))
            out[wanted.alias] = self._pick(child, wanted.fields, variables) if wanted.fields else child
        return out


def page_of(
    items: Sequence[Any],
    show: Callable[[Any], Any] = lambda item: item,
    first: int | None = None,
    after: str | None = None,
    **_: Any,
) -> Json:
    """Return one page of a Relay connection; cursors are positions."""
    start = int(after or 0)
    stop = len(items) if first is None else min(len(items), start + first)
    edges = [{"node": show(items[i]), "cursor": str(i + 1)} for i in range(start, stop)]
    info = {
        "__typename": "PageInfo",
        "endCursor": str(stop) if edges else None,
        "hasNextPage": stop < len(items),
    }
    return {"edges": edges, "pageInfo": info, "totalCount": len(items)}


def encode_id(*parts: Any) -> str:
    return base64.b64encode(":".join(map(str, parts)).encode()).decode()


def timestamp(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


# -------------------------------------------------------------------------------------------- what is held


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


@dataclass
class Request:
    """One request, for tests that count or read them."""

    method: str
    path: str
    operation: str = ""
    variables: Json = field(default_factory=dict)
    status: int = 0  # of the answer; 0 for none

    def __str__(self) -> str:
        return f"{self.method} {self.path} {self.operation}".rstrip()


@dataclass
class Fault:
    """A rule that spoils some requests."""

    match: str
    count: int | None = None
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    drop: bool = False
    cut: bool = False
    change: Callable[[bytes], bytes] | None = None
    raw: Callable[[Any], None] | None = None
    hits: int = 0


@dataclass
class Reply:
    body: bytes = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    cut: bool = False  # promise the whole body, then hang up in the middle of it
    raw: Callable[[Any], None] | None = None  # writes the whole answer itself, status line and all


# ---------------------------------------------------------------------------------------------- the server


class WandbServer:
    """The server, a context manager. `runs` are by "entity/project/id", `files` by that and the name."""

    def __init__(self, entity: str = ENTITY, api_key: str = API_KEY):
        self.entity, self.api_key = entity, api_key
        self.entities = {entity}
        self.features = set(FEATURES)
        self.projects: set[tuple[str, str]] = set()
        self.runs: dict[str, Run] = {}
        self.files: dict[str, bytes] = {}
        self.sweeps: dict[str, Sweep] = {}
        self.artifacts: dict[str, Artifact] = {}
        self.requests: list[Request] = []
        self.faults: list[Fault] = []
        self.views: dict[str, Json] = {}  # reports
        self.problems: list[str] = []  # what was asked and is not known here
        self._lock = threading.RLock()
        self._numbers = itertools.count(1)
        self._http: _Http | None = None
        self._port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def env(self, folder: Path | str, **more: str) -> dict[str, str]:
        """Return the variables that point a client here and keep all its files in `folder`."""
        root = Path(folder)
        root.mkdir(parents=True, exist_ok=True)
        env = {"WANDB_BASE_URL": self.url, "WANDB_API_KEY": self.api_key, "WANDB_ENTITY": self.entity}
        env |= {"WANDB_MODE": "online", "WANDB_ERROR_REPORTING": "false"}
        env |= {"NO_PROXY": "127.0.0.1,localhost", "no_proxy": "127.0.0.1,localhost"}
        env |= {"WANDB_DIR": str(root), "NETRC": str(root / "netrc")}
        env |= {f"WANDB_{kind}_DIR": str(root / kind.lower()) for kind in ("CACHE", "CONFIG", "DATA", "ARTIFACT")}
        return env | more

    def start(self) -> WandbServer:
        self._http = _Http(self, self._port)
        self._port = self._http.server_address[1]
        threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def stop(self) -> None:
        if self._http is not None:
            self._http.shutdown()
            self._http.server_close()
            self._http = None

    def __enter__(self) -> WandbServer:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    # -- faults
    def fail(
        self, status: int = 500, match: str = "", count: int | None = None, retry_after: float | None = None
    ) -> Fault:
        """Answer with an error status; `retry_after` adds the header that goes with 429."""
        headers = {} if retry_after is None else {"Retry-After": f"{retry_after:g}"}
        return self._spoil(Fault(match, count, status=status, headers=headers))

    def drop(self, match: str = "", count: int | None = None) -> Fault:
        """Hang up without an answer."""
        return self._spoil(Fault(match, count, drop=True))

    def corrupt(self, match: str = "GET /storage", how: str = "flip", count: int | None = None) -> Fault:
        """Spoil a body: "flip" a byte, "truncate" it cleanly, or "cut" the connection in the middle of it."""
        change = {"flip": _flip, "truncate": lambda body: body[: len(body) // 2], "cut": None}[how]
        return self._spoil(Fault(match, count, change=change, cut=how == "cut"))

    def alter(self, match: str, change: Callable[[Any], Any], count: int | None = None) -> Fault:
        """Replace a JSON answer by `change(answer)`: hostile names, wrong types, missing fields."""
        return self._spoil(Fault(match, count, change=lambda body: json.dumps(change(json.loads(body))).encode()))

    def answer(self, match: str, raw: Callable[[Any], None], count: int | None = None) -> Fault:
        """Let `raw(file)` write the bytes of the answer, whatever they are, until it ends or the client hangs up."""
        return self._spoil(Fault(match, count, raw=raw))

    def _spoil(self, fault: Fault) -> Fault:
        self.faults.append(fault)
        return fault

    def heal(self) -> None:
        self.faults.clear()

    def refuse(self) -> None:
        """Refuse connections, and close the open ones, until `accept`."""
        self.stop()

    def accept(self) -> None:
        self.start()

    # -- looking, and putting there
    def count(self, match: str = "") -> int:
        """Count the requests so far that match."""
        return sum(re.search(match, str(request)) is not None for request in self.requests)

    def run(self, name: str) -> Run:
        """Return the one run of that id, in whatever project."""
        (found,) = [run for run in self.runs.values() if run.name == name]
        return found

    def run_files(self, run: Run) -> dict[str, bytes]:
        start = run.path + "/"
        return {key.removeprefix(start): body for key, body in self.files.items() if key.startswith(start)}

    def add_run(
        self,
        project: str,
        name: str,
        config: Json | None = None,
        summary: Json | None = None,
        files: Mapping[str, bytes] | None = None,
        exitcode: int | None = 0,
        **about: Any,
    ) -> Run:
        """Put a run there as if a client had; `about` is groupName, jobType, tags, displayName, sweep ..."""
        run = self._new_run(self.entity, project, name)
        run.started, run.exitcode, run.summary = True, exitcode, dict(summary or {})
        run.raw_config = {key: {"value": value} for key, value in (config or {}).items()}
        run.about |= {"displayName": name} | about
        self.files |= {f"{run.path}/{file}": body for file, body in (files or {}).items()}
        return run

    def _new_run(self, entity: str, project: str, name: str) -> Run:
        self.projects.add((entity, project))
        run = Run(entity, project, name)
        self.runs[run.path] = run
        return run

    # -- HTTP
    def handle(self, request: Request, body: bytes, user: str | None) -> Reply | None:
        """Answer a request, or return None to hang up."""
        query = None
        if request.path == "/graphql":
            payload = json.loads(body)
            query = Query(payload["query"])
            request.operation, request.variables = query.name, payload.get("variables") or {}
        with self._lock:
            self.requests.append(request)
            faults = [fault for fault in self.faults if re.search(fault.match, str(request))]
            faults = [fault for fault in faults if fault.count is None or fault.hits < fault.count]
            for fault in faults:
                fault.hits += 1
        for fault in faults:
            if fault.drop:
                return None
            if fault.raw:
                return Reply(raw=fault.raw)
            if fault.status:
                return Reply(b'{"error": "injected"}', fault.status, fault.headers)
        reply = self._graphql(query, request, user) if query else self._rest(request, body, user)
        for fault in faults:
            reply.body = fault.change(reply.body) if fault.change else reply.body
            reply.cut = reply.cut or fault.cut
        return reply

    def _graphql(self, query: Query, request: Request, user: str | None) -> Reply:
        answer: Json
        status = 200
        try:
            if user != self.api_key:
                raise GraphQLError("user is not logged in", 401)
            unknown = [wanted.name for wanted in query.fields if wanted.name not in self._root]
            if unknown:
                self.problems.append(f"{query.name}: {unknown}")
                raise GraphQLError(f"Cannot query field {unknown}")
            with self._lock:
                answer = {"data": query.answer(self._root, request.variables)}
        except GraphQLError as error:
            status = error.status
            answer = {"data": None, "errors": [{"message": str(error), "path": [query.name]}]}
        return Reply(json.dumps(answer).encode(), status, {"Content-Type": "application/json"})

    def _rest(self, request: Request, body: bytes, user: str | None) -> Reply:
        kind, _, key = urllib.parse.unquote(request.path).strip("/").partition("/")
        if kind == "files" and user != self.api_key:
            return Reply(b'{"error": "user is not logged in"}', 401)
        if kind == "files" and request.method == "POST" and key.endswith("/file_stream"):
            with self._lock:
                return self._file_stream(key.removesuffix("/file_stream"), json.loads(body))
        if kind == "storage" and user is not None:
            return Reply(b"links to the storage are signed: send no key along", 400)
        if kind == "storage" and request.method == "PUT":
            self.files[key] = body
            return Reply()
        if kind == "files" and key in self.files:
            return Reply(status=307, headers={"Location": self._stored(key)})
        if kind == "storage" and key in self.files:
            return Reply(self.files[key], headers={"Content-Type": mime_type(key)})
        if kind not in ("files", "storage", "api"):
            self.problems.append(str(request))
        return Reply(b'{"error": "not found"}', 404)

    def _file_stream(self, path: str, message: Json) -> Reply:
        run = self.runs.get(path)
        if run is None:
            return Reply(b'{"error": "run not found"}', 404)
        run.heartbeat, run.started = time.time(), True
        for name, chunk in (message.get("files") or {}).items():
            if name == "wandb-summary.json":
                run.summary = json.loads(chunk["content"][-1])
                continue
            lines, start = run.lines.setdefault(name, []), chunk["offset"]
            lines.extend([""] * (start - len(lines)))
            lines[start : start + len(chunk["content"])] = chunk["content"]
        run.exitcode = message.get("exitcode", 0) if message.get("complete") else None
        return Reply(json.dumps({"exitcode": run.exitcode, "limits": {}}).encode())

    # -- what GraphQL finds: mappings whose callables are fields with arguments, or ones that cost something.
    # The names of arguments are W&B's. (Formatted by hand: these are tables.)
    # fmt: off
    @functools.cached_property
    def _root(self) -> dict[str, Callable[..., Any]]:
        flags = [{"name": name, "isEnabled": True} for name in sorted(self.features)]
        return {
            "viewer": lambda: {
                "id": encode_id("User", self.entity), "entity": self.entity, "username": self.entity,
                "name": self.entity, "email": "tester@example.com", "admin": False, "flags": "{}",
                "teams": page_of([]), "apiKeys": page_of([])},
            "serverInfo": lambda: {"features": flags, "cliVersionInfo": {"max_cli_version": "99.0.0"}},
            "entity": lambda name: {"id": encode_id("Entity", name), "name": name, "organization": None,
                                    "xxhashDigestsEnabled": False} if name in self.entities else None,
            "clientIDMapping": lambda clientID: next(
                ({"serverID": a.id} for a in self.artifacts.values() if a.about.get("clientID") == clientID),
                None),
            "project": self._project,
            "model": self._project,
            "models": lambda entityName, **page: page_of(
                sorted(name for entity, name in self.projects if entity == entityName),
                lambda name: self._project(name, entityName), **page),
            "artifact": lambda id: self._show_artifact(self.artifacts[id]) if id in self.artifacts else None,
            "upsertModel": lambda input: self._upsert_project(input["entityName"], input["name"]),
            "upsertBucket": lambda input: self._upsert_run(**input),
            "createRunFiles": lambda input: self._create_run_files(**input),
            "markRunFilesUploaded": lambda input: {"success": True},
            "upsertView": lambda input: self._upsert_view(**input),
            "upsertSweep": lambda input: self._upsert_sweep(**input),
            "createAgent": lambda input: self._create_agent(input["sweep"]),
            "agentHeartbeat": lambda input: self._agent_heartbeat(**input),
            "createArtifact": lambda input: self._create_artifact(input),
            "createArtifactManifest": lambda input: self._manifest(input["artifactID"]),
            "updateArtifactManifest": lambda input: self._manifest(input["artifactManifestID"].split("~")[1]),
            "createArtifactFiles": lambda input: self._create_artifact_files(input["artifactFiles"]),
            "commitArtifact": lambda input: self._commit_artifact(input["artifactID"]),
        }

    def _entity(self, name: str | None, doing: str) -> str:
        if name and name not in self.entities:
            raise GraphQLError(f"entity {name} not found during {doing}", 404)
        return name or self.entity

    def _project(self, name: str, entityName: str | None = None) -> Json | None:
        entity = entityName or self.entity
        if (entity, name) not in self.projects:
            return None

        def of_project(things: Mapping[str, Any]) -> list[Any]:
            return [x for x in things.values() if (x.entity, x.project) == (entity, name)]

        def run(name: str, **_: Any) -> Json | None:
            found = self.runs.get(f"{entity}/{project['name']}/{name}")
            return self._show_run(found) if found else None

        def chosen(filters: str = "{}") -> list[Run]:
            return [run for run in of_project(self.runs) if matches(run, json.loads(filters))]

        def runs(filters: str = "{}", order: str = "", first: int = 50, after: str = "") -> Json:
            return page_of(chosen(filters), self._show_run, min(first, 1000), after)

        project: Json = {
            "__typename": "Project", "id": encode_id("Project", name, entity), "internalId": "1",
            "name": name,
            "entity": {"id": encode_id("Entity", entity), "name": entity}, "entityName": entity,
            "createdAt": timestamp(0), "readOnly": False, "isBenchmark": False, "user": None,
            "run": run, "bucket": run, "runs": runs, "runCount": lambda **args: len(chosen(**args)),
            "sweep": lambda sweepName: next(
                (self._show_sweep(s) for s in of_project(self.sweeps) if s.name == sweepName), None),
        }
        return project

    def _upsert_project(self, entity: str, name: str) -> Json:
        self.projects.add((entity, name))
        project = self._project(name, entity)
        return {"project": project, "model": project, "inserted": True}

    def _upsert_run(self, id: str = "", name: str = "", modelName: str = "uncategorized",
                    entityName: str = "", config: str | None = None, summaryMetrics: str | None = None,
                    state: str = "", **about: Any) -> Json:
        if id:
            inserted, run = False, next(run for run in self.runs.values() if run.id == id)
        else:
            entity = self._entity(entityName, "upsertBucket")
            path = (entity, modelName, name or f"run{next(self._numbers):05d}")
            inserted = "/".join(path) not in self.runs
            run = self._new_run(*path) if inserted else self.runs["/".join(path)]
            run.started = run.started or state != "pending"
        run.raw_config = json.loads(config) if config is not None else run.raw_config
        run.summary = json.loads(summaryMetrics) if summaryMetrics is not None else run.summary
        run.about = {"displayName": run.name} | run.about | about
        return {"bucket": self._show_run(run), "inserted": inserted}

    def _create_run_files(self, projectName: str, runName: str, files: list[str],
                          entityName: str = "") -> Json:
        path = f"{entityName or self.entity}/{projectName}/{runName}"
        if path not in self.runs:
            raise GraphQLError(f"run {path} not found during createRunFiles", 404)
        links = [{"name": name, "uploadUrl": self._stored(f"{path}/{name}")} for name in files]
        return {"runID": self.runs[path].id, "uploadHeaders": [], "files": links}

    def _stored(self, key: str) -> str:
        """Return the signed link into the storage: another host, which wants no key."""
        return f"http://localhost:{self._port}/storage/{urllib.parse.quote(key)}?signature=0"

    def _show_file(self, key: str, name: str) -> Json:
        """Describe a file; one that is not there has size 0 and md5 "0", as on the hosted server."""
        body = self.files.get(key)
        md5 = "0" if body is None else base64.b64encode(hashlib.md5(body).digest()).decode()
        return {"__typename": "File", "id": encode_id("File", key), "name": name, "storagePath": key,
                "url": f"{self.url}/files/{urllib.parse.quote(key)}", "directUrl": self._stored(key),
                "md5": md5, "digest": md5,
                "sizeBytes": len(body or b""), "mimetype": mime_type(name), "updatedAt": timestamp(0)}

    def _show_run(self, run: Run) -> Json:
        def files(names: Sequence[str] = (), pattern: str = "%", **page: Any) -> Json:
            like = re.escape(pattern).replace("%", ".*").replace("_", ".")
            keep = names or [name for name in sorted(self.run_files(run)) if re.fullmatch(like, name)]
            return page_of(keep, lambda name: self._show_file(f"{run.path}/{name}", name), **page)

        return {
            "__typename": "Run", "id": run.id, "name": run.name, "projectId": 1, "readOnly": False,
            **{k: run.about.get(k) for k in ("displayName", "description", "notes", "jobType", "commit")},
            "tags": run.tags, "group": run.group, "sweepName": run.sweep, "state": run.state,
            "exitcode": run.exitcode, "failed": run.state == "failed", "running": run.state == "running",
            "stopped": False, "shouldStop": False,
            "createdAt": timestamp(run.created), "heartbeatAt": timestamp(run.heartbeat),
            "user": {"name": run.entity, "username": run.entity},
            "project": lambda: self._project(run.project, run.entity),
            "config": lambda: json.dumps(run.raw_config), "summaryMetrics": lambda: json.dumps(run.summary),
            "wandbConfig": lambda keys: json.dumps({"t": 1}), "systemMetrics": "{}",
            "files": files, "fileCount": lambda: len(self.run_files(run)),
        }

    def _upsert_view(self, id: str = "", entityName: str = "", **about: Any) -> Json:
        id = id or f"view{next(self._numbers)}"
        self.views[id] = {"entityName": self._entity(entityName, "upsertView"), **about}
        project = {"id": "1", "name": about["projectName"], "entityName": entityName}
        return {"view": {"id": id, **about, "project": project, "updatedAt": timestamp(0)}, "inserted": True}

    # -- sweeps
    def _upsert_sweep(self, id: str = "", config: str = "{}", entityName: str = "", state: str = "",
                      projectName: str = "uncategorized", **_: Any) -> Json:
        if id:
            sweep = next(s for s in self.sweeps.values() if encode_id("Sweep", s.name) == id)
        else:
            entity = self._entity(entityName, "upsertSweep")
            sweep = Sweep(entity, projectName, f"sweep{next(self._numbers):03d}", config)
            self.sweeps[sweep.name] = sweep
            self.projects.add((entity, projectName))
        sweep.state = state or sweep.state
        return {"sweep": self._show_sweep(sweep), "configValidationWarnings": []}

    def _show_sweep(self, sweep: Sweep) -> Json:
        runs = [run for run in self.runs.values() if (run.project, run.sweep) == (sweep.project, sweep.name)]
        agents = [{"id": encode_id("Agent", name), "name": name, "host": "localhost", "state": "RUNNING",
                   "totalRuns": len(given), "createdAt": timestamp(sweep.created),
                   "heartbeatAt": timestamp(sweep.created)} for name, given in sweep.agents.items()]
        return {
            "__typename": "Sweep", "id": encode_id("Sweep", sweep.name), "name": sweep.name,
            "state": sweep.state, "config": sweep.text, "method": sweep.config.get("method"),
            "displayName": sweep.config.get("name"), "description": sweep.config.get("description"),
            "bestLoss": None, "controller": None,
            "scheduler": None, "earlyStopJobRunning": False, "createdAt": timestamp(sweep.created),
            "updatedAt": None, "heartbeatAt": timestamp(time.time()), "runCount": len(runs),
            "runCountExpected": sweep.expected, "runs": lambda **page: page_of(runs, self._show_run, **page),
            "agents": lambda: page_of(agents), "project": lambda: self._project(sweep.project, sweep.entity),
        }

    def _create_agent(self, sweep: str) -> Json:
        if sweep not in self.sweeps:
            raise GraphQLError(f"sweep {sweep} not found during createAgent", 404)
        agent = f"{sweep}~{next(self._numbers)}"
        self.sweeps[sweep].agents[agent] = []
        return {"agent": {"id": agent}}

    def _agent_heartbeat(self, id: str, runState: str = "{}", metrics: str = "{}") -> Json:
        """Hand an idle agent its next run; "exit" ends it and kills what it still runs."""
        sweep = self.sweeps.get(id.partition("~")[0])
        if sweep is None:
            raise GraphQLError("sweep not found", 404)
        commands: list[Json] = []
        if sweep.state == "CANCELED":
            commands = [{"type": "exit"}]
        elif sweep.state != "PAUSED" and not any(json.loads(runState).values()):
            drawn = next(sweep.left, None) if sweep.state != "FINISHED" else None
            if drawn is None:
                sweep.state, commands = "FINISHED", [{"type": "exit"}]
            else:
                run = self._new_run(sweep.entity, sweep.project, f"{sweep.name}r{next(self._numbers)}")
                given = sum(map(len, sweep.agents.values())) + 1
                run.about |= {"sweep": sweep.name, "displayName": f"sweep-{given}"}
                run.raw_config = {key: {"value": value} for key, value in drawn.items()}
                sweep.agents[id].append(run.name)
                sweep.state = "RUNNING"
                commands = [{"type": "run", "run_id": run.name, "program": sweep.config.get("program"),
                             "args": run.raw_config, "logs": []}]
        return {"agent": {"id": id}, "commands": json.dumps(commands)}

    # -- artifacts
    def _family(self, entity: str, project: str, collection: str) -> list[Artifact]:
        """Return the committed versions of a collection, oldest first."""
        return [a for a in self.artifacts.values() if a.version is not None
                and (a.entity, a.project, a.collection) == (entity, project, collection)]

    def _create_artifact(self, input: Json) -> Json:
        entity, project = self._entity(input.get("entityName"), "createArtifact"), input["projectName"]
        collection = (input.get("artifactCollectionNames") or [input.get("artifactCollectionName")])[0]
        family = self._family(entity, project, collection)
        latest = {"id": family[-1].id, "versionIndex": family[-1].version} if family else None
        artifact = next((a for a in family if a.about["digest"] == input["digest"]), None)
        if artifact is None:
            run = f"{entity}/{project}/{input.get('runName')}"
            artifact = Artifact(entity, project, collection, input["artifactTypeName"],
                                f"artifact{next(self._numbers)}", run, dict(input))
            self.artifacts[artifact.id] = artifact
        artifact.aliases |= {alias["alias"] for alias in input.get("aliases", [])}
        return {"artifact": {
            "id": artifact.id, "state": "PENDING" if artifact.version is None else "COMMITTED",
            "artifactSequence": {"id": encode_id("Sequence", collection), "latestArtifact": latest}}}

    def _manifest(self, artifact: str) -> Json:
        link = self._stored(f"manifests/{artifact}")
        file = {"id": f"file~{artifact}", "uploadUrl": link, "uploadHeaders": []}
        return {"artifactManifest": {"id": f"manifest~{artifact}", "file": file}}

    def _create_artifact_files(self, wanted: list[Json]) -> Json:
        keys = {f"artifacts/{item['artifactID']}/{item['name']}": item["artifactID"] for item in wanted}
        return {"files": page_of([
            {"storagePath": key, "uploadUrl": self._stored(key), "uploadHeaders": [],
             "artifact": {"id": id}}
            for key, id in keys.items()])}

    def _commit_artifact(self, id: str) -> Json:
        artifact = self.artifacts[id]
        family = self._family(artifact.entity, artifact.project, artifact.collection)
        for other in family:
            other.aliases -= {*artifact.aliases, "latest"}
        artifact.version = len(family) if artifact.version is None else artifact.version
        artifact.aliases.add("latest")
        return {"artifact": {"id": id, "digest": artifact.about["digest"]}}

    def _show_artifact(self, artifact: Artifact) -> Json:
        return {"__typename": "Artifact", "id": artifact.id, "versionIndex": artifact.version,
                "state": "PENDING" if artifact.version is None else "COMMITTED",
                "digest": artifact.about["digest"], "createdAt": timestamp(artifact.created)}
    # fmt: on


def _flip(body: bytes) -> bytes:
    middle = len(body) // 2
    return body[:middle] + bytes(byte ^ 255 for byte in body[middle : middle + 1]) + body[middle + 1 :]


def mime_type(name: str) -> str:
    return mimetypes.guess_type(name)[0] or "application/octet-stream"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1  # one packet an answer
    server: _Http

    def log_message(self, format: str, *args: Any) -> None:
        """Keep quiet."""

    def _serve(self) -> None:
        body = self._body()
        scheme, _, token = self.headers.get("Authorization", "").partition(" ")
        user = base64.b64decode(token).decode().partition(":")[2] if scheme == "Basic" else None
        request = Request(self.command, self.path.partition("?")[0])
        try:
            reply = self.server.owner.handle(request, body, user)
        except Exception as error:  # a gap in this server: the fixture looks at `problems`
            self.server.owner.problems.append(f"{request}: {error!r}")
            reply = Reply(json.dumps({"errors": [{"message": repr(error)}]}).encode(), 500)
        if reply is None:
            self.close_connection = True
            return
        if reply.raw is not None:
            self.close_connection = True
            with contextlib.suppress(OSError):
                reply.raw(self.wfile)
            return
        request.status = reply.status
        self.send_response(reply.status)
        for name, value in {"Content-Length": str(len(reply.body)), **reply.headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(reply.body[: len(reply.body) // 2] if reply.cut else reply.body)
        self.wfile.flush()
        self.close_connection = self.close_connection or reply.cut

    def _body(self) -> bytes:
        body = b""
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            while size := int(self.rfile.readline().split(b";")[0], 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        return gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body

    do_GET = do_POST = do_PUT = do_HEAD = do_DELETE = _serve  # noqa: N815


class _Http(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 128

    def __init__(self, owner: WandbServer, port: int):
        self.owner = owner
        self._open: set[socket.socket] = set()
        super().__init__(("127.0.0.1", port), _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._open.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hung up is no news."""

    def server_close(self) -> None:
        super().server_close()
        for request in list(self._open):  # or clients would go on over the connections that they have
            self.shutdown_request(request)


@pytest.fixture
def wandb_server() -> Iterator[WandbServer]:
    """A server for one test, which fails if a client asked what the server does not know."""
    with WandbServer() as server:
        yield server
    assert server.problems == [], server.problems
