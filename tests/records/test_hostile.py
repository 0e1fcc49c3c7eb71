"""W&B servers that mean harm: one clear line, bounded memory, and nothing outside the cache."""

import contextlib
import copy
import gzip
import itertools
import json
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from spoiling import spoilt
from test_wandb_records import read, reasons, scalars, server, stocked
from wandb_server import WandbServer, wandb_server

from sourcewise.core.errors import SourcewiseError
from sourcewise.records import remote

__all__ = ["server", "stocked", "wandb_server"]


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "BACKOFF", 0.001)
    monkeypatch.setattr(remote, "LONGEST", 0.001)
    monkeypatch.setattr(remote, "TIMEOUT", (1, 0.3))
    monkeypatch.setattr(remote, "ATTEMPTS", 2)
    monkeypatch.setattr(remote, "MAX_LIST", 2**20)
    monkeypatch.setattr(remote, "MAX_RECORD", 2**20)


def head(status: str = "200 OK", *lines: str) -> bytes:
    return "\r\n".join([f"HTTP/1.1 {status}", *lines, "", ""]).encode()


def endless(*start: bytes) -> Callable[[Any], None]:
    """Goes on for as long as somebody listens."""

    def write(file: Any) -> None:
        for chunk in itertools.chain(start, itertools.repeat(bytes(2**16))):
            file.write(chunk)

    return write


def dripping(file: Any) -> None:
    file.write(head())
    for _ in range(1000):
        file.write(b" ")
        file.flush()
        time.sleep(0.01)


BOMB = gzip.compress(bytes(2**26))
GZIP = "Content-Encoding: gzip"
ANSWERS: dict[str, tuple[Callable[[Any], None], str]] = {
    "endless": (endless(head()), "W&B sent more than the"),
    "zip bomb": (lambda file: file.write(head("200 OK", GZIP) + BOMB), "W&B sent more than the"),
    "zip bomb in a zip bomb": (
        lambda file: file.write(head("200 OK", f"{GZIP}, gzip") + gzip.compress(BOMB)),
        "does not answer (ContentDecodingError)",
    ),
    "not zipped": (lambda file: file.write(head("200 OK", GZIP) + b"hello"), "does not answer (DecodeError)"),
    "endless error": (endless(head("500 No")), "does not answer (status 500)"),
    "endless redirection": (endless(head("307 No", "Location: ?graphql/r2/")), "does not answer (TooManyRedirects)"),
    "redirection to a file": (
        lambda file: file.write(head("302 No", "Location: file:///etc/passwd")),
        "does not answer (InvalidSchema)",
    ),
    "come back in a year": (lambda file: file.write(head("429 No", "Retry-After: 31536000")), "(status 429)"),
    "silent": (lambda file: time.sleep(1), "does not answer"),
    "dripping": (dripping, "does not answer (Timeout)"),
    "no HTTP": (endless(b"hello\n"), "does not answer (no connection)"),
    "endless heads": (endless(head()[:-2], b"X: " + b"y" * 2**17), "does not answer (no connection)"),
    "cut off": (lambda file: file.write(head("200 OK", "Content-Length: 99") + b"x"), "broke off"),
}


