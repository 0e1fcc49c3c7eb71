"""Weights & Biases, the reading side: the runs of a project in one query per 500, and one download per record.

It speaks to W&B's server itself (GraphQL and file downloads) rather than through `wandb.Api`: the client asks for more
than is needed here, makes a folder per run, never checks a download, and changes its inner parts with every version.
Whatever is fetched is kept under `$XDG_CACHE_HOME/sourcewise/wandb`, so that a second estimate needs no server.
"""

import hashlib
import json
import os
import re
import sys
import time
import urllib.parse
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

from sourcewise import record, tracking
from sourcewise.errors import SourcewiseError
from sourcewise.files import write_whole
from sourcewise.record import RecordError
from sourcewise.study import RECORD

PAGE, WORKERS = 500, 8
RETRY = Retry(
    total=5,
    backoff_factor=0.5,
    backoff_jitter=0.5,
    backoff_max=20,
    status_forcelist=(408, 429, *range(500, 600)),
    allowed_methods=None,
    raise_on_status=False,
)
"""What fails in passing is tried again, more and more slowly, or when the server says."""
TOLERATED = 10
"""Records that may fail to download before the server counts as down."""

FRESH = 600.0
"""Seconds for which the list of a project's runs is not asked for again, if none of them was still running."""

MAX_LIST, MAX_RECORD = 2**28, 2**31
"""Bytes that a page of runs, and a record, may have."""

_QUERY = """query Runs($entity: String!, $project: String!, $filters: JSONString, $first: Int, $after: String) {
  project(name: $project, entityName: $entity) {
    runs(filters: $filters, first: $first, after: $after, order: "+created_at") {
      edges { node { name displayName state group sweepName tags heartbeatAt config summaryMetrics %s } }
      pageInfo { endCursor hasNextPage } } } }"""

_LINKS = f'files(names: ["{RECORD}"], first: 1) {{ edges {{ node {{ directUrl sizeBytes }} }} }}'
"""Signed links to the records themselves, which spare a redirection each."""


class Unreachable(SourcewiseError):  # noqa: N818
    """W&B's server does not answer, or only with errors."""


class Denied(SourcewiseError):  # noqa: N818
    """W&B lets this user see nothing there."""


class Missing(Exception):  # noqa: N818
    """What was asked for is not there."""


_MISSING = "its record is not in W&B; if it is still on the machine of the run, `wandb sync` it"


@dataclass(frozen=True)
class RemoteRun:
    """What a project's list says of a run.

    updated: changes when the run does. link: to its record, for a while, or "" if unknown; signed, and so never kept.
    """

    id: str
    name: str
    state: str
    group: str
    updated: str
    config: Mapping[str, Any]
    summary: Mapping[str, Any]
    link: str = ""
    missing: bool = False


