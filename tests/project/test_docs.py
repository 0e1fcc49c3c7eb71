"""What README and docs say is there, runs, and composes."""

import doctest
import os
import pkgutil
import re
import shlex
import subprocess
import sys
from pathlib import Path

import nbformat
import numpy as np
import pytest
from conftest import ROOT, TINY, compose_config
from nbclient import NotebookClient
from PIL import Image
from warm_python import interpreter

import sourcewise
import sourcewise.lightning_modules

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)#]+)", page.read_text(encoding="utf-8")):
        assert link.startswith("https://") or (page.parent / link).exists(), link


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_examples_run(page: Path) -> None:
    for code in re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL):
        exec(compile(code, page.name, "exec"), {})


def test_examples_in_docstrings_are_true() -> None:
    names = [m.name for m in pkgutil.walk_packages(sourcewise.__path__, "sourcewise.")]
    results = {name: doctest.testmod(pkgutil.resolve_name(name)) for name in names}
    assert [name for name, result in results.items() if result.failed] == []
    assert sum(result.attempted for result in results.values()) >= 14


def commands() -> list[str]:
    found = []
    for page in [*PAGES, *(ROOT / "conf").rglob("*.yaml")]:
        found += re.findall(
            r"python (train\.py(?: -m)?(?: (?:'[^'\n]*'|[\w.=/\[\],+-]+))*)", page.read_text(encoding="utf-8")
        )
    return sorted({command for command in found if " -" not in command.replace(" -m", "")})


@pytest.mark.parametrize("command", commands())
def test_commands_compose(command: str) -> None:
    words = [word for word in shlex.split(command)[1:] if word != "-m" and "..." not in word]
    values = [
        re.sub(r"=range\((\d+),.*|=([\w.]+),.*", r"=\1\2", word)
        for word in words
        if "=" in word and not word.startswith("hydra.")
    ]
    compose_config(*(value for value in values if not value.startswith("hydra/")))


def test_some_commands_were_found() -> None:
    assert len(commands()) >= 8


ELSEWHERE = {
    r"make (demo|test)": "the README's first commands: .ci/run and a person, on a fresh clone",
    r"eval .*-sc install=bash.*": "test_commands: shell completion",
    r"wandb (sweep|agent) .*": "test_agents",
    r"(sky|kubectl) .*": "test_clusters: the commands of the files for them; the rest needs a cloud",
    r"pip install .*": "test_wheel",
    r"export SOURCEWISE_DATA=.*": "test_loaders",
    r"python train.py --config-dir my_configs .*": "test_wheel, test_extending",
    r"export PYTHONPATH=.*": "test_extending",
}
"""Commands that are not composed here, and where they run."""


def test_every_command_in_a_box_is_tried_somewhere() -> None:
    """Those of train.py and estimate.py compose here; shortened, the same run in test_commands and the slow tests."""
    boxes = [
        box for page in PAGES for box in re.findall(r"```bash\n(.*?)```", page.read_text("utf-8"), flags=re.DOTALL)
    ]
    lines = [line.split("  #")[0].strip() for box in boxes for line in box.splitlines() if line.strip()]
    assert len(lines) > 25
    for line in lines:
        if any(re.fullmatch(pattern, line) for pattern in ELSEWHERE):
            continue
        words = shlex.split(line)
        assert words[0] == "python", line
        if words[1] == "estimate.py":
            compose_config(*(re.sub("<.*?>", "x", word) for word in words[2:]), name="estimate")
        else:
            assert words[1] == "train.py", line
            assert any(line.startswith(f"python {command}") for command in commands()), line


def run(command: list[str], folder: Path) -> str:
    """A command that is to succeed without a word on stderr but progress; what it prints."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "XDG_CACHE_HOME": str(folder / "cache")}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    run([sys.executable, "-m", "mkdocs", "build", "--quiet", "-f", str(ROOT / "mkdocs.yml"), "-d", str(tmp_path)], ROOT)
    settings = (tmp_path / "reference/settings/index.html").read_text(encoding="utf-8")
    assert "subset.seed" in settings
    assert "penalty on squares" in (tmp_path / "reference/python/index.html").read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_notebook_runs(tmp_path: Path) -> None:
    where = "runs_dir=outputs/demo/runs"
    run([interpreter(), str(ROOT / "train.py"), "-m", "subset.seed=range(0,24)", where, *TINY], tmp_path)
    notebook = nbformat.read(ROOT / "docs/notebook.ipynb", as_version=4)
    assert all(not cell.get("outputs") for cell in notebook.cells)
    NotebookClient(notebook, timeout=200, resources={"metadata": {"path": str(tmp_path)}}).execute()
    assert "24 records of characters-digits" in notebook.cells[1].outputs[0].text


@pytest.mark.slow
def test_a_users_own_folders_as_the_guide_says(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for part, classes in (("source", ("oak", "elm", "ash tree", "été")), ("target", ("leaf", "bark"))):
        for shade, name in enumerate(classes):
            folder = tmp_path / "photos" / part / name
            folder.mkdir(parents=True)
            for number in range(30):
                pixels = rng.integers(0, 100, (40, 50, 3)) + 30 * shade
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number}.jpg")
    page = (ROOT / "docs/own_data.md").read_text(encoding="utf-8")
    first, second = re.findall(r"^python (.*)$", page, flags=re.MULTILINE)[:2]
    for command in (f"{first} subset.seed=0,1,2,3,4,5", second):
        words = [word.replace("train.py", str(ROOT / "train.py")) for word in shlex.split(command)]
        words = [word.replace("estimate.py", str(ROOT / "estimate.py")) for word in words]
        printed = run([interpreter(), *words, "logger=none"], tmp_path)
    assert "models of subsets of 4 groups" in printed
    assert (tmp_path / "outputs/photos/report.html").exists()
