"""W&B, the writing side, against the loopback server: a process that trains well ends well whatever W&B does."""

# ruff: noqa: F401, F811  (fixtures are imported, and named again as arguments)

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import fake_records as made
import pytest
from conftest import ROOT, TINY, compose_config
from fake_records import GROUPS, write_study
from hydra.utils import instantiate
from wandb_server import Run, WandbServer, wandb_server
from warm_python import interpreter

from sourcewise.core import settings
from sourcewise.core.errors import SourcewiseError
from sourcewise.records import uploads, wandb_tracker
from sourcewise.records.tracker import NoTracker
from sourcewise.records.uploads import Note
from sourcewise.records.wandb_tracker import WandbTracker

PROGRAM = """
import json, os, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
import fake_records as made
from sourcewise.records.wandb_tracker import WandbTracker

tracker = WandbTracker(project="demo", dir="runs", tags=["mine"], **json.loads(os.environ.get("TRACKER", "{{}}")))
config = json.loads(os.environ.get("CONFIG", "{{}}")) | {{"seed": 3, "model": {{"width": 4, "lr": 1e-5}}, "study": None, "steps": [1, 2.0]}}
""".format(tests=str(ROOT / "tests"))

ONE = """
with tracker.start("a run", "a-study", config) as tracked:
    tracked.log({"source/train/loss": 2.0, "source/train/epoch": 0})
    tracked.log({"source/train/loss": 1.0, "source/train/epoch": 1})
    tracked.record(made.make(5))
    print("UP", flush=True)
    WHAT
print("END", flush=True)
"""