@dataclass
class Project:
    """The runs of `entity/project`.

    refresh: true asks the server for the list, false takes any list that was kept, auto takes one that is younger than
    `FRESH` and has no run that was still running.
    """

    path: str
    filters: Mapping[str, Any] = field(default_factory=dict)
    refresh: bool | str = "auto"

    def __post_init__(self) -> None:
        entity, _, project = self.path.partition("/")
        if not entity or not project or "/" in project:
            raise SourcewiseError(f"records=wandb:{self.path}: write it as wandb:<entity>/<project>")
        if self.refresh not in (True, False, "auto"):
            raise SourcewiseError(f"refresh={self.refresh}: choose auto, true or false")
        self.entity, self.project = entity, project
        url, self._key = tracking.server()
        self.url = url
        root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sourcewise" / "wandb"
        host = urllib.parse.urlsplit(url).netloc
        self.cache = root.joinpath(*(_file_name(part) for part in (host, entity, project)))
        self._failed, self._session = 0, requests.Session()
        for kind in ("http://", "https://"):
            self._session.mount(kind, HTTPAdapter(pool_maxsize=WORKERS, max_retries=RETRY))

    # The list of runs

    def runs(self) -> list[RemoteRun]:
        """All runs that pass the filters, in the order in which they were created.

        Raises SourcewiseError when there is no such project, no permission, or no answer and no list from before.
        """
        query = json.dumps(_query_filter(self.filters), sort_keys=True)
        path = self.cache / f"runs-{hashlib.sha256(query.encode()).hexdigest()[:16]}.json"
        kept: dict[str, Any] | None = None
        with suppress(OSError, ValueError, TypeError, KeyError):
            kept = json.loads(path.read_bytes())
            found = [RemoteRun(**run) for run in kept["runs"]]
            age = time.time() - kept["when"]
            settled = 0 <= age < FRESH and all(run.state not in ("running", "pending") for run in found)
            if self.refresh is False or (self.refresh == "auto" and settled):
                _say(f"{self.path}: {len(found)} runs as listed {_ago(age)} ago; refresh=true asks W&B again")
                return found
        try:
            found = list(self._ask(query))
        except Unreachable as error:
            if kept is None:
                raise
            _say(f"{error}; going on with the {len(found)} runs listed {_ago(age)} ago")
            return found
        kept = {"when": time.time(), "runs": [asdict(replace(run, link="", missing=False)) for run in found]}
        _write(path, json.dumps(kept).encode())
        return found

    def _ask(self, query: str) -> Iterator[RemoteRun]:
        after: str | None = None
        links = _LINKS
        while True:
            runs = {"entity": self.entity, "project": self.project, "filters": query, "first": PAGE, "after": after}
            try:
                body = self._fetch(f"{self.url}/graphql", MAX_LIST, {"query": _QUERY % links, "variables": runs})
            except Missing as error:
                raise SourcewiseError(f"records=wandb:{self.path}: {self.url} is not a W&B server") from error
            try:
                answer = json.loads(body)
                if answer.get("errors") and links:  # a server that does not give them
                    links = ""
                    continue
                if answer.get("errors"):
                    why = answer["errors"][0]["message"]
                    raise SourcewiseError(f"W&B refused the list of runs of {self.path}: {why}")
                if answer["data"]["project"] is None:
                    raise SourcewiseError(
                        f"records=wandb:{self.path}: W&B has no such project, or none that you may see"
                    )
                page = answer["data"]["project"]["runs"]
                yield from [_remote_run(edge["node"]) for edge in page["edges"]]
                more, cursor = page["pageInfo"]["hasNextPage"], page["pageInfo"]["endCursor"]
            except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
                raise SourcewiseError(f"W&B's list of runs of {self.path} makes no sense ({error!r})") from error
            if not more or cursor == after:
                return
            after = cursor

    # Their records

    def records(self, runs: Sequence[RemoteRun]) -> Iterator[Path | str]:
        """For every run, in order, the file with its record, or why there is none. Downloads run ahead."""
        with ThreadPoolExecutor(WORKERS, thread_name_prefix="wandb") as pool:
            futures = [pool.submit(self._record, run) for run in runs]
            try:
                for future in futures:
                    yield future.result()
            finally:
                pool.shutdown(wait=False, cancel_futures=True)

    def _record(self, run: RemoteRun) -> Path | str:
        """From the cache, or downloaded until its checksum is right."""
        if not re.fullmatch(r"[\w-][\w.-]{0,127}", run.id, re.ASCII):
            return "its W&B id cannot be a file name"
        folder = self.cache / run.id
        path = folder / f"{hashlib.sha256(run.updated.encode()).hexdigest()[:12]}.safetensors"
        with suppress(RecordError):
            record.read(path)
            return path
        if run.missing:
            return _MISSING
        plain = f"{self.url}/files/" + urllib.parse.quote(f"{self.entity}/{self.project}/{run.id}/{RECORD}")
        why = ""
        for url in ([run.link] if run.link else []) + 3 * [plain]:
            try:
                content = self._fetch(url, MAX_RECORD)
                record.from_bytes(content, run.name)
            except RecordError as error:
                why = str(error).removeprefix(f"{run.name}: ")
            except (Missing, Denied, Unreachable) as error:
                if url == run.link:  # no longer valid
                    continue
                if isinstance(error, Missing):
                    return _MISSING
                self._failed += 1
                if isinstance(error, Denied) or self._failed > TOLERATED:
                    raise
                return str(error)
            else:
                for old in folder.glob("*.safetensors"):
                    old.unlink(missing_ok=True)
                _write(path, content)
                return path
        return why

    def _fetch(self, url: str, limit: int, message: Mapping[str, Any] | None = None) -> bytes:
        """The body of the answer to a GET, or to a POST of a message.

        Raises Missing for 404, Unreachable when all attempts fail, Denied when W&B says no.
        """
        if not self._key:
            raise Denied(f"records=wandb:{self.path}: not logged in to {self.url}; run `wandb login` first")
        auth = ("api", self._key) if url.startswith(f"{self.url}/") else None  # not to the storage
        method = "GET" if message is None else "POST"
        try:
            with self._session.request(method, url, json=message, auth=auth, timeout=(10, 60), stream=True) as answer:
                if answer.status_code in (401, 403):
                    raise Denied(f"records=wandb:{self.path}: W&B denies access; is this the right API key?")
                if answer.status_code == 404:
                    raise Missing
                if answer.ok or (answer.status_code == 400 and message):  # GraphQL's own errors
                    return _body(answer, limit)
                why = f"status {answer.status_code}"
        except requests.exceptions.ChunkedEncodingError as error:
            raise RecordError(f"W&B at {self.url} broke off its answer") from error
        except requests.RequestException as error:
            why = "no connection" if isinstance(error, requests.ConnectionError) else type(error).__name__
        raise Unreachable(f"W&B at {self.url} does not answer ({why})")


