"""Records of W&B projects, read from the loopback server: how many requests, and what may go wrong on the way."""

# ruff: noqa: F401, F811  (fixtures are imported, and named again as arguments)

import json
import os
import time
from collections import Counter
from pathlib import Path
from typing import Any

import fake_records as made
import numpy as np
import pytest
from stocked_server import METRIC, PLACE, make, put, read, reasons, refusal, scalars, server, stocked
from wandb_server import WandbServer, wandb_server

from sourcewise.core import names
from sourcewise.core.errors import SourcewiseError
from sourcewise.records import record, wandb_reader
from sourcewise.records.record import Record


def test_a_query_and_a_download_for_every_record_and_then_the_query_alone(stocked: WandbServer) -> None:
    begin = len(stocked.requests)
    one, records = read()
    assert one == [0, 1, 2, 3]
    assert records.used == [f"{PLACE}/r{seed}" for seed in range(4)]
    requests = Counter(str(request).split("/")[1] for request in stocked.requests[begin:])
    assert requests == {"graphql Viewer": 1, "graphql Runs": 2, "graphql RunFiles": 4, "storage": 4}
    begin = len(stocked.requests)
    assert read()[0] == one
    requests = Counter(str(request).split("/")[1] for request in stocked.requests[begin:])
    assert requests == {"graphql Viewer": 1, "graphql Runs": 1}
    stocked.refuse()
    assert read()[0] == one


def test_nothing_is_written_outside_the_cache(stocked: WandbServer, tmp_path: Path) -> None:
    """Not even the folders that wandb's client makes for the runs that it lists."""
    read()
    assert not list((tmp_path / "wandb").rglob("r[0-3]"))
    assert os.environ["WANDB_DIR"] == str(tmp_path / "wandb")


def test_links_that_are_no_longer_valid(stocked: WandbServer) -> None:
    faults = [stocked.fail(status, f"GET /storage/.*/r{i}/", count=1) for i, status in enumerate((403, 404, 400))]
    seeds, records = read()
    assert (seeds, records.left_out, [fault.hits for fault in faults]) == ([0, 1, 2, 3], [], [1, 1, 1])
    assert stocked.count("RunFiles") == 4 + 3  # a new link each


def test_no_key_and_no_signed_link_is_kept(stocked: WandbServer, tmp_path: Path) -> None:
    read()
    for path in (tmp_path / "cache").rglob("*"):
        if path.is_file():
            assert stocked.api_key.encode() not in path.read_bytes()
            assert b"signature" not in path.read_bytes()


def test_the_list_is_asked_for_every_time_unless_told_otherwise(stocked: WandbServer) -> None:
    """A run that finished a moment ago counts, and so does one that was still running then."""
    read()
    put(stocked, make(4))
    assert read()[0] == [0, 1, 2, 3, 4]
    running = put(stocked, make(5), exitcode=None)
    assert "running" in reasons(read()[1])["r5"]
    running.exitcode = 0
    assert read(refresh=False)[0] == [0, 1, 2, 3, 4]
    assert read()[0] == [0, 1, 2, 3, 4, 5]


def test_a_run_that_was_done_again_is_downloaded_again(stocked: WandbServer) -> None:
    read()
    before = stocked.count("GET /storage")
    stocked.run("r1").heartbeat += 60
    assert read()[0] == [0, 1, 2, 3]
    assert stocked.count("GET /storage") == before + 1


@pytest.mark.parametrize(
    ("filters", "seeds"),
    [
        ({"tags": ["even"]}, [0, 2]),
        ({"tags": "even", "sweep": "s1"}, [0]),
        ({"sweep": "s1"}, [0, 1]),
        ({"sweep": "block7"}, [3]),
        ({"state": "failed"}, [9]),
        ({"state": ["finished", "failed"], "config": {"subset.seed": 9}}, [9]),
        ({"config": {"subset.seed": 2, "model.width": 16}}, [2]),
        ({"group": None, "tags": [], "config": {}}, [0, 1, 2, 3]),
    ],
)
def test_filters(stocked: WandbServer, filters: dict[str, Any], seeds: list[int]) -> None:
    put(stocked, make(9), exitcode=1)
    stocked.run("r3").about["tags"] = ["sweep-block7"]
    assert read(filters=filters)[0] == seeds


