"""The W&B server of the tests against the real client: each test runs `wandb` as a user's process would."""

# ruff: noqa: F401, F811  (fixtures are imported, and named again as arguments)

import base64
import hashlib
import itertools
import json
import os
import re
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest
from wandb_server import GraphQLError, Query, Run, Sweep, WandbServer, matches, wandb_server

RECORD = bytes(range(256)) * 40
BIN = Path(sys.executable).parent


def run_script(server: WandbServer, folder: Path, code: str, **env: str) -> tuple[int, str]:
    """Run Python code as a client of the server; return its exit status and all it printed."""
    return run_command(server, folder, sys.executable, "-c", textwrap.dedent(code), **env)


def run_command(server: WandbServer, folder: Path, *command: str, **env: str) -> tuple[int, str]:
    process = start(server, folder, *command, **env)
    out, _ = process.communicate(timeout=120)
    return process.returncode, out


def start(server: WandbServer, folder: Path, *command: str, **env: str) -> "subprocess.Popen[str]":
    clean = {key: value for key, value in os.environ.items() if not key.startswith("WANDB_")}
    clean["PATH"] = f"{BIN}{os.pathsep}{clean['PATH']}"
    return subprocess.Popen(
        command,
        cwd=folder,
        env=clean | server.env(folder) | env,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def wait_until_up(process: "subprocess.Popen[str]") -> None:
    assert process.stdout is not None
    assert any(line.startswith("UP") for line in process.stdout)


def printed(out: str) -> Any:
    """Return what a script printed as JSON after "RESULT"."""
    (line,) = [line for line in out.splitlines() if line.startswith("RESULT ")]
    return json.loads(line.removeprefix("RESULT "))


# ------------------------------------------------------------------------------------------- without a client


def test_query_parser() -> None:
    query = Query(
        """#graphql
        query Runs($project: String!, $first: Int = 50, $all: Boolean = true) {
            found: project(name: $project, tags: ["a", "b"], deep: {n: -1.5, on: true, kind: RUN}) {
                id ...Rest ... on Project { size } heavy @include(if: $all) light @skip(if: $all)
            }
        }
        fragment Rest on Project { name missing }
        """
    )
    seen = {}

    def project(**args: Any) -> dict[str, Any]:
        seen.update(args)
        return {"id": 1, "name": "x", "size": lambda: 3, "heavy": 4, "light": 5, "secret": 6}

    assert query.name == "Runs"
    answer = query.answer({"project": project}, {"project": "demo", "all": True, "first": None})
    assert answer == {"found": {"id": 1, "name": "x", "missing": None, "size": 3, "heavy": 4}}
    assert seen == {"name": "demo", "tags": ["a", "b"], "deep": {"n": -1.5, "on": True, "kind": "RUN"}}


@pytest.mark.parametrize(
    ("query", "hit"),
    [
        ({}, True),
        ({"group": "study"}, True),
        ({"group": {"$ne": "study"}}, False),
        ({"tags": "a"}, True),
        ({"tags": {"$in": ["z", "b"]}}, True),
        ({"tags": {"$nin": ["a"]}}, False),
        ({"state": "finished", "displayName": {"$regex": "^seed-"}}, True),
        ({"display_name": "seed-3"}, True),
        ({"sweep": "s1"}, True),
        ({"config.subset.seed": 3}, True),
        ({"config.subset.value.seed": 3}, False),
        ({"config.subset.seed.value": {"$gte": 3, "$lt": 4}}, True),
        ({"config.lr": {"$gt": 0.5}}, False),
        ({"config.flat.key": "x"}, True),
        ({"config.nothing": {"$exists": False}}, True),
        ({"summary_metrics.target/digits/accuracy": {"$lte": 0.9}}, True),
        ({"$or": [{"group": "other"}, {"$and": [{"jobType": "run"}, {"name": "id3"}]}]}, True),
        ({"$nor": [{"group": "study"}]}, False),
        ({"createdAt": {"$gt": "2020-01-01"}}, True),
    ],
)
def test_filters(query: dict[str, Any], hit: bool) -> None:
    config = {"subset": {"value": {"seed": 3}}, "lr": {"value": 0.1}, "flat.key": {"value": "x"}}
    about = {
        "groupName": "study",
        "tags": ["a", "b"],
        "displayName": "seed-3",
        "sweep": "s1",
        "jobType": "run",
    }
    summary = {"target/digits/accuracy": 0.9}
    run = Run("me", "demo", "id3", about=about, raw_config=config, summary=summary, exitcode=0)
    assert matches(run, query) == hit


def test_unknown_filter() -> None:
    with pytest.raises(GraphQLError, match="unknown filter"):
        matches(Run("me", "demo", "x"), {"state": {"$near": 1}})


def test_sweep_searches() -> None:
    text = "{method: grid, parameters: {a: {min: 1, max: 3}, b: {values: [x, y]}, c: {value: 0}}}"
    grid = Sweep("me", "demo", "s", text)
    assert grid.expected == 6
    assert [tuple(draw.values()) for draw in grid.left] == [(a, b, 0) for a in (1, 2, 3) for b in "xy"]
    text = "{method: random, run_cap: 20, parameters: {a: {min: 1, max: 3}, lr: {min: 0.1, max: 0.2}}}"
    drawn = list(Sweep("me", "demo", "s", text).left)
    assert len(drawn) == 20
    assert {draw["a"] for draw in drawn} == {1, 2, 3}
    assert all(0.1 <= draw["lr"] <= 0.2 for draw in drawn)
    for wrong in ("{method: bayes}", "{method: grid, parameters: {lr: {min: 0.1, max: 0.2}}}"):
        with pytest.raises(GraphQLError):
            Sweep("me", "demo", "s", wrong)


# --------------------------------------------------------------------------------------------------- writing


def test_online_run(wandb_server: WandbServer, tmp_path: Path) -> None:
    """Config, history, summary, console and a run file arrive; the Api brings them back."""
    status, out = run_script(
        wandb_server,
        tmp_path,
        """
        import json, pathlib, wandb
        config = {"subset": {"seed": 3}, "lr": 0.1}
        with wandb.init(project="demo", name="seed-3", group="study", tags=["a", "b"], config=config) as run:
            for step in range(5):
                run.log({"source/loss": 1 / (step + 1), "source/epoch": step})
            path = pathlib.Path(run.dir) / "record.safetensors"
            path.write_bytes(bytes(range(256)) * 40)
            run.save(str(path), base_path=run.dir, policy="end")
            run.summary["target/digits/accuracy"] = 0.75
            print("hello from the run")
        api = wandb.Api()
        filters = {"group": "study", "state": "finished", "config.subset.seed": 3, "tags": {"$in": ["b"]}}
        (found,) = api.runs("tester/demo", filters=filters, lazy=False, per_page=500)
        assert not list(api.runs("tester/demo", filters={"group": "other"}))
        file = found.file("record.safetensors")
        file.download(root="got")
        history = found.history(pandas=False)
        scanned = [row["source/loss"] for row in found.scan_history(keys=["source/loss"])]
        accuracy = found.summary["target/digits/accuracy"]
        print("RESULT", json.dumps([found.id, found.config, accuracy, found.name, found.state,
              file.size, file.md5, [row["source/loss"] for row in history], scanned,
              [len(list(found.scan_history(page_size=2))), found.lastHistoryStep]]))
        """,
    )
    assert status == 0, out
    name, config, accuracy, title, state, size, md5, history, scanned, counts = printed(out)
    run = wandb_server.run(name)
    assert config == run.config == {"subset": {"seed": 3}, "lr": 0.1}
    assert accuracy == run.summary["target/digits/accuracy"] == 0.75
    assert (title, state, run.exitcode) == ("seed-3", "finished", 0)
    assert (run.group, run.tags) == ("study", ["a", "b"])
    assert history == scanned == [1 / (step + 1) for step in range(5)]
    assert counts == [5, 4]
    assert "hello from the run" in run.console
    assert wandb_server.run_files(run)["record.safetensors"] == RECORD
    assert (tmp_path / "got/record.safetensors").read_bytes() == RECORD
    assert (size, md5) == (len(RECORD), base64.b64encode(hashlib.md5(RECORD).digest()).decode())
    assert wandb_server.count("graphql RunFiles") == wandb_server.count("GET /files") == 1


def test_exit_codes(wandb_server: WandbServer, tmp_path: Path) -> None:
    status, out = run_script(
        wandb_server,
        tmp_path,
        """
        import wandb
        for code in (0, 1, 254, 255):
            wandb.init(project="demo", id=f"code{code}").finish(exit_code=code)
        wandb.init(project="demo", id="raised")
        raise RuntimeError("as it happens")
        """,
    )
    assert status == 1
    assert "as it happens" in out
    states = {run.name: run.state for run in wandb_server.runs.values()}
    assert states == {
        "code0": "finished",
        "code1": "failed",
        "code254": "crashed",
        "code255": "killed",
        "raised": "failed",
    }


def test_killed_run_crashes(wandb_server: WandbServer, tmp_path: Path) -> None:
    """After SIGKILL nobody tells the server: the heartbeat stops. What was not yet sent is on disk only."""
    process = start(wandb_server, tmp_path, sys.executable, "-c", FAULTY)
    wait_until_up(process)
    process.kill()
    process.wait()
    run = wandb_server.run("a")
    assert (run.state, run.history) == ("running", [])
    run.crash_after = 0.0
    assert run.state == "crashed"


def test_offline_run_synced_later(wandb_server: WandbServer, tmp_path: Path) -> None:
    """Offline there is no request; `wandb sync` sends all, to the entity and project named at init."""
    status, out = run_script(
        wandb_server,
        tmp_path,
        """
        import pathlib, wandb
        config = {"subset": {"seed": 7}}
        with wandb.init(entity="tester", project="later", group="study", config=config) as run:
            for step in range(5):
                run.log({"source/loss": step})
            path = pathlib.Path(run.dir) / "record.safetensors"
            path.write_bytes(bytes(range(256)) * 40)
            run.save(str(path), base_path=run.dir, policy="end")
        """,
        WANDB_MODE="offline",
        WANDB_API_KEY="",
        WANDB_ENTITY="",
    )
    assert status == 0, out
    assert wandb_server.requests == []
    (folder,) = (tmp_path / "wandb").glob("offline-run-*")
    assert (folder / "files/record.safetensors").read_bytes() == RECORD
    status, out = run_command(wandb_server, tmp_path, "wandb", "sync", str(folder))
    assert status == 0, out
    (run,) = wandb_server.runs.values()
    assert (run.entity, run.project, run.group, run.state) == ("tester", "later", "study", "finished")
    assert run.config == {"subset": {"seed": 7}}
    assert [row["source/loss"] for row in run.history] == list(range(5))
    assert run.summary["source/loss"] == 4
    assert wandb_server.run_files(run)["record.safetensors"] == RECORD


def test_artifact_and_media(wandb_server: WandbServer, tmp_path: Path) -> None:
    """An artifact and its next version go up and come back; a figure, a page and a table go up."""
    status, out = run_script(
        wandb_server,
        tmp_path,
        """
        import json, pathlib, plotly.graph_objects, wandb
        file = pathlib.Path("influences.nc")
        def log(content):
            file.write_bytes(content)
            artifact = wandb.Artifact("influences", type="influences", metadata={"models": 100})
            artifact.add_file(str(file))
            return run.log_artifact(artifact).wait().version
        with wandb.init(project="demo", job_type="estimate") as run:
            versions = [log(b"first"), log(b"second"), log(b"second")]
            figure = plotly.graph_objects.Figure(plotly.graph_objects.Scatter(x=[1, 2], y=[3, 4]))
            run.log({"figure": wandb.Plotly(figure), "page": wandb.Html("<b>so</b>")})
            run.log({"table": wandb.Table(columns=["group", "influence"], data=[["A", 0.5], ["B", -0.1]])})
        api = wandb.Api()
        got = []
        for alias in ("latest", "v0"):
            artifact = api.artifact(f"tester/demo/influences:{alias}", type="influences")
            got.append(pathlib.Path(artifact.download(root=alias), "influences.nc").read_text())
        logged = [a.name for a in api.run(run.path).logged_artifacts() if a.type == "influences"]
        print("RESULT", json.dumps([run.id, versions, got, artifact.metadata, logged,
              artifact.logged_by().id]))
        """,
    )
    assert status == 0, out
    name, versions, got, metadata, logged, logged_by = printed(out)
    assert versions == ["v0", "v1", "v1"]
    assert got == ["second", "first"]
    assert metadata == {"models": 100}
    assert logged == ["influences:v0", "influences:v1"]
    assert logged_by == name
    run = wandb_server.run(name)
    files = wandb_server.run_files(run)
    for key, folder in {"figure": "plotly", "page": "html", "table": "table"}.items():
        assert run.summary[key]["path"].startswith(f"media/{folder}/{key}_")
        assert len(files[run.summary[key]["path"]]) == run.summary[key]["size"]


# -------------------------------------------------------------------------------------------------- reading


def test_reading_many_runs(wandb_server: WandbServer, tmp_path: Path) -> None:
    """Config and summary of 1,100 runs come in three pages; filters, order and a missing project."""
    for seed in range(1100):
        config, about = {"subset": {"seed": seed}}, {"groupName": "study" if seed % 2 else "other"}
        wandb_server.add_run("demo", f"r{seed}", config, {"accuracy": -seed}, exitcode=seed == 7, **about)
    status, out = run_script(
        wandb_server,
        tmp_path,
        """
        import json, wandb
        api = wandb.Api()
        runs = list(api.runs("tester/demo", lazy=False, per_page=500))
        assert [run.config["subset"]["seed"] for run in runs] == [*range(1100)]
        assert [-run.summary["accuracy"] for run in runs] == [*range(1100)]
        failed = [run.id for run in api.runs("tester/demo", filters={"state": "failed"})]
        best = next(iter(api.runs("tester/demo", order="+summary_metrics.accuracy", per_page=1))).id
        few = {"$and": [{"group": "study"}, {"config.subset.seed": {"$lt": 100}}]}
        odd = len(api.runs("tester/demo", filters=few))
        missing = None
        try:
            list(api.runs("tester/nothing"))
        except ValueError as error:
            missing = str(error)
        print("RESULT", json.dumps([failed, best, odd, missing]))
        """,
    )
    assert status == 0, out
    failed, best, odd, missing = printed(out)
    assert (failed, best, odd) == (["r7"], "r1099", 50)
    assert missing == "Could not find project nothing"
    pages = [request.variables["perPage"] for request in wandb_server.requests if request.operation == "Runs"]
    assert pages[:4] == [500, 500, 500, 50]


READ = """
import json, pathlib, wandb
api, outcomes = wandb.Api(timeout=20), []
for name in "abc":
    try:
        api.run(f"tester/demo/{name}").file("record.safetensors").download(root=name)
        outcomes.append(pathlib.Path(name, "record.safetensors").stat().st_size)
    except Exception as error:
        outcomes.append(f"{type(error).__name__}: {error}")
print("RESULT", json.dumps(outcomes))
"""


@pytest.fixture
def stocked(wandb_server: WandbServer) -> WandbServer:
    for name in "abc":
        wandb_server.add_run("demo", name, files={"record.safetensors": RECORD})
    return wandb_server


def test_spoiled_downloads(stocked: WandbServer, tmp_path: Path) -> None:
    """The client sees a connection that breaks off, but checks neither length nor checksum: readers must."""
    for name, how in {"a": "flip", "b": "truncate", "c": "cut"}.items():
        stocked.corrupt(f"GET /storage/tester/demo/{name}", how)
    flipped, truncated, cut = printed(run_script(stocked, tmp_path, READ)[1])
    assert (flipped, truncated, cut) == (len(RECORD), len(RECORD) // 2, "CommError: unexpected EOF")
    got = (tmp_path / "a/record.safetensors").read_bytes()
    assert sum(a != b for a, b in zip(got, RECORD, strict=True)) == 1
    assert (tmp_path / "b/record.safetensors").read_bytes() == RECORD[: len(RECORD) // 2]


def test_busy_server(stocked: WandbServer, tmp_path: Path) -> None:
    """The client waits out 429 for as long as it says, and tries again after a 500 or a lost connection."""
    busy = [stocked.fail(429, match, count=1, retry_after=1) for match in ("graphql Run$", "GET /files/.*/a/")]
    busy += [stocked.fail(500, "GET /storage/.*/b/", count=1), stocked.drop("GET /storage/.*/c/", count=1)]
    begin = time.monotonic()
    assert printed(run_script(stocked, tmp_path, READ)[1]) == [len(RECORD)] * 3
    assert time.monotonic() - begin > 2
    assert [fault.hits for fault in busy] == [1] * 4
    assert stocked.count("GET /storage") == 5
    assert (tmp_path / "c/record.safetensors").read_bytes() == RECORD


def test_hostile_answers(stocked: WandbServer, tmp_path: Path) -> None:
    """A name that climbs out of its folder, a file that is not there, an answer of the wrong type."""

    def climb(answer: Any) -> Any:
        answer["data"]["project"]["run"]["files"]["edges"][0]["node"]["name"] = "../../escaped"
        return answer

    stocked.alter("RunFiles", climb, count=1)
    del stocked.files["tester/demo/b/record.safetensors"]
    answered = itertools.count()
    wrong = {"data": {"project": [7]}}
    stocked.alter("graphql Run$", lambda answer: answer if next(answered) < 2 else wrong)
    climbed, missing, wrong_type = printed(run_script(stocked, tmp_path, READ)[1])
    assert climbed == "CommError: Invalid path: '../../escaped'"
    assert not list(tmp_path.parent.rglob("escaped"))
    assert re.match("CommError.*404", missing)
    assert wrong_type.startswith("CommError")


# ---------------------------------------------------------------------------------------------------- sweeps

SWEEP = """
program: tiny.py
method: grid
project: demo
parameters:
  subset.seed: {values: [0, 1, 2]}
  trainer: {value: cpu}
command: ["${env}", "${interpreter}", "${program}", "${args_no_hyphens}"]
"""

TINY = """
import sys, wandb
args = dict(arg.split("=") for arg in sys.argv[1:])
with wandb.init(config={"subset": {"seed": int(args["subset.seed"])}}) as run:
    run.log({"seen": int(args["subset.seed"])})
    if args["subset.seed"] == "1":
        raise RuntimeError("as it happens")
"""


def test_sweep(wandb_server: WandbServer, tmp_path: Path) -> None:
    """Two agents share a grid: each value runs once, a failure is one run's own, and both agents end."""
    (tmp_path / "sweep.yaml").write_text(SWEEP)
    (tmp_path / "tiny.py").write_text(TINY)
    status, out = run_command(wandb_server, tmp_path, "wandb", "sweep", "sweep.yaml")
    assert status == 0, out
    (sweep,) = wandb_server.sweeps.values()
    assert f"wandb agent tester/demo/{sweep.name}" in out
    command = ("wandb", "agent", f"tester/demo/{sweep.name}")
    agents = [start(wandb_server, tmp_path, *command) for _ in range(2)]
    outs = [agent.communicate(timeout=120)[0] for agent in agents]
    assert [agent.returncode for agent in agents] == [0, 0], outs
    assert sweep.state == "FINISHED"
    runs = sorted(wandb_server.runs.values(), key=lambda run: run.config["subset.seed"])
    assert [run.config for run in runs] == [
        {"subset.seed": seed, "subset": {"seed": seed}, "trainer": "cpu"} for seed in range(3)
    ]
    assert [run.state for run in runs] == ["finished", "failed", "finished"]
    assert [run.summary["seen"] for run in runs] == [0, 1, 2]
    assert {run.sweep for run in runs} == {sweep.name}


@pytest.mark.slow
def test_sweep_cancelled(wandb_server: WandbServer, tmp_path: Path) -> None:
    """The commands that steer a sweep reach it; an agent of a cancelled sweep runs nothing and ends."""
    (tmp_path / "sweep.yaml").write_text(SWEEP)
    run_command(wandb_server, tmp_path, "wandb", "sweep", "sweep.yaml")
    (sweep,) = wandb_server.sweeps.values()
    path = f"tester/demo/{sweep.name}"
    for flag, state in {"--resume": "RUNNING", "--pause": "PAUSED", "--cancel": "CANCELED"}.items():
        status, out = run_command(wandb_server, tmp_path, "wandb", "sweep", flag, path)
        assert (status, sweep.state) == (0, state), out
    status, out = run_command(wandb_server, tmp_path, "wandb", "agent", path)
    assert status == 0, out
    assert wandb_server.runs == {}
    code = f"import wandb; sweep = wandb.Api().sweep('{path}'); print('RESULT', sweep.expected_run_count)"
    assert printed(run_script(wandb_server, tmp_path, code)[1]) == 3


# ---------------------------------------------------------------------------------------------------- faults

FAULTY = """
import json, os, wandb
try:
    settings = json.loads(os.environ.get("SETTINGS", "{}"))
    run = wandb.init(project="demo", id="a", settings=wandb.Settings(silent=True, **settings))
except Exception as error:
    print("RESULT", json.dumps(f"{type(error).__name__}: {error}"))
    raise SystemExit(3)
for step in range(3):
    run.log({"x": step})
print("UP", flush=True)
input()
run.finish()
print("RESULT", json.dumps("done"))
"""


def test_server_gone_in_the_middle(wandb_server: WandbServer, tmp_path: Path) -> None:
    """With `finish_timeout` the program ends in good order; `wandb sync --include-online` makes up for it."""
    process = start(wandb_server, tmp_path, sys.executable, "-c", FAULTY, SETTINGS='{"finish_timeout": 2}')
    wait_until_up(process)
    wandb_server.refuse()
    out, _ = process.communicate("\n", timeout=60)
    assert (process.returncode, printed(out)) == (0, "done")
    run = wandb_server.run("a")
    assert (run.exitcode, run.history) == (None, [])
    wandb_server.accept()
    (folder,) = (tmp_path / "wandb").glob("run-*")
    status, out = run_command(wandb_server, tmp_path, "wandb", "sync", "--include-online", str(folder))
    assert status == 0, out
    assert (run.state, [row["x"] for row in run.history]) == ("finished", [0, 1, 2])


def test_errors_in_passing(wandb_server: WandbServer, tmp_path: Path) -> None:
    """What fails now and then is tried again: nothing is lost, nothing doubled."""
    faults = [wandb_server.fail(500, match, count=1) for match in ("UpsertBucket", "file_stream")]
    faults.append(wandb_server.drop("PUT", count=1))
    process = start(wandb_server, tmp_path, sys.executable, "-c", FAULTY)
    out, _ = process.communicate("\n", timeout=60)
    assert (process.returncode, printed(out)) == (0, "done")
    run = wandb_server.run("a")
    assert (run.state, [row["x"] for row in run.history]) == ("finished", [0, 1, 2])
    assert {"config.yaml", "wandb-summary.json"} <= wandb_server.run_files(run).keys()
    assert [fault.hits for fault in faults] == [1, 1, 1]


def test_refused_at_once(wandb_server: WandbServer, tmp_path: Path) -> None:
    """A wrong key and an entity that does not exist fail `init` without a wait."""
    status, out = run_script(wandb_server, tmp_path, FAULTY, WANDB_API_KEY="local-" + "1" * 40)
    assert (status, printed(out)) == (3, "CommError: user is not logged in")
    status, out = run_script(wandb_server, tmp_path, FAULTY, WANDB_ENTITY="nobody")
    assert (status, printed(out)) == (3, "CommError: entity nobody not found during upsertBucket")


@pytest.mark.slow
@pytest.mark.parametrize("how", ["refuse", "fail"])
def test_no_server_at_the_start(wandb_server: WandbServer, tmp_path: Path, how: str) -> None:
    """`init` raises CommError when `init_timeout` is over; the program may go on without W&B, or offline."""
    getattr(wandb_server, how)()
    begin = time.monotonic()
    status, out = run_script(wandb_server, tmp_path, FAULTY, SETTINGS='{"init_timeout": 2}')
    assert status == 3
    assert printed(out).startswith("CommError: Timed out while retrying: ")
    assert time.monotonic() - begin < 15
