"""Reading runs and their records from Weights & Biases, through `wandb.Api`; no other module reads from W&B.

Every record is downloaded once and kept under `$XDG_CACHE_HOME/sourcewise/wandb`. The list of a project's runs is
asked for each time, and kept for when the server does not answer. A record is downloaded by its signed link, within
the size that W&B announced for it; the user's API key stays with wandb's client.
"""

import functools
import hashlib
import json
import os
import re
import sys
import time
import urllib.parse
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from tqdm import tqdm

from sourcewise.core.errors import SourcewiseError
from sourcewise.core.files import cache_folder, write_atomically
from sourcewise.core.names import RECORD
from sourcewise.records import browsing, record
from sourcewise.records.download import TEMPORARY, Downloader, Unreachable
from sourcewise.records.places import WANDB, Filters, as_list
from sourcewise.records.record import RecordError
from sourcewise.records.wandb_tracker import server_url

PAGE, MAX_RUNS = 500, 100_000
"""Runs in one answer of W&B, and in all answers together."""

WORKERS, DOWNLOADS, TOLERATED = 8, 3, 10
"""Downloads at the same time; tries for one record, each with a new link; records that may fail before an error."""

ANSWER_TIMEOUT = 30
"""Seconds that wandb's client may take for one answer, its own attempts included."""

MISSING = "its record is not in W&B; if it is still on the machine of the run, `wandb sync` it"


@dataclass(frozen=True)
class RemoteRun:
    """A run in the list of a project. updated: the time of its last change."""

    id: str
    name: str
    state: str
    group: str
    updated: str
    config: Mapping[str, Any]
    summary: Mapping[str, Any]


@dataclass
class Project:
    """The runs of a W&B project, by its path `entity/project`.

    filters: those on the config are left to the caller. refresh: whether to ask the server for the list, or to take the
    one that was kept, if there is one. progress: whether a bar shows that the list is being read.
    """

    path: str
    filters: Filters = field(default_factory=Filters)
    refresh: bool = True
    progress: bool = True

    def __post_init__(self) -> None:
        if not re.fullmatch("[^/]+/[^/]+", self.path):
            raise self._error("write it as wandb:<entity>/<project>")
        self.url = server_url()
        parts = (urllib.parse.urlsplit(self.url).netloc, *self.path.split("/"))
        escaped = (urllib.parse.quote(part, safe="").replace(".", "%2E") for part in parts)
        self.cache = cache_folder().joinpath("wandb", *escaped)
        self._failures = 0
        self._downloader = Downloader()

    # The list of runs

    def runs(self) -> list[RemoteRun]:
        """Return all runs that pass the filters, in the order in which they were created.

        Raises SourcewiseError when there is no such project, no permission, or no answer and no list that was kept.
        """
        query = _mongo(self.filters)
        digest = hashlib.sha256(json.dumps(query, sort_keys=True).encode()).hexdigest()
        path = self.cache / f"runs-{digest[:16]}.json"
        kept, age = _kept_list(path)
        if kept is not None and not self.refresh:
            _print(f"{self.path}: {len(kept)} runs as listed {_duration(age)} ago; refresh=true asks W&B again")
            return kept
        try:
            runs = [_remote_run(run) for run in self._query(query, lazy=False)]
            content = json.dumps({"when": time.time(), "runs": [asdict(run) for run in runs]}, ensure_ascii=False)
            self._keep(path, content.encode())
        except Unreachable as error:
            if kept is None:
                raise
            _print(f"{error}; going on with the {len(kept)} runs listed {_duration(age)} ago")
            return kept
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            raise self._senseless(error) from error
        return runs

    def _query(self, query: Mapping[str, Any], lazy: bool) -> list[Any]:
        """Return the runs that pass a filter in W&B's language, as `wandb.Api` gives them.

        lazy: without configs and summaries. Raises SourcewiseError.
        """
        with self._one_line_errors():
            api = self._api
            with _without_run_folders():
                runs = api.runs(self.path, filters=dict(query), per_page=PAGE, lazy=lazy)
                shown = None if self.progress and not lazy else True
                bar = tqdm(runs, "runs listed by W&B", len(runs), leave=False, unit="", disable=shown)
                listed = list(islice(bar, MAX_RUNS + 1))
        if len(listed) > MAX_RUNS:
            raise self._error(f"it has more than {MAX_RUNS:,} runs; use filters")
        return listed

    @functools.cached_property
    def _api(self) -> Any:
        """Client of W&B, logged in."""
        import wandb

        wandb.setup(wandb.Settings(silent=True))  # silent, it does not prompt for a key
        return wandb.Api(overrides={"base_url": self.url}, timeout=ANSWER_TIMEOUT)

    @contextmanager
    def _one_line_errors(self) -> Iterator[None]:
        """Turn whatever wandb's client raises into a SourcewiseError of one line that says what it means."""
        import wandb.errors

        try:
            yield
        except wandb.errors.UsageError as error:
            raise self._error(f"not logged in to {self.url}; run `wandb login` first") from error
        except Exception as error:
            text = " ".join(str(error).split())[:200]
            # A request that failed is an exception with a `response`, which is None when there was no answer.
            failure = next((cause for cause in (error, error.__cause__) if hasattr(cause, "response")), None)
            status = getattr(failure.response, "http_status", None) if failure is not None else 0
            if status is None or status in TEMPORARY:
                reason = status or "no connection"
                raise Unreachable(f"W&B at {self.url} does not answer ({reason})") from error
            if failure is None and text.startswith("Could not find project"):
                raise self._error("W&B has no such project, or none that you may see") from error
            if failure is None and isinstance(error, wandb.errors.AuthenticationError):
                raise self._error(text) from error
            if failure is None:
                raise self._senseless(error) from error
            if status in (401, 403):
                raise self._error("W&B denies access; is this the right API key?") from error
            if status == 404:
                raise self._error(f"{self.url} is not a W&B server") from error
            raise self._error(f"W&B refused the request: {text}") from error

    def _error(self, problem: str) -> SourcewiseError:
        return SourcewiseError(f"records={WANDB}{self.path}: {problem}")

    def _senseless(self, error: Exception) -> SourcewiseError:
        return SourcewiseError(f"W&B's list of runs of {self.path} makes no sense ({repr(error)[:200]})")

    # The records of runs

    def records(self, runs: Sequence[RemoteRun]) -> Iterator[Path | str]:
        """Yield for every run, in order, the file with its record, or the reason why there is none.

        Raises SourcewiseError when too many downloads fail.
        """
        with ThreadPoolExecutor(WORKERS, thread_name_prefix="wandb") as pool:
            for start in range(0, len(runs), PAGE):
                page = runs[start : start + PAGE]
                files = list(pool.map(self._cached, page))
                absent = [run.id for run, file in zip(page, files, strict=True) if file is None]
                listed = self._query({"name": {"$in": absent}}, lazy=True) if absent else []
                by_id = {run.id: run for run in listed}
                yield from pool.map(
                    lambda run, file, by_id=by_id: file or self._downloaded(run, by_id.get(run.id)), page, files
                )

    def _cached(self, run: RemoteRun) -> Path | str | None:
        """Return the file of the cache with the run's record, None if it has none, or why it cannot have one."""
        if not re.fullmatch(r"[\w-][\w.-]{0,127}", run.id, re.ASCII):
            return "its W&B id cannot be a file name"
        path = self._cache_file(run)
        with suppress(RecordError):
            record.read(path)
            return path
        return None

    def _cache_file(self, run: RemoteRun) -> Path:
        return self.cache / run.id / f"{hashlib.sha256(run.updated.encode()).hexdigest()[:12]}.safetensors"

    def _downloaded(self, run: RemoteRun, client_run: Any) -> Path | str:
        """Return the cache's file with the run's record, downloaded until its checksum is right, or why it is not."""
        if client_run is None:
            return "W&B does not list its run any more"
        reason = ""
        for _ in range(DOWNLOADS):
            try:
                with self._one_line_errors():
                    file = next(iter(client_run.files([RECORD])), None)
                    link, size = (str(file.direct_url), int(file.size)) if file else ("", 0)
                if size == 0:
                    return MISSING
                if size > record.MAX_BYTES:
                    return f"{size:,} bytes; a record has at most {record.MAX_BYTES:,}"
                content = self._downloader.fetch(link, size)
                record.from_bytes(content, run.name)
            except RecordError as error:
                reason = str(error).removeprefix(f"{run.name}: ")
            except SourcewiseError as error:
                self._failures += 1
                if self._failures > TOLERATED:
                    raise
                return str(error)
            else:
                path = self._cache_file(run)
                for outdated in path.parent.glob("*.safetensors"):
                    outdated.unlink(missing_ok=True)
                self._keep(path, content)
                return path
        return reason

    def _keep(self, path: Path, content: bytes) -> None:
        """Write a file of the cache. Raises SourcewiseError when the disk does not take it."""
        try:
            write_atomically(path, content)
        except OSError as error:
            raise SourcewiseError(
                f"{path}: cannot keep what W&B sent ({error.strerror}); set XDG_CACHE_HOME"
            ) from error