def test_a_filter_that_does_not_exist_and_one_that_nothing_passes(stocked: WandbServer) -> None:
    with pytest.raises(SourcewiseError, match=r"filters.tag: there is no such setting; did you mean tags\?"):
        read(filters={"tag": "even"})
    with pytest.raises(SourcewiseError, match="no record passes the filters"):
        read(filters={"tags": ["odd"]})


def test_studies_do_not_mix_and_nothing_is_downloaded(stocked: WandbServer) -> None:
    other = make(0, "model.width=4")
    put(stocked, other, "other")
    with pytest.raises(SourcewiseError, match=r"\(4 records\), .* \(1 records\); .*filters.group=<study>"):
        read()
    assert stocked.count("GET /storage") == 0
    assert read(filters={"group": other.header.study})[0] == [0]


def test_what_did_not_end_well_or_disagrees_with_its_config_is_left_out_and_named(stocked: WandbServer) -> None:
    put(stocked, make(10), exitcode=1)
    put(stocked, make(11), exitcode=255)
    put(stocked, make(12), exitcode=None)
    del stocked.files[f"{put(stocked, make(13)).path}/{names.RECORD}"]
    put(stocked, make(14), content=b"hello")
    put(stocked, make(15)).raw_config["seed"] = {"value": 3}
    put(stocked, make(16)).raw_config["subset"]["value"] = {"design": "random", "fraction": 0.5, "seed": 17}
    put(stocked, make(17)).raw_config["model"]["value"] = {"name": "other"}
    del put(stocked, make(18)).raw_config["target"]
    put(stocked, make(3), "again")
    put(stocked, make(19), "..")
    seeds, records = read()
    assert seeds == [0, 1, 2, 3]
    found = reasons(records)
    assert found.keys() == {*(f"r{seed}" for seed in range(10, 19)), "again", ".."}
    for id, words in {
        "r10": "shows it as failed",
        "r11": "shows it as killed",
        "r12": "shows it as running",
        "r13": "its record is not in W&B",
        "r14": "not a whole sourcewise record",
        "r15": "another seed than",
        "r16": "another subset than",
        "r17": "another recipe than",
        "r18": "its config in W&B is not that of a run",
        "again": "the same run as",
        "..": "cannot be a file name",
    }.items():
        assert words in found[id]


def test_sweep_parameters_beside_or_above_the_config_do_no_harm(stocked: WandbServer) -> None:
    run = stocked.run("r1")
    run.raw_config["subset.seed"] = {"value": 1}
    run.raw_config["resolved"] = {"value": {"model": run.raw_config["model"]["value"]}}
    run.raw_config["model"] = {"value": "small_cnn"}
    seeds, records = read()
    assert (seeds, records.left_out) == ([0, 1, 2, 3], [])


@pytest.mark.parametrize("how", ["flip", "truncate", "cut"])
def test_a_corrupt_download_is_fetched_again(stocked: WandbServer, how: str) -> None:
    fault = stocked.corrupt("GET /storage/.*/r2/", how, count=1)
    seeds, records = read()
    assert (seeds, records.left_out, fault.hits) == ([0, 1, 2, 3], [], 1)


def test_a_download_that_stays_corrupt_is_given_up_and_named(stocked: WandbServer) -> None:
    fault = stocked.corrupt("GET /storage/.*/r2/", "flip")
    seeds, records = read()
    assert (seeds, fault.hits) == ([0, 1, 3], wandb_reader.DOWNLOADS)
    assert "r2" in reasons(records)
    stocked.heal()
    assert read()[0] == [0, 1, 2, 3]  # nothing wrong was kept


def test_a_spoilt_cache_is_mended(stocked: WandbServer, tmp_path: Path) -> None:
    read()
    cached = sorted((tmp_path / "cache").rglob("*.safetensors"))
    assert len(cached) == 4
    cached[1].write_bytes(cached[1].read_bytes()[:-9])
    for path in (tmp_path / "cache").rglob("runs-*.json"):
        path.write_text("{")
    before = stocked.count("GET /storage")
    assert read()[0] == [0, 1, 2, 3]
    assert stocked.count("GET /storage") == before + 1


