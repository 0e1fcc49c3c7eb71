"""W&B, the writing side, against the loopback server: a process that trains well ends well whatever W&B does."""

# ruff: noqa: F401, F811  (fixtures are imported, and named again as arguments)

import json
import os
import signal
import time
from pathlib import Path

import fake_records as made
import pytest
from fake_records import GROUPS
from wandb_client import ONE, advised, content, run, start, sync, up
from wandb_server import WandbServer, wandb_server

from sourcewise.records import uploads
from sourcewise.records.wandb_tracker import WandbTracker


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


# -- which mode
# -- loggers of users


def test_wandb_keeps_its_cache_beside_its_runs_where_the_users_cannot_be_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_CACHE_DIR", "")
    monkeypatch.delenv("WANDB_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    tracker = WandbTracker(dir=str(tmp_path / "runs"))
    tracker._place_cache()
    assert "WANDB_CACHE_DIR" not in os.environ
    monkeypatch.setenv("XDG_CACHE_HOME", os.devnull)
    tracker._place_cache()
    assert os.environ["WANDB_CACHE_DIR"] == str(tmp_path / "runs/wandb/cache")
