"""The wheel by itself: in an environment that has nothing else, away from any checkout, compilers and a home."""

import json
import os
import re
import subprocess
import sys
import sysconfig
import venv
from importlib.metadata import Distribution, distribution
from pathlib import Path

import pytest
from conftest import ROOT, TINY
from packaging.requirements import Requirement

NAMES = """
import json, shlex, sys
from pathlib import Path
from hydra import compose, initialize_config_dir
import sourcewise
from sourcewise.core import names
from sourcewise.sweep.composition import plain

with initialize_config_dir(str(Path(sourcewise.__file__).parent / "conf"), version_base="1.3"):
    configs = {text: plain(compose("train", overrides=shlex.split(text))) for text in json.loads(sys.argv[1])}
print(json.dumps({text: names.study_name(config) for text, config in configs.items()}))
"""
"""Prints the studies of overrides of train.py, both as JSON."""


def required(name: str, extras: frozenset[str], seen: dict[tuple[str, str], Distribution]) -> None:
    """Add to `seen` the distributions, as installed here, that one needs with these extras, itself among them."""
    for extra in ("", *extras):
        if (name, extra) in seen:
            continue
        seen[name, extra] = distribution(name)
        for requirement in map(Requirement, seen[name, extra].requires or ()):
            if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
                required(requirement.name, frozenset(requirement.extras), seen)


def link_requirements(wheel_environment: Path) -> None:
    """Give an environment what the wheel needs and nothing else, as links to what this environment has.

    `pip install` of the same packages takes minutes, and what an index serves on a day is not tested here.
    """
    here = Path(sysconfig.get_path("purelib"))
    (there,) = wheel_environment.glob("lib/python*/site-packages")
    seen: dict[tuple[str, str], Distribution] = {}
    required("sourcewise", frozenset(), seen)
    installed = {item.metadata["Name"]: item for item in seen.values() if item.metadata["Name"] != "sourcewise"}
    tops = {file.parts[0] for item in installed.values() for file in item.files or ()} - {"..", "__pycache__"}
    for top in tops:
        if not (there / top).exists():
            (there / top).symlink_to(here / top)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_wheel_works_in_an_empty_environment(tmp_path: Path) -> None:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "WANDB"))}
    environment = kept | {"OMP_NUM_THREADS": "1", "XDG_CACHE_HOME": str(tmp_path / "cache")}
    # No compiler, no caches, and a home that even root cannot make; the folder of the work and that of temporary files
    # can be written to.
    (tmp_path / "temporary").mkdir()
    bare = {"OMP_NUM_THREADS": "1", "PATH": str(tmp_path / "venv/bin"), "HOME": str(Path(os.devnull, "home"))}
    bare["TMPDIR"] = str(tmp_path / "temporary")

    def run(*command: str | Path, environment: dict[str, str] = environment, quiet: bool = False) -> str:
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert "Warning" not in done.stderr
        # A sweep says how far it is, and where its runs are.
        said = [line for line in done.stderr.splitlines() if not re.search(r"runs?[, ]|^to estimate|^ *$", line)]
        assert not quiet or said == []
        return done.stdout

    wheels = tmp_path / "wheels"
    run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", wheels, ROOT)
    (wheel,) = wheels.glob("sourcewise-*.whl")
    venv.create(tmp_path / "venv", with_pip=True)
    link_requirements(tmp_path / "venv")
    there = tmp_path / "venv/bin"
    run(there / "pip", "install", "--quiet", "--disable-pip-version-check", "--no-index", wheel)
    run(there / "pip", "check")
    golden = json.loads((ROOT / "tests/core/golden_studies.json").read_text())
    assert json.loads(run(there / "python", "-c", NAMES, json.dumps(list(golden)))) == golden
    train = (there / "sourcewise-train", "-m", "subset.seed=range(0,4)", "logger.mode=offline", *TINY[:-1])
    run(*train, environment=bare, quiet=True)
    own = tmp_path / "my_configs/experiment"
    own.mkdir(parents=True)
    (own / "wide.yaml").write_text("# @package _global_\nmodel: {width: 5}\n")
    run(there / "sourcewise-train", "--config-dir", "my_configs", "experiment=wide", "logger=none", *TINY)
    (study,) = (tmp_path / "runs").glob("*/random-3-*")
    estimate = (
        there / "sourcewise-estimate",
        f"records={study.parent}",
        "out=out",
        "logger.mode=offline",
        "figures=pdf",
    )
    printed = run(*estimate, environment=bare, quiet=True)
    assert "4 models of subsets of 36 groups" in printed
    assert (tmp_path / "out/report.html").exists()
    assert (tmp_path / "out/figures/digits-bars.pdf").read_bytes().startswith(b"%PDF")
    assert (tmp_path / "runs/wandb").is_dir()