def start(
    server: WandbServer, folder: Path, code: str = ONE, what: str = "pass", **env: str
) -> "subprocess.Popen[str]":
    """A process that is a client of the server, in a folder of its own, without W&B's variables of this process."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith("WANDB_")}
    ours = {key: value for key, value in server.env(folder).items() if key not in ("WANDB_DIR", "WANDB_MODE")}
    return subprocess.Popen(
        [interpreter(), "-c", PROGRAM + code.replace("WHAT", what)],
        cwd=folder,
        env=clean | ours | {"HOME": str(folder), "OMP_NUM_THREADS": "1"} | env,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(server: WandbServer, folder: Path, code: str = ONE, what: str = "pass", **env: str) -> tuple[int, str, str]:
    process = start(server, folder, code, what, **env)
    out, err = process.communicate(timeout=100)
    return process.returncode, out, err


def up(process: "subprocess.Popen[str]") -> None:
    assert process.stdout is not None
    assert any(line == "UP\n" for line in process.stdout)


def advised(err: str) -> list[str]:
    """The command that the one line on stderr tells the user."""
    (line,) = err.strip().splitlines()
    assert line.startswith("W&B: ")
    return line.rpartition(": ")[2].split()


def sync(server: WandbServer, folder: Path, command: list[str]) -> None:
    env = os.environ | server.env(folder)
    assert command[:2] == ["wandb", "sync"]
    done = subprocess.run(
        [Path(interpreter()).with_name("wandb"), *command[1:]], cwd=folder, env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def content(server: WandbServer, run: Run) -> dict[str, Any]:
    """All that the server knows of a run, apart from its id and times."""
    timing = ("_runtime", "_timestamp", "_wandb")
    return {
        "about": {key: run.about.get(key) for key in ("displayName", "groupName", "jobType", "tags")},
        "config": run.config,
        "summary": {key: value for key, value in run.summary.items() if key not in timing},
        "history": [{key: value for key, value in row.items() if key not in timing} for row in run.history],
        "files": {name: body if name == "record.safetensors" else b"" for name, body in server.run_files(run).items()},
        "state": run.state,
    }


def test_an_offline_run_that_is_synced_later_equals_an_online_one(wandb_server: WandbServer, tmp_path: Path) -> None:
    assert run(wandb_server, tmp_path / "a") == (0, "UP\nEND\n", "")
    assert run(wandb_server, tmp_path / "b", WANDB_MODE="offline") == (0, "UP\nEND\n", "")
    (online,) = wandb_server.runs.values()
    assert (online.state, online.group, online.tags) == ("finished", "a-study", ["mine"])
    assert online.about["displayName"] == "a run"
    assert online.config == {"seed": 3, "model": {"width": 4, "lr": 1e-5}, "study": None, "steps": [1, 2]}
    assert [row["source/train/loss"] for row in online.history] == [2, 1]
    assert online.summary["target/pets/accuracy"] == 0.5
    kept = [name for name, is_kept in zip(GROUPS, made.make(5).mask, strict=True) if is_kept]
    assert (online.summary["subset/groups"], online.summary["subset/size"]) == (len(GROUPS), len(kept))
    assert (online.summary["subset/names"], online.summary["subset/kept"]) == (GROUPS, kept)
    assert online.summary["seconds/pretraining"] == 1.5
    (axis, metric) = sorted(online.raw_config["_wandb"]["value"]["m"], key=len)
    assert axis["1"] == "source/train/epoch"
    assert (metric["2"], metric["5"]) == ("source/train/*", 1)  # the first is its axis
    (folder,) = (tmp_path / "b" / "runs" / "wandb").glob("offline-run-*")
    sync(wandb_server, tmp_path / "b", ["wandb", "sync", str(folder)])
    one, two = (content(wandb_server, run) for run in wandb_server.runs.values())
    assert one == two
    assert "record.safetensors" in one["files"]
    for path in [*tmp_path.rglob("*")]:
        if path.is_file():
            assert wandb_server.api_key.encode() not in path.read_bytes(), path


@pytest.mark.parametrize(
    ("what", "status", "state"),
    [
        ("raise RuntimeError('as it happens')", 1, "failed"),
        ("raise KeyboardInterrupt", -signal.SIGINT, "killed"),
        ("sys.exit(1)  # as Lightning does when interrupted", 1, "killed"),
    ],
)
def test_a_run_ends_with_its_true_state(
    wandb_server: WandbServer, tmp_path: Path, what: str, status: int, state: str
) -> None:
    log = tmp_path / "runs" / "a-study" / "a run" / "log.txt"
    log.parent.mkdir(parents=True)
    log.write_text("before\n")
    code, out, err = run(
        wandb_server, tmp_path, what=f"tracked.run.notes = 'mine'; {what}", CONFIG='{"runs_dir": "runs"}'
    )
    assert (code, out) == (status, "UP\n")
    assert "W&B" not in err
    (tracked,) = wandb_server.runs.values()
    assert tracked.state == state
    reason = "RuntimeError: as it happens" if state == "failed" else "interrupted"
    assert tracked.summary["failure"] == reason
    assert tracked.about["notes"] == f"mine\n{reason}"
    kept = wandb_server.run_files(tracked)["log.txt"].decode()
    assert kept.startswith("before\nTraceback (most recent call last):")
    assert kept.endswith(f"{reason}\n")


def test_a_failed_offline_run_is_failed_when_synced(wandb_server: WandbServer, tmp_path: Path) -> None:
    run(wandb_server, tmp_path, what="raise RuntimeError('as it happens')", WANDB_MODE="offline")
    (folder,) = (tmp_path / "runs" / "wandb").glob("offline-run-*")
    sync(wandb_server, tmp_path, ["wandb", "sync", str(folder)])
    (tracked,) = wandb_server.runs.values()
    assert tracked.state == "failed"


@pytest.mark.parametrize("fault", ["refuse", "fail", "key"])
def test_no_server_at_the_start(wandb_server: WandbServer, tmp_path: Path, fault: str) -> None:
    """Training goes on, the run is offline, and the one line's command uploads it. The next run does not wait."""
    folder = tmp_path / "runs" / "a-study" / "a run"
    folder.mkdir(parents=True)
    env = {"TRACKER": json.dumps({"init_timeout": 2, "mode": "online" if fault == "fail" else "auto"})}
    env["CONFIG"] = '{"runs_dir": "runs"}'
    if fault == "key":
        env["WANDB_API_KEY"] = "local-" + "1" * 40
    else:
        getattr(wandb_server, fault)()
    again = "import time; begin = time.monotonic()" + ONE + "print(time.monotonic() - begin)"
    code, out, err = run(wandb_server, tmp_path, ONE + again, **env)
    assert code == 0
    assert float(out.splitlines()[-1]) < 1
    first, second = err.strip().splitlines()
    reason = {"refuse": "connection refused", "fail": "HTTP 500", "key": "user is not logged in"}[fault]
    assert reason in first
    assert "this run is offline, upload it later: wandb sync runs/wandb/offline-run-" in first
    logs = tmp_path / "runs" / "wandb"
    assert len(list(logs.glob("*run-*"))) == 2
    assert uploads.closing_line(logs, [folder]).endswith(second.rpartition("/")[2])
    wandb_server.accept() if fault == "refuse" else wandb_server.heal()
    for line in (first, second):
        sync(wandb_server, tmp_path, advised(line))
    assert [run.state for run in wandb_server.runs.values()] == ["finished"] * 2
    assert all("record.safetensors" in wandb_server.run_files(run) for run in wandb_server.runs.values())


