"""What contributors rely on: make's targets, hosted CI, the citation, and what CONTRIBUTING.md names."""

import re
import subprocess
import tomllib

import pytest
import yaml
from conftest import ROOT

PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


def make(*arguments: str) -> str:
    return subprocess.run(
        ["make", "--no-print-directory", *arguments], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout


def test_make_help_lists_every_target() -> None:
    targets = set(re.findall(r"^([\w-]+):(?!=)", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))
    lines = make("help").splitlines()
    assert {line.split()[1] for line in lines} == targets
    assert all(len(line.split(maxsplit=2)) == 3 for line in lines)
    phony = re.search(r"^\.PHONY: (.+)$", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert phony
    assert set(phony[1].split()) == targets


def test_hosted_ci_runs_what_ci_runs() -> None:
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8"))
    job = workflow["jobs"]["test"]
    assert ".ci/run" in [step.get("run") for step in job["steps"]]
    versions = {f"Programming Language :: Python :: {version}" for version in job["strategy"]["matrix"]["python"]}
    assert versions < set(PYPROJECT["project"]["classifiers"])


def test_ci_runs_every_marker_but_gpu() -> None:
    targets = re.findall(r"\bmake ([\w-]+)", (ROOT / ".ci/run").read_text(encoding="utf-8"))
    commands = make("--dry-run", "--assume-old=.venv/.ready", *targets)
    for marker in PYPROJECT["tool"]["pytest"]["ini_options"]["markers"]:
        name = marker.partition(":")[0]
        assert name == "gpu" or re.search(rf"-m '?.*\b{name}\b", commands), name


def test_the_citation_is_of_this_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["cff-version"] == "1.2.0"
    assert {"message", "title", "authors"} <= set(citation)
    assert citation["version"] == PYPROJECT["project"]["version"]
    assert citation["license"] == PYPROJECT["project"]["license"]


def test_contributing_has_every_marker() -> None:
    rows = re.findall(r"^\| `(\w+)` \|", CONTRIBUTING, flags=re.MULTILINE)
    assert rows == [marker.partition(":")[0] for marker in PYPROJECT["tool"]["pytest"]["ini_options"]["markers"]]


@pytest.mark.parametrize(
    "path", re.findall(r"`((?:src|tests|docs|conf|benchmarks|\.ci|\.github)/[\w./-]*)", CONTRIBUTING)
)
def test_paths_in_contributing_exist(path: str) -> None:
    assert (ROOT / path).exists()
