"""Weights & Biases, the reading side: the runs of a project in one query per 500, and one download per record.

It speaks to W&B's server itself (GraphQL and file downloads) rather than through `wandb.Api`: the client asks for more
than is needed here, makes a folder per run, never checks a download, and changes its inner parts with every version.
Whatever is fetched is kept under `$XDG_CACHE_HOME/sourcewise/wandb`, so that a second estimate needs no server.
"""

import hashlib
import io
import json
import os
import random
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
from urllib3.exceptions import HTTPError, ProtocolError

from sourcewise.core.errors import SourcewiseError
from sourcewise.core.files import write_whole
from sourcewise.core.names import RECORD
from sourcewise.records import record, tracking
from sourcewise.records.record import RecordError

PAGE, PAGES, WORKERS = 500, 1000, 8
ATTEMPTS, BACKOFF, LONGEST = 6, 0.5, 60.0
"""What fails in passing is tried again, more and more slowly, or when the server says, within this many seconds."""
AGAIN = frozenset((408, 429, *range(500, 600)))
HOPS = 5
"""Redirections that are followed."""
TIMEOUT, SLOWEST = (10, 60), 1000
"""Seconds for a connection, and for the next bytes; bytes a second that an answer must bring after a minute."""
TOLERATED = 10
"""Records that may fail to download before the server counts as down."""

FRESH = 600.0
"""Seconds for which the list of a project's runs is not asked for again, if none of them was still running."""

MAX_LIST, MAX_PAGE, MAX_RECORD = 2**30, 2**26, 2**28
"""Bytes that the list of runs, each answer that makes it, and a record may have."""

# With signed links to the records themselves, which spare a redirection each.
_QUERY = """query Runs($entity: String!, $project: String!, $filters: JSONString, $first: Int, $after: String) {
  project(name: $project, entityName: $entity) {
    runs(filters: $filters, first: $first, after: $after, order: "+created_at") {
      edges { node { name displayName state group sweepName tags heartbeatAt config summaryMetrics
        files(names: ["%s"], first: 1) { edges { node { directUrl sizeBytes } } } } }
      pageInfo { endCursor hasNextPage } } } }"""


class Unreachable(SourcewiseError):  # noqa: N818
    """W&B's server does not answer, or only with errors."""


class Denied(SourcewiseError):  # noqa: N818
    """W&B lets this user see nothing there."""


class TooLong(RecordError):  # noqa: N818
    """An answer that is longer than it may be."""


class Missing(Exception):  # noqa: N818
    """What was asked for is not there."""


_MISSING = "its record is not in W&B; if it is still on the machine of the run, `wandb sync` it"