@pytest.mark.parametrize("what", ["input()", "input(); raise RuntimeError('as it happens')"])
@pytest.mark.parametrize("fault", ["refuse", "fail"])
def test_the_server_vanishes_in_the_middle(wandb_server: WandbServer, tmp_path: Path, fault: str, what: str) -> None:
    process = start(wandb_server, tmp_path, what=what, TRACKER='{"finish_timeout": 3}')
    up(process)
    getattr(wandb_server, fault)()
    begin = time.monotonic()
    _, err = process.communicate("\n", timeout=60)
    failed = "raise" in what
    assert process.returncode == failed
    assert time.monotonic() - begin < 20
    (line,) = [line for line in err.splitlines() if line.startswith("W&B")]
    assert "upload this run later: wandb sync --include-online runs/wandb/run-" in line
    wandb_server.accept() if fault == "refuse" else wandb_server.heal()
    sync(wandb_server, tmp_path, advised(line))
    (tracked,) = wandb_server.runs.values()
    assert tracked.state == ("failed" if failed else "finished")
    assert [row["source/train/loss"] for row in tracked.history] == [2, 1]
    assert "record.safetensors" in wandb_server.run_files(tracked)


def test_after_an_outage_one_command_uploads_all_that_is_missing(wandb_server: WandbServer, tmp_path: Path) -> None:
    """Of a run that was cut off, of those after it, and of none that arrived."""
    for name in ("one", "two", "three"):
        (tmp_path / "runs" / "a-study" / name).mkdir(parents=True)
    code = """
folders = [Path("runs", "a-study", name) for name in ("one", "two", "three")]
for folder in folders:
    with tracker.start(folder.name, "a-study", config) as tracked:
        tracked.log({"x": 1})
        tracked.record(made.make(5))
        if folder.name == "two":
            print("UP", flush=True)
            input()
print(tracker.closing_line(folders))
"""
    env = {"CONFIG": '{"runs_dir": "runs"}', "TRACKER": '{"finish_timeout": 3, "init_timeout": 2}'}
    process = start(wandb_server, tmp_path, code, **env)
    up(process)
    wandb_server.refuse()
    out, _ = process.communicate("\n", timeout=60)
    wandb_server.accept()
    assert out.startswith(
        "W&B: 1 of 3 runs are uploaded, not two, three; upload what is here: wandb sync --include-online "
    )
    assert [run.about["displayName"] for run in wandb_server.runs.values() if run.state == "finished"] == ["one"]
    puts = wandb_server.count("PUT")
    sync(wandb_server, tmp_path, advised(out))
    assert [run.state for run in wandb_server.runs.values()] == ["finished"] * 3
    assert all("record.safetensors" in wandb_server.run_files(run) for run in wandb_server.runs.values())
    assert wandb_server.count("PUT") > puts
    last = code.rpartition("\n\n")[2].splitlines()
    _, out, _ = run(wandb_server, tmp_path, "\n".join([code.split("for folder in folders:")[0], last[-1]]), **env)
    assert out == "W&B: 3 of 3 runs are uploaded\n"


