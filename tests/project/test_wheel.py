"""The wheel by itself: in an environment that has nothing else, away from any checkout."""

import json
import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest
from conftest import ROOT, TINY

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


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_wheel_works_in_an_empty_environment(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "WANDB"))}
    environment |= {"OMP_NUM_THREADS": "1", "XDG_CACHE_HOME": str(tmp_path / "cache")}

    def run(*command: str | Path) -> str:
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert "Warning" not in done.stderr
        return done.stdout

    wheels = tmp_path / "wheels"
    run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", wheels, ROOT)
    (wheel,) = wheels.glob("sourcewise-*.whl")
    venv.create(tmp_path / "venv", with_pip=True)
    there = tmp_path / "venv/bin"
    run(there / "pip", "install", "--quiet", "--disable-pip-version-check", wheel)
    golden = json.loads((ROOT / "tests/core/golden_studies.json").read_text())
    assert json.loads(run(there / "python", "-c", NAMES, json.dumps(list(golden)))) == golden
    run(there / "sourcewise-train", "-m", "subset.seed=range(0,4)", "logger.mode=offline", *TINY[:-1])
    own = tmp_path / "my_configs/experiment"
    own.mkdir(parents=True)
    (own / "wide.yaml").write_text("# @package _global_\nmodel: {width: 5}\n")
    run(there / "sourcewise-train", "--config-dir", "my_configs", "experiment=wide", "logger=none", *TINY)
    (study,) = (tmp_path / "runs").glob("*/random-3-*")
    printed = run(there / "sourcewise-estimate", f"records={study.parent}", "out=out", "logger=none")
    assert "4 models of subsets of 36 groups" in printed
    assert (tmp_path / "out/report.html").exists()