@pytest.mark.parametrize("answer", ANSWERS)
@pytest.mark.parametrize("match", ["graphql Runs", "GET /(storage|files)/.*r2/"])
def test_any_answer_is_one_line_in_bounded_memory(
    stocked: WandbServer, tmp_path: Path, match: str, answer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw, said = ANSWERS[answer]
    if answer == "dripping":
        monkeypatch.setattr(remote, "SLOWEST", 1e6)
    stocked.answer(match, raw)
    remote.Project("tester/demo")  # imports wandb
    tracemalloc.start()
    try:
        seeds, records = read()
        assert (seeds, list(reasons(records))) == ([0, 1, 3], ["r2"])
        why = reasons(records)["r2"]
    except SourcewiseError as error:
        why = str(error)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert said in why
    assert "\n" not in why
    assert peak < 2**24
    files = [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 2**20


def test_a_record_that_is_larger_than_declared_is_left_out(stocked: WandbServer) -> None:
    def smaller(answer: Any) -> Any:
        (edge,) = answer["data"]["project"]["runs"]["edges"][1]["node"]["files"]["edges"]
        edge["node"]["sizeBytes"] = 1000
        return answer

    stocked.alter("Runs", smaller)
    seeds, records = read()
    assert (seeds, list(reasons(records))) == ([0, 2, 3], ["r1"])
    assert "W&B sent more than the 1,000 bytes" in reasons(records)["r1"]


@pytest.mark.parametrize(("edges", "said"), [(1, "demo: it has more than"), (0, "no record found here")])
def test_pages_without_end(stocked: WandbServer, monkeypatch: pytest.MonkeyPatch, edges: int, said: str) -> None:
    monkeypatch.setattr(remote, "PAGES", 20)
    numbers = itertools.count()

    def more(answer: Any) -> Any:
        runs = answer["data"]["project"]["runs"]
        runs["pageInfo"] = {"endCursor": "0" * (next(numbers) + 1), "hasNextPage": True}
        runs["edges"] = [{**runs["edges"][0], "cursor": ""}][:edges]
        return answer

    stocked.alter("Runs", more)
    monkeypatch.setattr(remote, "MAX_LIST", 2**30)
    with pytest.raises(SourcewiseError, match=said):
        list(remote.Project("tester/demo").runs()) if edges else read()
    assert next(numbers) <= 20
    monkeypatch.setattr(remote, "MAX_LIST", 2**14)
    if edges:
        with pytest.raises(SourcewiseError, match="W&B sent more than the"):
            read()


def test_a_key_goes_nowhere_else(stocked: WandbServer) -> None:
    """Not where a redirection leads, nor a link to a record: the storage of the test server refuses keys."""
    with WandbServer() as other:
        to = f"{other.url}/storage/x"
        stocked.answer("GET /(storage|files)/", lambda file: file.write(head("307 There", f"Location: {to}")))
        with pytest.raises(SourcewiseError, match="its record is not in W&B"):
            read()
        assert {request.status for request in other.requests} == {404}


@pytest.mark.parametrize(
    "id", ["..", ".", "", "/etc/x", "../../x", "a/b", "a\\b", "C:x", "a\nb", "~", "\u00e9", "x" * 200]
)
def test_an_id_that_is_no_file_s_name(stocked: WandbServer, tmp_path: Path, id: str) -> None:
    def named(answer: Any) -> Any:
        answer["data"]["project"]["runs"]["edges"][1]["node"]["name"] = id
        return answer

    stocked.alter("Runs", named)
    before = set(tmp_path.iterdir())
    seeds, records = read()
    assert seeds == [0, 2, 3]
    assert [item.reason.partition(": ")[2] for item in records.left_out] == ["its W&B id cannot be a file name"]
    assert {path.name for path in set(tmp_path.iterdir()) - before} == {"cache"}


def opened(answer: Any, load: Callable[[Any], Any]) -> Any:
    """The answer with the JSON within its JSON loaded, or dumped again."""
    answer = copy.deepcopy(answer)
    with contextlib.suppress(KeyError, TypeError):
        for edge in answer["data"]["project"]["runs"]["edges"]:
            for name in ("config", "summaryMetrics"):
                edge["node"][name] = load(edge["node"][name])
    return answer


def test_any_list_of_runs_works_or_is_one_line(stocked: WandbServer, monkeypatch: pytest.MonkeyPatch) -> None:
    fetch, answers = remote.Project._fetch, []

    def heard(self: Any, url: str, limit: int, message: Any = None) -> bytes:
        body = fetch(self, url, limit, message)
        answers.extend([body] if message else [])
        return body

    monkeypatch.setattr(remote.Project, "_fetch", heard)
    read()

    @settings(max_examples=60)
    @given(spoilt(opened(json.loads(answers[0]), json.loads)))
    def check(answer: Any) -> None:
        text = json.dumps(opened(answer, json.dumps)).encode()
        monkeypatch.setattr(
            remote.Project, "_fetch", lambda self, *about: text if len(about) > 2 else fetch(self, *about)
        )
        for how in (read, scalars):
            try:
                how(refresh=True)
            except SourcewiseError as error:
                assert len(str(error)) < 1000

    check()


@pytest.mark.parametrize("body", [b"[" * 10**6, b'{"a":' * 10**5, b"\xff\xfe", b"", b"null", b"1e999", b'"' * 9])
def test_what_is_no_list_of_runs_is_one_line(stocked: WandbServer, body: bytes) -> None:
    stocked.answer("Runs", lambda file: file.write(head("200 OK", f"Content-Length: {len(body)}") + body))
    with pytest.raises(SourcewiseError, match="makes no sense"):
        read()


def test_a_config_that_is_nested_without_end_is_one_line(stocked: WandbServer) -> None:
    for depth in (300, 900, 5000, 100_000):
        text = '{"model": {"value": ' + "[" * depth + "]" * depth + "}}"

        def deep(answer: Any, text: str = text) -> Any:
            answer["data"]["project"]["runs"]["edges"][1]["node"]["config"] = text
            return answer

        stocked.alter("Runs", deep, count=2)
        for how in (read, scalars):
            with contextlib.suppress(SourcewiseError):
                how(refresh=True)
        stocked.heal()