def test_a_run_of_a_sweep_that_is_done_again_outside_of_it_still_counts(
    wandb_server: WandbServer, tmp_path: Path
) -> None:
    (tmp_path / "runs" / "a-study" / "a run").mkdir(parents=True)
    env = {"CONFIG": '{"runs_dir": "runs"}'}
    process = start(wandb_server, tmp_path, what="input()", WANDB_SWEEP_ID="s1", **env)
    up(process)
    process.kill()
    process.communicate()
    assert run(wandb_server, tmp_path, **env)[0] == 0
    first, again = wandb_server.runs.values()
    assert (first.state, first.tags) == ("running", ["mine"])
    assert (again.state, again.tags) == ("finished", ["mine", "sweep-s1"])


def test_system_metrics_and_console_by_setting(wandb_server: WandbServer, tmp_path: Path) -> None:
    what = "print('seen'); import time; time.sleep(2)"
    for name, chosen in {"a": {}, "b": {"system_metrics": True, "console": True}}.items():
        status, _, err = run(
            wandb_server,
            tmp_path / name,
            what=what,
            TRACKER=json.dumps(chosen),
            WANDB_X_STATS_SAMPLING_INTERVAL="0.5",
        )
        assert (status, err) == (0, "")
    without, with_both = wandb_server.runs.values()
    assert without.lines.keys() == {"wandb-history.jsonl"}
    assert any("system.cpu" in line for line in with_both.lines["wandb-events.jsonl"])
    assert any("seen" in line for line in with_both.lines["output.log"])


def test_two_runs_in_one_process_never_share_a_wandb_run(wandb_server: WandbServer, tmp_path: Path) -> None:
    """Not after a failure, not inside one another, and not when the user has set an id."""
    code = """
try:
    with tracker.start("one", "s", config) as tracked:
        tracked.log({"x": 1})
        raise ValueError
except ValueError:
    pass
with tracker.start("two", "s", config) as tracked:
    tracked.log({"x": 2})
    with tracker.start("three", "s", config) as inner:
        inner.log({"x": 3})
"""
    code, _, err = run(wandb_server, tmp_path, code, WANDB_RUN_ID="mine")
    assert (code, err) == (0, "")
    runs = {run.about["displayName"]: run for run in wandb_server.runs.values()}
    assert {name: run.state for name, run in runs.items()} == {"one": "failed", "two": "finished", "three": "finished"}
    assert [runs[name].history[0]["x"] for name in ("one", "two", "three")] == [1, 2, 3]
    assert runs["one"].name == "mine"


def test_trouble_with_tracking_never_fails_a_run(wandb_server: WandbServer, tmp_path: Path) -> None:
    """What cannot be tracked is told once; the rest is tracked."""
    what = """tracked.figure('f', object()); tracked.save(Path('nothing'), 'x'); tracked.log({'y': 1})
    tracked.table('t', ['a'], [[1, 2]]); tracked.artifact('a', 'influences', {'x': Path('nothing')}, {})"""
    code, _, err = run(wandb_server, tmp_path, what=what, WANDB_MODE="offline")
    assert code == 0
    (line,) = err.strip().splitlines()
    assert line.startswith("W&B: not everything of this run is tracked: ")


