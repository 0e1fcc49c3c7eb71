"""What an estimate writes to W&B: figures, tables, artifacts, and a report."""

# ruff: noqa: F401, F811  (fixtures are imported, and named again as arguments)

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT
from fake_records import GROUPS, write_study
from wandb_client import run, sync
from wandb_server import WandbServer, wandb_server
from warm_python import interpreter

from sourcewise.core.errors import SourcewiseError
from sourcewise.records import uploads, wandb_tracker
from sourcewise.records.tracker import NoTracker
from sourcewise.records.uploads import Note
from sourcewise.records.wandb_tracker import WandbTracker
from sourcewise.study.effects import ALL_KEYS


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
        "target/pets/class/lds_low": pets["checks"]["class"]["lds_interval"][0],
        "target/pets/class/split_half": pets["checks"]["class"]["split_half"],
        "target/pets/class/split_half_median": pets["checks"]["class"]["split_half_median"],
        "target/pets/class/significant": pets["significant_class"],
    }.items():
        assert tracked.summary[name] == pytest.approx(value), name
    tables = {
        name.split("/")[-1].rpartition("_")[0].rpartition("_")[0]: json.loads(content)
        for name, content in files.items()
        if name.endswith(".table.json")
    }
    assert len(tables["class"]["data"]) == 3 * len(GROUPS)
    assert tables["class"]["columns"] == ["class", "group", *ALL_KEYS]
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
