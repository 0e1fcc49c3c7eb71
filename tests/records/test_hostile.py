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
from stocked_server import read, reasons, scalars, server, stocked
from wandb_server import WandbServer, wandb_server

from sourcewise.core.errors import SourcewiseError
from sourcewise.records import download, record, wandb_reader

__all__ = ["server", "stocked", "wandb_server"]


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "FIRST_PAUSE", 0.001)
    monkeypatch.setattr(download, "LONGEST_PAUSE", 0.001)
    monkeypatch.setattr(download, "TIMEOUT", (1, 0.3))
    monkeypatch.setattr(download, "ATTEMPTS", 2)
    monkeypatch.setattr(record, "MAX_BYTES", 2**20)


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
    "endless": (endless(head()), "it is longer than the"),
    "zip bomb": (lambda file: file.write(head("200 OK", GZIP) + BOMB), "it is longer than the"),
    "zipped": (lambda file: file.write(head("200 OK", GZIP) + gzip.compress(b"")), "not a whole sourcewise record"),
    "endless error": (endless(head("500 No")), "does not answer (status 500)"),
    "endless redirection": (endless(head("307 No", "Location: ?r2/")), "does not answer (TooManyRedirects)"),
    "redirection to a file": (
        lambda file: file.write(head("302 No", "Location: file:///etc/passwd")),
        "its link does not work (InvalidSchema)",
    ),
    "come back in a year": (lambda file: file.write(head("429 No", "Retry-After: 31536000")), "(status 429)"),
    "silent": (lambda file: time.sleep(1), "does not answer"),
    "dripping": (dripping, "does not answer (Timeout)"),
    "no HTTP": (endless(b"hello\n"), "does not answer (no connection)"),
    "endless heads": (endless(head()[:-2], b"X: " + b"y" * 2**17), "does not answer (no connection)"),
    "cut off": (lambda file: file.write(head("200 OK", "Content-Length: 99") + b"x"), "its download broke off"),
}


@pytest.mark.parametrize("answer", ANSWERS)
def test_any_download_is_one_line_in_bounded_memory(
    stocked: WandbServer, tmp_path: Path, answer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw, reason = ANSWERS[answer]
    if answer == "dripping":
        monkeypatch.setattr(download, "SLOWEST", 1e6)
    stocked.answer("GET /storage/.*r2/", raw)
    wandb_reader.Project("tester/demo")  # imports wandb
    tracemalloc.start()
    seeds, records = read()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (seeds, list(reasons(records))) == ([0, 1, 3], ["r2"])
    assert reason in reasons(records)["r2"]
    assert "\n" not in reasons(records)["r2"]
    assert peak < 2**24
    files = [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 2**20


LISTS: dict[str, tuple[Callable[[Any], None], str]] = {
    "silent": (lambda file: time.sleep(5), "does not answer"),
    "come back in a year": (lambda file: file.write(head("429 No", "Retry-After: 31536000")), "does not answer"),
    "no HTTP": (lambda file: file.write(b"hello\n"), "does not answer"),
    "cut off": (lambda file: file.write(head("200 OK", "Content-Length: 99") + b"x"), "W&B refused the request"),
    "redirection": (
        lambda file: file.write(head("302 No", "Location: file:///etc/passwd")),
        "unsupported protocol scheme",
    ),
}


@pytest.mark.parametrize("answer", LISTS)
def test_a_list_that_does_not_come_is_one_line(
    stocked: WandbServer, answer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wandb_reader, "ANSWER_TIMEOUT", 1)
    raw, reason = LISTS[answer]
    stocked.answer("graphql Runs", raw)
    with pytest.raises(SourcewiseError) as caught:
        read()
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


def described(**changes: Any) -> Callable[[Any], Any]:
    """What W&B says of a run's file, changed."""

    def change(answer: Any) -> Any:
        (edge,) = answer["data"]["project"]["run"]["files"]["edges"]
        if "/r1/" in edge["node"]["url"]:
            edge["node"] |= changes
        return answer

    return change


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"sizeBytes": 1000}, "it is longer than the 1,000 bytes"),
        ({"sizeBytes": 2**40}, "1,099,511,627,776 bytes; a record has at most 1,048,576"),
        ({"sizeBytes": -5}, "it is longer than the"),
        ({"sizeBytes": "much"}, "makes no sense"),
        ({"directUrl": None}, "its link does not work (MissingSchema)"),
        ({"directUrl": "file:///etc/passwd"}, "its link does not work (InvalidSchema)"),
        ({"directUrl": "http://[::1"}, "its link does not work"),
        ({"sizeBytes": 0}, "its record is not in W&B"),
    ],
)
def test_a_record_that_is_described_wrongly_is_left_out(
    stocked: WandbServer, changes: dict[str, Any], reason: str
) -> None:
    stocked.alter("RunFiles", described(**changes))
    seeds, records = read()
    assert (seeds, list(reasons(records))) == ([0, 2, 3], ["r1"])
    assert reason in reasons(records)["r1"]