def test_a_folder_that_cannot_be_written(wandb_server: WandbServer, tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("not a folder")
    code, out, err = run(wandb_server, tmp_path, WANDB_MODE="offline")
    assert (code, out) == (0, "UP\nEND\n")
    assert err.startswith("W&B: this run is not tracked: ")


def test_figures_tables_and_artifacts(wandb_server: WandbServer, tmp_path: Path) -> None:
    """The estimate's run, online and offline."""
    code = """
import plotly.graph_objects as go
Path("influences.nc").write_bytes(b"numbers" + os.environ["KIND"].encode())
with tracker.start("estimate", "s", {"records": "wandb:a/b"}, job="estimate") as tracked:
    tracked.figure("target/digits/influence", go.Figure(go.Bar(y=[1, 2])))
    tracked.table("top", ["class", "influence"], [["a", 0.5], ["b", -1.0]])
    tracked.log({"target/digits/lds": 0.5})
    tracked.save(b"{}", "summary.json")
    tracked.artifact("influences-s", "influences", {"digits/influences.nc": Path("influences.nc")}, {"runs": ["x", "y"]})
"""
    assert run(wandb_server, tmp_path / "a", code, KIND="1") == (0, "", "")
    assert run(wandb_server, tmp_path / "b", code, KIND="2", WANDB_MODE="offline") == (0, "", "")
    (folder,) = (tmp_path / "b" / "runs" / "wandb").glob("offline-run-*")
    sync(wandb_server, tmp_path / "b", ["wandb", "sync", str(folder)])
    for tracked in wandb_server.runs.values():
        assert (tracked.about["jobType"], tracked.state) == ("estimate", "finished")
        files = wandb_server.run_files(tracked)
        assert "summary.json" in files
        assert any(name.startswith("media/plotly/target/digits/influence") for name in files)
        assert any(name.startswith("media/table/top") for name in files)
        assert tracked.summary["target/digits/lds"] == 0.5
    versions = [item for item in wandb_server.artifacts.values() if item.collection == "influences-s"]
    assert [item.version for item in versions] == [0, 1]
    assert {item.type for item in versions} == {"influences"}
    assert json.loads(versions[0].about["metadata"])["runs"] == ["x", "y"]


def test_a_report_holds_the_study_s_runs_and_what_was_logged(wandb_server: WandbServer, tmp_path: Path) -> None:
    """With the study's group as a filter, and with names that are only names."""
    evil, group = '<script>alert(1)</script> *a* [b](http://x) "c"', 'a "study" or True'
    code = f"""
import numpy as np
import plotly.graph_objects as go
tracker.check_report()
with tracker.start("a run", {group!r}, config) as tracked:
    tracked.log({{"target/digits/score": 0.5}})
with tracker.start("estimate", {group!r}, {{}}, job="estimate") as tracked:
    tracked.figure("target/digits/influence_class", go.Figure(go.Bar(y=[1, 2])))
    tracked.table("target/digits/overall", ["group", "influence"], [[{evil!r}, 0.5]])
    tracked.images("target/digits/examples", [(np.zeros((64, 64), np.uint8), {evil!r}), (np.ones((64, 64, 3), np.uint8), "b")])
    tracked.report({evil!r}, [{evil!r}, "Notes."], ["target/digits/score"])
"""
    status, out, err = run(wandb_server, tmp_path, code)
    assert (status, out) == (0, ""), err
    ((id, view),) = wandb_server.views.items()
    assert re.search(f"W&B: report: http://127.0.0.1:[0-9]+/tester/demo/reports/.*--{id}\n", err), err
    assert (view["entityName"], view["projectName"], view["type"]) == ("tester", "demo", "runs")
    assert view["displayName"] == evil
    blocks = json.loads(view["spec"])["blocks"]
    texts = [block["children"] for block in blocks if block["type"] in ("paragraph", "heading")]
    words = [child["text"] for children in texts for child in children]
    assert words[1:3] == [evil, "Notes."]  # text, not markdown or links
    assert all(set(child) <= {"text", "type"} for children in texts for child in children), texts
    study, estimate = (block["metadata"] for block in blocks if block["type"] == "panel-grid")
    ids = {item.about["jobType"]: item.name for item in wandb_server.runs.values()}
    for grid, wanted in ((study, {"group": group, "jobType": "run"}), (estimate, {"name": ids["estimate"]})):
        (runs,) = grid["runSets"]
        assert runs["project"]["name"] == "demo"
        assert {item["key"]["name"]: item["value"] for item in runs["filters"]["filters"]} == wanted
        assert {item["op"] for item in runs["filters"]["filters"]} == {"="}
    (points,) = study["panelBankSectionConfig"]["panels"]
    assert points["config"]["xAxis"] == "config:subset.value.seed"
    assert points["config"]["yAxis"] == "summary:target/digits/score"
    panels = estimate["panelBankSectionConfig"]["panels"]
    media = [panel["config"]["mediaKeys"] for panel in panels if panel["viewType"] == "Media Browser"]
    assert media == [["target/digits/influence_class"], ["target/digits/examples"]]
    assert [panel["layout"]["y"] for panel in panels] == [0, 12, 24]  # below one another
    (table,) = (panel for panel in panels if panel["viewType"] == "Weave")
    assert '"target/digits/overall"' in json.dumps(table)
    summary = wandb_server.run(ids["estimate"]).summary
    assert summary["target/digits/examples"]["captions"] == [evil, "b"]


def test_estimate_makes_a_report(wandb_server: WandbServer, tmp_path: Path) -> None:
    items = write_study(tmp_path / "records", 20)
    uploads.write(tmp_path / "records" / items[0].header.run, Note("run-1-a", True, "http://127.0.0.1/me/p/runs/a"))
    (tmp_path / "records" / "broken").mkdir()
    (tmp_path / "records" / "broken" / "record.safetensors").write_bytes(b"x")
    arguments = ["records=records", "out=out", "logger.project=demo", "wandb_report=true"]
    done = subprocess.run(
        [interpreter(), str(ROOT / "estimate.py"), *arguments],
        cwd=tmp_path,
        env=os.environ | wandb_server.env(tmp_path) | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    assert "W&B: report: http" in done.stderr
    (view,) = wandb_server.views.values()
    assert view["displayName"] == "Which groups of made-up help pets, and which hurt"
    assert "These data cannot support a claim about pets." in view["spec"]
    ((tracked, files),) = [(run, wandb_server.run_files(run)) for run in wandb_server.runs.values()]
    assert tracked.tags == ["made-up", "pets"]
    assert not {"logger", "runs_dir", "out"} & tracked.config.keys()
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    pets = summary["targets"]["pets"]
    for name, value in {
        "models": 20,
        "groups": len(GROUPS),
        "left_out": 1,
        "target/pets/class/lds": pets["checks"]["class"]["lds"],
        "target/pets/class/split_half": pets["checks"]["class"]["split_half"],
        "target/pets/class/significant": pets["significant_class"],
    }.items():
        assert tracked.summary[name] == pytest.approx(value), name
    tables = {
        name.split("/")[-1].rpartition("_")[0].rpartition("_")[0]: json.loads(content)
        for name, content in files.items()
        if name.endswith(".table.json")
    }
    assert len(tables["class"]["data"]) == 3 * len(GROUPS)
    assert tables["class"]["columns"] == ["class", "group", "influence", "stderr", "qvalue"]
    assert [row[0] for row in tables["runs"]["data"]] == (tmp_path / "out/records.txt").read_text().split()
    assert tables["runs"]["data"][0][1] == "http://127.0.0.1/me/p/runs/a"
    ((place, reason),) = tables["left out"]["data"]
    assert place.endswith("broken/record.safetensors")
    assert "not a whole sourcewise record" in reason
    for key in (
        "target/pets/heatmap",
        "target/pets/overall",
        "summary:target/pets/score",
        "made-up-0123456789",
    ):
        assert key in view["spec"]


def test_where_no_report_can_be_made_one_line_says_why(
    wandb_server: WandbServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SourcewiseError, match="this logger makes no reports; take logger=wandb"):
        NoTracker().check_report()
    with pytest.raises(SourcewiseError, match="W&B is offline; log in"):
        WandbTracker(mode="offline").check_report()
    WandbTracker(mode="online").check_report()
    monkeypatch.setattr(wandb_tracker, "find_spec", lambda name: None)
    with pytest.raises(SourcewiseError, match=r"pip install 'sourcewise\[reports\]'"):
        WandbTracker(mode="online").check_report()
    code = """
with tracker.start("estimate", "s", {}, job="estimate") as tracked:
    tracked.report("title", ["text"], ["target/digits/score"])
"""
    status, out, err = run(wandb_server, tmp_path, code, WANDB_MODE="offline")  # as when the server is not reached
    assert (status, out) == (0, "")
    assert err == "W&B: not everything of this run is tracked: no report, since W&B's server was not reached\n"


# -- which mode


@pytest.mark.parametrize(
    ("setting", "env", "mode"),
    [
        ("auto", {}, "offline"),
        ("auto", {"WANDB_API_KEY": "local-" + "0" * 40}, "online"),
        ("auto", {"WANDB_API_KEY": "local-" + "0" * 40, "WANDB_MODE": "offline"}, "offline"),
        ("auto", {"WANDB_MODE": "disabled"}, "disabled"),
        ("online", {"WANDB_MODE": "offline"}, "online"),
        ("offline", {"WANDB_API_KEY": "local-" + "0" * 40}, "offline"),
    ],
)
def test_mode(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, setting: str, env: dict[str, str], mode: str) -> None:
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    assert wandb_tracker.resolved_mode(setting) == mode


def test_who_is_logged_in_by_netrc_is_online(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:4711")
    (tmp_path / "netrc").write_text(f"machine 127.0.0.1:4711\n  login user\n  password local-{'0' * 40}\n")
    assert wandb_tracker.resolved_mode("auto") == "online"
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:4712")
    assert wandb_tracker.resolved_mode("auto") == "offline"


def test_disabled_and_no_tracking_track_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    for tracker in (NoTracker(), WandbTracker(dir=str(tmp_path / "runs"))):
        with tracker.start("n", "s", {}) as tracked:
            tracked.log({"x": 1.0})
            tracked.save(b"x", "x")
            tracked.table("t", ["a"], [[1]])
    assert not (tmp_path / "runs").exists()


def test_a_wrong_mode_is_one_clear_line() -> None:
    with pytest.raises(SourcewiseError, match="logger.mode=on: input should be 'auto', 'online' or 'offline'"):
        settings.check_config({"_target_": "sourcewise.records.wandb_tracker.WandbTracker", "mode": "on"}, "logger")


def test_the_config_builds_the_tracker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    tracker = instantiate(compose_config("logger=wandb")["logger"])
    assert isinstance(tracker, WandbTracker)
    assert tracker.project == "sourcewise"
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    assert instantiate(compose_config("logger=wandb")["logger"]).project == "mine"


# -- loggers of users

OWN_LOGGER = """
import json
from contextlib import contextmanager
from sourcewise.records.tracker import TrackedRun, Tracker

class JsonRun(TrackedRun):
    def __init__(self, path):
        self.path = path

    def log(self, scalars):
        with open(self.path, "a") as file:
            print(json.dumps(dict(scalars)), file=file)

    def record(self, result):
        self.log(result.header.metrics)

class JsonTracker(Tracker):
    def __init__(self, path: str):
        self.path = path

    @contextmanager
    def start(self, name, study, config, job="run"):
        yield JsonRun(self.path)
"""


def test_a_logger_of_the_user_s_tracks_runs_and_says_that_it_makes_no_reports(tmp_path: Path) -> None:
    (tmp_path / "my_logger.py").write_text(OWN_LOGGER)
    (tmp_path / "conf" / "logger").mkdir(parents=True)
    (tmp_path / "conf" / "logger" / "mine.yaml").write_text("_target_: my_logger.JsonTracker\npath: lines.jsonl\n")

    def command(program: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [interpreter(), str(ROOT / program), "--config-dir", "conf", "logger=mine", *arguments],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])},
            capture_output=True,
            text=True,
            timeout=200,
        )

    done = command("train.py", *TINY[:-1], f"runs_dir={tmp_path / 'runs'}")
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in (tmp_path / "lines.jsonl").read_text().splitlines()]
    assert lines[0].keys() == {"source/parameters"}
    assert "source/train/epoch" in lines[1]
    assert "target/digits/accuracy" in lines[-1]
    done = command("estimate.py", f"records={tmp_path / 'runs'}", "wandb_report=true")
    assert done.returncode == 2
    assert "wandb_report=true: this logger makes no reports; take logger=wandb, or leave it out" in done.stderr
    done = command("train.py", "logger.path=3")
    assert "logger.path=3: input should be a valid string" in done.stderr
