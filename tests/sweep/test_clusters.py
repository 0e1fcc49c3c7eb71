"""The files for clouds and clusters: their shape, and the commands that their shells give.

SkyPilot itself loads its file as docs/cluster.md says; it is no dependency, and no test needs a cloud.
"""

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import ROOT, compose_config

CLUSTERS = ROOT / "sweeps" / "clusters"


def load(name: str) -> Any:
    return yaml.safe_load((CLUSTERS / name).read_text())


def given(script: str, tmp_path: Path, **environment: str) -> list[str]:
    """Return the arguments that a script gives to `python train.py`."""
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    python.chmod(0o755)
    environment |= {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(["bash", "-c", script], env=environment, capture_output=True, text=True, check=True)
    program, multirun, *overrides = done.stdout.splitlines()
    assert (program, multirun) == ("train.py", "-m")
    return overrides


def seeds(overrides: list[str]) -> range:
    """Return the range of seeds of a sweep, whose command composes."""
    (subset,) = [override for override in overrides if override.startswith("subset.seed=")]
    matched = re.fullmatch(r"subset\.seed=range\((\d+),(\d+)\)", subset)
    assert matched
    found = range(*map(int, matched.groups()))
    config = compose_config(f"subset.seed={found[0]}", *(override for override in overrides if override != subset))
    assert config["runs_dir"] == "/runs"
    return found


def test_a_task_of_skypilot_does_the_seeds_of_its_environment(tmp_path: Path) -> None:
    task = load("skypilot.yaml")
    assert set(task) == {"name", "resources", "workdir", "envs", "volumes", "setup", "run"}
    assert task["resources"]["use_spot"] is True
    assert list(task["volumes"]) == ["/runs"]
    assert seeds(given(task["run"], tmp_path, **task["envs"])) == range(1000)
    assert seeds(given(task["run"], tmp_path, SEEDS="range(0,250)")) == range(250)


def test_the_parts_of_an_indexed_job_make_the_sweep(tmp_path: Path) -> None:
    job = load("kubernetes.yaml")["spec"]
    assert job["completionMode"] == "Indexed"
    pod = job["template"]["spec"]
    (container,) = pod["containers"]
    assert container["command"] == ["bash", "-c"]
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
    parts = [
        seeds(given(container["args"][0], tmp_path, JOB_COMPLETION_INDEX=str(index)))
        for index in range(job["completions"])
    ]
    assert [seed for part in parts for seed in part] == list(range(1000))


@pytest.mark.parametrize("path", sorted(CLUSTERS.glob("*.yaml")), ids=lambda path: path.stem)
def test_a_file_names_the_command_without_its_cluster(path: Path) -> None:
    (line,) = re.findall(r"^# Without .*:  python train\.py -m (.*)$", path.read_text(), re.MULTILINE)
    seeds([word.strip("'") for word in line.split()])
