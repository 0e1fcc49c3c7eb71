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
import gzip
import json
import re
import socket
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from wandb_graphql import GraphQLError, Json, Query
from wandb_store import Store, mime_type

API_KEY = "local-" + "0" * 40


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


class WandbServer(Store):
    """The server, a context manager, and what it holds."""

    def __init__(self, api_key: str = API_KEY):
        super().__init__()
        self.api_key = api_key
        self.requests: list[Request] = []
        self.faults: list[Fault] = []
        self.problems: list[str] = []  # what was asked and is not known here
        self._lock = threading.RLock()
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

    def count(self, match: str = "") -> int:
        """Count the requests so far that match."""
        return sum(re.search(match, str(request)) is not None for request in self.requests)

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


def _flip(body: bytes) -> bytes:
    middle = len(body) // 2
    return body[:middle] + bytes(byte ^ 255 for byte in body[middle : middle + 1]) + body[middle + 1 :]


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
