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
from wandb_graphql import GraphQLError, Query
from wandb_objects import Run, Sweep, matches
from wandb_server import WandbServer, wandb_server
from warm_python import interpreter

RECORD = bytes(range(256)) * 40


def run_script(server: WandbServer, folder: Path, code: str, **env: str) -> tuple[int, str]:
    """Run Python code as a client of the server; return its exit status and all it printed."""
    return run_command(server, folder, interpreter(), "-c", textwrap.dedent(code), **env)


def run_command(server: WandbServer, folder: Path, *command: str, **env: str) -> tuple[int, str]:
    process = start(server, folder, *command, **env)
    out, _ = process.communicate(timeout=120)
    return process.returncode, out


def start(server: WandbServer, folder: Path, *command: str, **env: str) -> "subprocess.Popen[str]":
    clean = {key: value for key, value in os.environ.items() if not key.startswith("WANDB_")}
    clean["PATH"] = f"{Path(interpreter()).parent}{os.pathsep}{clean['PATH']}"
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
        ({"group": "other"}, False),
        ({"tags": "a"}, True),
        ({"tags": {"$in": ["z", "b"]}}, True),
        ({"tags": {"$in": ["z"]}}, False),
        ({"state": "finished", "displayName": "seed-3"}, True),
        ({"$or": [{"sweep": "s2"}, {"jobType": "run"}]}, True),
        ({"$and": [{"sweep": "s1"}, {"state": {"$in": ["failed"]}}]}, False),
    ],
)
def test_filters(query: dict[str, Any], hit: bool) -> None:
    about = {
        "groupName": "study",
        "tags": ["a", "b"],
        "displayName": "seed-3",
        "sweep": "s1",
        "jobType": "run",
    }
    run = Run("me", "demo", "id3", about=about, exitcode=0)
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
    """Config, history, summary and a run file arrive; the Api brings them back."""
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
        api = wandb.Api()
        filters = {"group": "study", "state": "finished", "tags": {"$in": ["b"]}}
        (found,) = api.runs("tester/demo", filters=filters, lazy=False, per_page=500)
        assert not list(api.runs("tester/demo", filters={"group": "other"}))
        file = found.file("record.safetensors")
        file.download(root="got")
        accuracy = found.summary["target/digits/accuracy"]
        print("RESULT", json.dumps([found.id, found.config, accuracy, found.name, found.state, file.size, file.md5]))
        """,
    )
    assert status == 0, out
    name, config, accuracy, title, state, size, md5 = printed(out)
    run = wandb_server.run(name)
    assert config == run.config == {"subset": {"seed": 3}, "lr": 0.1}
    assert accuracy == run.summary["target/digits/accuracy"] == 0.75
    assert (title, state, run.exitcode) == ("seed-3", "finished", 0)
    assert (run.group, run.tags) == ("study", ["a", "b"])
    assert [row["source/loss"] for row in run.history] == [1 / (step + 1) for step in range(5)]
    assert wandb_server.run_files(run)["record.safetensors"] == RECORD
    assert (tmp_path / "got/record.safetensors").read_bytes() == RECORD
    assert (size, md5) == (len(RECORD), base64.b64encode(hashlib.md5(RECORD).digest()).decode())
    assert wandb_server.count("graphql RunFiles") == wandb_server.count("GET /files") == 1


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
        few = {"$and": [{"group": "study"}, {"state": {"$in": ["failed"]}}]}
        odd = len(api.runs("tester/demo", filters=few))
        missing = None
        try:
            list(api.runs("tester/nothing"))
        except ValueError as error:
            missing = str(error)
        print("RESULT", json.dumps([failed, odd, missing]))
        """,
    )
    assert status == 0, out
    failed, odd, missing = printed(out)
    assert (failed, odd) == (["r7"], 1)
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


def test_errors_in_passing(wandb_server: WandbServer, tmp_path: Path) -> None:
    """What fails now and then is tried again: nothing is lost, nothing doubled."""
    faults = [wandb_server.fail(500, match, count=1) for match in ("UpsertBucket", "file_stream")]
    faults.append(wandb_server.drop("PUT", count=1))
    process = start(wandb_server, tmp_path, interpreter(), "-c", FAULTY)
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