def test_errors_in_passing_are_tried_again(stocked: WandbServer) -> None:
    faults = [
        stocked.fail(429, "graphql Runs", count=1, retry_after=1),
        stocked.fail(503, "GET /storage/.*/r0/", count=2),
    ]
    faults += [stocked.drop("GET /storage/.*/r1/", count=1), stocked.fail(500, "GET /storage/.*/r2/", count=1)]
    begin = time.monotonic()
    seeds, records = read()
    assert (seeds, records.left_out) == ([0, 1, 2, 3], [])
    assert [fault.hits for fault in faults] == [1, 2, 1, 1]
    assert time.monotonic() - begin > 1  # as long as the server said


def test_a_record_that_the_server_cannot_give_is_named_and_a_server_that_gives_none_is_an_error(
    stocked: WandbServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    stocked.fail(500, "GET /.*/r2/")
    seeds, records = read()
    assert (seeds, "does not answer (status 500)" in reasons(records)["r2"]) == ([0, 1, 3], True)
    monkeypatch.setattr(wandb_reader, "TOLERATED", 0)
    with pytest.raises(SourcewiseError, match=r"does not answer \(status 500\)"):
        read()


def test_no_network(stocked: WandbServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    read()
    stocked.refuse()
    assert read()[0] == [0, 1, 2, 3]
    assert "does not answer (no connection); going on with the 4 runs listed 0 s ago" in capsys.readouterr().err
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "empty"))
    with pytest.raises(SourcewiseError, match=r"W&B at http://127\S+ does not answer \(no connection\)"):
        read()


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("wandb:tester/nothing", "W&B has no such project, or none that you may see"),
        ("wandb:demo", "write it as wandb:<entity>/<project>"),
        ("wandb:a/b/c", "write it as wandb:<entity>/<project>"),
        ("wandb:", "write it as"),
        ("wandb:tester/empty", "no record found here"),
        ([], "name a folder"),
    ],
)
def test_bad_places_are_one_clear_line(stocked: WandbServer, place: Any, message: str) -> None:
    stocked.projects.add(("tester", "empty"))
    with pytest.raises(SourcewiseError, match=message) as caught:
        read(place)
    assert "\n" not in str(caught.value)


def test_no_permission(stocked: WandbServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "local-" + "1" * 40)
    with pytest.raises(SourcewiseError, match="W&B denies access; is this the right API key"):
        read()
    assert stocked.count("Runs") == 0