def test_pages_without_end(stocked: WandbServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wandb_reader, "MAX_RUNS", 20)
    numbers = itertools.count()

    def more(answer: Any) -> Any:
        runs = answer["data"]["project"]["runs"]
        runs["pageInfo"] = {"endCursor": "0" * (next(numbers) + 1), "hasNextPage": True}
        runs["edges"] = [{**runs["edges"][0], "cursor": ""}]
        return answer

    stocked.alter("Runs", more)
    with pytest.raises(SourcewiseError, match="demo: it has more than 20 runs; use filters"):
        read()
    assert next(numbers) <= 22


def test_a_key_goes_nowhere_else(stocked: WandbServer) -> None:
    """Not where a redirection leads, nor with a link to a record: the storage of the test server refuses keys."""
    with WandbServer() as other:
        to = f"{other.url}/storage/x"
        stocked.answer("GET /storage/", lambda file: file.write(head("307 There", f"Location: {to}")))
        with pytest.raises(SourcewiseError, match=r"its link does not work \(status 404\)"):
            read()
        assert {request.status for request in other.requests} == {404}


@pytest.mark.parametrize(
    "id", ["..", ".", "", "/etc/x", "../../x", "a/b", "a\\b", "C:x", "a\nb", "~", "\u00e9", "x" * 200]
)
def test_an_id_that_is_no_file_s_name(stocked: WandbServer, tmp_path: Path, id: str) -> None:
    def named(answer: Any) -> Any:
        answer["data"]["project"]["runs"]["edges"][1]["node"]["name"] = id
        return answer

    stocked.alter("Runs", named, count=1)
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


def test_any_list_of_runs_works_or_is_one_line(stocked: WandbServer) -> None:
    answers: list[Any] = []
    stocked.alter("Runs", lambda answer: answers.append(answer) or answer)
    read()
    stocked.heal()

    @settings(max_examples=60)
    @given(spoilt(opened(answers[0], json.loads)))
    def check(answer: Any) -> None:
        stocked.heal()
        stocked.alter("Runs", lambda genuine: opened(answer, json.dumps))
        for how in (read, scalars):
            try:
                how()
            except SourcewiseError as error:
                assert len(str(error)) < 1000
                assert "\n" not in str(error)

    check()


@pytest.mark.parametrize("body", [b"[" * 10**6, b'{"a":' * 10**5, b"\xff\xfe", b"", b"null", b"1e999", b'"' * 9])
def test_what_is_no_list_of_runs_is_one_line(stocked: WandbServer, body: bytes) -> None:
    stocked.answer("Runs", lambda file: file.write(head("200 OK", f"Content-Length: {len(body)}") + body))
    with pytest.raises(SourcewiseError, match="makes no sense|no such project|refused the request"):
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
                how()
        stocked.heal()