@contextmanager
def _without_run_folders() -> Iterator[None]:
    """Keep wandb's client from making a folder for every run that it lists."""
    before = os.environ.get("WANDB_DIR")
    os.environ["WANDB_DIR"] = os.devnull
    try:
        yield
    finally:
        del os.environ["WANDB_DIR"]
        if before is not None:
            os.environ["WANDB_DIR"] = before


def _mongo(filters: Filters) -> dict[str, Any]:
    """Return the filters in W&B's language, without those on the config."""
    clauses: list[dict[str, Any]] = [{"jobType": "run"}]
    if filters.group:
        clauses.append({"group": filters.group})
    clauses += [{"tags": {"$in": [tag]}} for tag in as_list(filters.tags)]
    if filters.sweep:
        clauses.append({"$or": [{"sweep": filters.sweep}, {"tags": {"$in": [f"sweep-{filters.sweep}"]}}]})
    if filters.state:
        clauses.append({"state": {"$in": as_list(filters.state)}})
    return {"$and": clauses}


def _kept_list(path: Path) -> tuple[list[RemoteRun] | None, float]:
    """Return the list of runs that the cache holds and its age in seconds; None if it holds none."""
    try:
        kept = json.loads(path.read_bytes())
        return [RemoteRun(**run) for run in kept["runs"]], time.time() - kept["when"]
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None, 0.0


def _remote_run(run: Any) -> RemoteRun:
    """Return what we need of a run of wandb's client. Raises all that a list that makes no sense may cause."""
    config = dict(run.config)
    resolved = dict(config.pop("resolved", None) or {})
    return RemoteRun(
        id=str(run.id),
        name=str(run.name),
        state=str(run.state),
        group=str(run.group or ""),
        updated=str(run.heartbeat_at),
        config=browsing.full_config(config | resolved),
        summary={key: value for key, value in run.summary_metrics.items() if not key.startswith("_")},
    )


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def _print(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