def test_no_key(stocked: WandbServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_API_KEY")
    with pytest.raises(SourcewiseError, match="not logged in to http.*run `wandb login` first"):
        read()


def test_hostile_answers(stocked: WandbServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(answer: Any) -> Any:
        return {"data": {"project": {"runs": {"edges": [7]}}}}

    stocked.alter("Runs", wrong, count=1)
    with pytest.raises(SourcewiseError, match="makes no sense"):
        read()
    stocked.alter("Runs", refusal, count=1)
    with pytest.raises(SourcewiseError, match="refused"):
        read()

    def climb(answer: Any) -> Any:
        for edge in answer["data"]["project"]["runs"]["edges"]:
            edge["node"]["name"] = "../../escaped"
        return answer

    stocked.alter("Runs", climb, count=1)
    with pytest.raises(SourcewiseError, match="cannot be a file name"):
        read()
    assert not list(tmp_path.rglob("*escaped*"))
    monkeypatch.setattr(record, "MAX_BYTES", 100)
    with pytest.raises(SourcewiseError, match="a record has at most 100"):
        read()


def test_another_server_and_a_cache_that_cannot_be_written(
    stocked: WandbServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    with monkeypatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
        with pytest.raises(SourcewiseError, match="cannot keep what W&B sent"):
            read()
    stocked.fail(404, "Runs")
    with pytest.raises(SourcewiseError, match=r"http://127\S+ is not a W&B server"):
        read()


def test_a_run_counts_once_wherever_it_is(stocked: WandbServer, tmp_path: Path) -> None:
    for seed in (3, 4):
        item = make(seed)
        record.write(item, tmp_path / "runs" / item.header.run / names.RECORD)
    offline = tmp_path / "else" / "wandb" / "offline-run-20260101_000000-abc" / "files" / names.RECORD
    record.write(make(5), offline)
    places = [str(tmp_path / "runs"), PLACE, f"wandb-offline:{tmp_path / 'else'}"]
    seeds, records = read(places)
    assert sorted(seeds) == [0, 1, 2, 3, 4, 5]
    assert "the same run as" in reasons(records)["r3"]
    twice, records = read([PLACE, PLACE])
    assert (twice, len(records.left_out)) == ([0, 1, 2, 3], 4)
    for folder in (offline.parents[2], offline.parents[1]):
        assert read(f"wandb-offline:{folder}")[0] == [5]


# -- scalars alone


def values(found: list[Record]) -> list[float]:
    return [float(outputs.prob[0]) for item in found for outputs in item.targets.values()]


def test_scalars_need_summaries_only(stocked: WandbServer) -> None:
    put(stocked, make(8), exitcode=1)
    found, records = scalars()
    assert stocked.count("GET /storage") == 0
    assert np.array_equal([item.mask for item in found], [make(seed).mask for seed in range(4)])
    assert values(found) == [0.5, 0.51, 0.52, 0.53]
    for item, real in zip(found, map(make, range(4)), strict=True):
        for key in ("study", "run", "recipe", "design", "subset_seed", "seed", "group_names"):
            assert getattr(item.header, key) == getattr(real.header, key)
    assert records.used == [f"{PLACE}/r{seed}" for seed in range(4)]
    assert reasons(records).keys() == {"r8"}
    count = len(stocked.requests)
    assert values(scalars(refresh=False)[0]) == values(found)
    assert len(stocked.requests) == count


def test_scalars_of_records_are_the_same(stocked: WandbServer, tmp_path: Path) -> None:
    for seed in range(4):
        item = make(seed)
        record.write(item, tmp_path / "runs" / item.header.run / names.RECORD)
    here, there = scalars(str(tmp_path / "runs"))[0], scalars()[0]
    assert sorted(values(here)) == sorted(values(there))
    both, records = scalars([str(tmp_path / "runs"), PLACE])
    assert len(both) == 4
    assert len(records.left_out) == 4
    assert (both[0].header.study, both[0].header.config) == (there[0].header.study, there[0].header.config)


def test_runs_without_the_scalar_or_the_subset_are_left_out_and_named(stocked: WandbServer) -> None:
    stocked.run("r0").summary[METRIC] = "NaN"
    del stocked.run("r1").summary[METRIC]
    del stocked.run("r2").summary["subset/mask"]
    found, records = scalars()
    assert records.used == [f"{PLACE}/r3"]
    assert len(found) == 1
    assert reasons(records).keys() == {"r0", "r1", "r2"}
    with pytest.raises(SourcewiseError, match=rf"no run logged this scalar; there are {METRIC}"):
        scalars(metric="target/pets/accurcy")


@pytest.mark.slow
def test_a_thousand_records(server: WandbServer, capsys: Any) -> None:
    """A query and a download for each record, a few more requests, and none the second time."""
    for seed in range(1000):
        item = make(0, examples=1000)
        changes = {"run": f"random-{seed}", "subset_seed": seed}
        header = type(item.header)(**{**vars(item.header), **changes})
        put(server, Record(made.make(seed).mask, item.targets, header), f"r{seed}")
    begin = time.monotonic()
    assert len(read()[0]) == 1000
    first, requests, begin = time.monotonic() - begin, len(server.requests), time.monotonic()
    assert len(read()[0]) == 1000
    second = time.monotonic() - begin
    assert requests <= 2100
    assert len(server.requests) <= requests + 5  # the list
    with capsys.disabled():
        print(json.dumps({"requests": requests, "first": first, "second": second}))