@dataclass(frozen=True)
class RemoteRun:
    """What a project's list says of a run.

    updated: changes when the run does. link: to its record, for a while, or "" if unknown; signed, and so never kept.
    size: bytes of its record, 0 if it is not there, None if unknown.
    """

    id: str
    name: str
    state: str
    group: str
    updated: str
    config: Mapping[str, Any]
    summary: Mapping[str, Any]
    link: str = ""
    size: int | None = None


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
        self.entity, self.project = entity, project
        url, self._key = tracking.server()
        self.url = url
        root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sourcewise" / "wandb"
        host = urllib.parse.urlsplit(url).netloc
        self.cache = root.joinpath(*(_file_name(part) for part in (host, entity, project)))
        self._failed, self._session = 0, requests.Session()
        self._session.max_redirects = HOPS
        self._session.hooks["response"].append(_emptied)

    # The list of runs

    def runs(self) -> list[RemoteRun]:
        """All runs that pass the filters, in the order in which they were created.

        Raises SourcewiseError when there is no such project, no permission, or no answer and no list from before.
        """
        query = json.dumps(_query_filter(self.filters), sort_keys=True)
        path = self.cache / f"runs-{hashlib.sha256(query.encode()).hexdigest()[:16]}.json"
        found: list[RemoteRun] | None = None
        age = 0.0
        with suppress(OSError, ValueError, TypeError, KeyError):
            kept = json.loads(path.read_bytes())
            age = time.time() - kept["when"]
            found = [RemoteRun(**run) for run in kept["runs"]]
            settled = 0 <= age < FRESH and all(run.state not in ("running", "pending") for run in found)
            if self.refresh is False or (self.refresh == "auto" and settled):
                _say(f"{self.path}: {len(found)} runs as listed {_ago(age)} ago; refresh=true asks W&B again")
                return found
        try:
            new = list(self._ask(query))
            kept = {"when": time.time(), "runs": [asdict(replace(run, link="", size=None)) for run in new]}
            content = json.dumps(kept, ensure_ascii=False).encode()
        except Unreachable as error:
            if found is None:
                raise
            _say(f"{error}; going on with the {len(found)} runs listed {_ago(age)} ago")
            return found
        except (UnicodeError, RecursionError) as error:
            raise self._senseless(error) from error
        _write(path, content)
        return new

    def _ask(self, query: str) -> Iterator[RemoteRun]:
        after: str | None = None
        left = MAX_LIST
        for _ in range(PAGES):
            runs = {"entity": self.entity, "project": self.project, "filters": query, "first": PAGE, "after": after}
            try:
                body = self._fetch(
                    f"{self.url}/graphql", min(left, MAX_PAGE), {"query": _QUERY % RECORD, "variables": runs}
                )
            except Missing as error:
                raise SourcewiseError(f"records=wandb:{self.path}: {self.url} is not a W&B server") from error
            left -= len(body)
            try:
                answer = json.loads(body)
                if answer.get("errors"):
                    why = str(answer["errors"][0]["message"])[:200]
                    raise SourcewiseError(f"W&B refused the list of runs of {self.path}: {why}")
                if answer["data"]["project"] is None:
                    raise SourcewiseError(
                        f"records=wandb:{self.path}: W&B has no such project, or none that you may see"
                    )
                page = answer["data"]["project"]["runs"]
                yield from [_remote_run(edge["node"]) for edge in page["edges"]]
                more, cursor = page["pageInfo"]["hasNextPage"], page["pageInfo"]["endCursor"]
            except (ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError) as error:
                raise self._senseless(error) from error
            if not more or cursor == after or not page["edges"]:
                return
            after = cursor
        raise SourcewiseError(f"records=wandb:{self.path}: it has more than {PAGES * PAGE:,} runs; use filters")

    def _senseless(self, error: Exception) -> SourcewiseError:
        return SourcewiseError(f"W&B's list of runs of {self.path} makes no sense ({repr(error)[:200]})")

    # Their records

    def records(self, runs: Sequence[RemoteRun]) -> Iterator[Path | str]:
        """For every run, in order, the file with its record, or why there is none. Downloads run ahead."""
        with ThreadPoolExecutor(WORKERS, thread_name_prefix="wandb") as pool:
            yield from pool.map(self._record, runs)

    def _record(self, run: RemoteRun) -> Path | str:
        """From the cache, or downloaded until its checksum is right."""
        if not re.fullmatch(r"[\w-][\w.-]{0,127}", run.id, re.ASCII):
            return "its W&B id cannot be a file name"
        folder = self.cache / run.id
        path = folder / f"{hashlib.sha256(run.updated.encode()).hexdigest()[:12]}.safetensors"
        with suppress(RecordError):
            record.read(path)
            return path
        if run.size == 0:
            return _MISSING
        plain = f"{self.url}/files/" + urllib.parse.quote(f"{self.entity}/{self.project}/{run.id}/{RECORD}")
        why = ""
        for url in ([run.link] if run.link else []) + 3 * [plain]:
            try:
                content = self._fetch(url, min(MAX_RECORD, run.size or MAX_RECORD))
                record.from_bytes(content, run.name)
            except TooLong as error:
                return str(error)
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

        Raises Missing for 404, Unreachable when all attempts fail, Denied when W&B says no, RecordError for a body that
        breaks off or is longer than the limit.
        """
        if not self._key:
            raise Denied(f"records=wandb:{self.path}: not logged in to {self.url}; run `wandb login` first")
        why, method = "", "GET" if message is None else "POST"
        auth = ("api", self._key) if url.startswith(f"{self.url}/") else None  # not to the storage
        for attempt in range(ATTEMPTS):
            pause = min(20.0, BACKOFF * 2**attempt) * (1 + random.random())  # noqa: S311
            try:
                with self._session.request(
                    method, url, json=message, auth=auth, timeout=TIMEOUT, stream=True
                ) as answer:
                    if answer.status_code in (401, 403):
                        raise Denied(f"records=wandb:{self.path}: W&B denies access; is this the right API key?")
                    if answer.status_code == 404:
                        raise Missing
                    if answer.ok or (answer.status_code == 400 and message):  # GraphQL's own errors
                        return _body(answer, limit)
                    why = f"status {answer.status_code}"
                    if answer.status_code not in AGAIN:
                        break
                    if (asked := answer.headers.get("Retry-After", "")).isdecimal():
                        pause = min(float(asked), LONGEST)
            except ProtocolError as error:
                raise RecordError(f"W&B at {self.url} broke off its answer") from error
            except (requests.RequestException, HTTPError, ValueError) as error:
                why = "no connection" if isinstance(error, requests.ConnectionError) else type(error).__name__
                if isinstance(error, ValueError):  # this is no address
                    break
            if attempt + 1 < ATTEMPTS:
                time.sleep(pause)
        raise Unreachable(f"W&B at {self.url} does not answer ({why})")


def _emptied(answer: requests.Response, **settings: Any) -> None:
    """Close a redirection unread: requests would read all that comes with one."""
    if answer.is_redirect:
        answer.raw.close()
        answer.raw = io.BytesIO()


def _body(answer: requests.Response, limit: int) -> bytes:
    """The whole body, as long as it was announced. Raises TooLong when it is longer than the limit, once decoded."""
    if answer.headers.get("Content-Encoding", "gzip") != "gzip":  # several, one in another, know no bounds
        raise requests.exceptions.ContentDecodingError
    body, begin = bytearray(), time.monotonic()
    while chunk := answer.raw.read1(2**20, decode_content=True):
        body += chunk
        if len(body) > limit:
            where = urllib.parse.urlsplit(answer.url).path
            raise TooLong(f"W&B sent more than the {limit:,} bytes that {where} may have")
        if time.monotonic() - begin > TIMEOUT[1] + len(body) / SLOWEST:
            raise requests.Timeout
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
    files = [edge["node"] for edge in node["files"]["edges"]]
    return RemoteRun(
        id=str(node["name"]),
        name=str(node["displayName"]),
        state=str(node["state"]),
        group=str(node["group"] or ""),
        updated=str(node["heartbeatAt"]),
        config=config | dict(config.pop("resolved", None) or {}),
        summary={key: value for key, value in json.loads(node["summaryMetrics"] or "{}").items() if key[0] != "_"},
        link=str(files[0]["directUrl"] or "") if files else "",
        size=max([0, *(int(file["sizeBytes"] or 0) for file in files)]),
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