def _body(answer: requests.Response, limit: int) -> bytes:
    """The whole body, as long as it was announced. Raises requests.RequestException when it is not, or is too long."""
    body = bytearray()
    for chunk in answer.iter_content(2**20):
        body += chunk
        if len(body) > limit:
            raise SourcewiseError(f"W&B sent more than {limit >> 20} MiB for {urllib.parse.urlsplit(answer.url).path}")
    return bytes(body)


def _query_filter(filters: Mapping[str, Any]) -> dict[str, Any]:
    """The filters in W&B's language; those on the config are applied here, not by the server."""
    clauses: list[dict[str, Any]] = [{"jobType": "run"}]
    if group := filters.get("group"):
        clauses.append({"group": group})
    clauses += [{"tags": {"$in": [tag]}} for tag in filters.get("tags") or []]
    if sweep := filters.get("sweep"):
        clauses.append({"$or": [{"sweep": sweep}, {"tags": {"$in": [f"sweep-{sweep}"]}}]})
    if state := filters.get("state"):
        clauses.append({"state": {"$in": [state] if isinstance(state, str) else list(state)}})
    return {"$and": clauses}


def _remote_run(node: Mapping[str, Any]) -> RemoteRun:
    raw = json.loads(node["config"] or "{}")
    config = {key: value["value"] for key, value in raw.items() if key != "_wandb" and isinstance(value, dict)}
    files = [edge["node"] for edge in (node.get("files") or {"edges": []})["edges"]]
    return RemoteRun(
        id=str(node["name"]),
        name=str(node["displayName"]),
        state=str(node["state"]),
        group=str(node["group"] or ""),
        updated=str(node["heartbeatAt"]),
        config=config | dict(config.pop("resolved", None) or {}),
        summary={key: value for key, value in json.loads(node["summaryMetrics"] or "{}").items() if key[0] != "_"},
        link=str(files[0]["directUrl"] or "") if files else "",
        missing="files" in node and not any(int(file["sizeBytes"] or 0) for file in files),
    )


def _file_name(text: str) -> str:
    return urllib.parse.quote(text, safe="").replace(".", "%2E")


def _write(path: Path, content: bytes) -> None:
    """Whole or not at all. Raises SourcewiseError when the disk does not take it."""
    try:
        write_whole(path, content)
    except OSError as error:
        raise SourcewiseError(f"{path}: cannot keep what W&B sent ({error.strerror}); set XDG_CACHE_HOME") from error


def _ago(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
