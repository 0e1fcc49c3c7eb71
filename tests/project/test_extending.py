"""docs/extending.md: its files, written to a folder, and its commands, run there on tiny models."""

import json
import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest
from conftest import ROOT, TINY
from warm_python import interpreter

from sourcewise.records import record

pytestmark = pytest.mark.slow

PAGE = (ROOT / "docs/extending.md").read_text(encoding="utf-8")


def boxes(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, flags=re.DOTALL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all files of the page."""
    folder = tmp_path_factory.mktemp("extending")
    for box in boxes("python") + boxes("yaml"):
        name, _, _ = box.removeprefix("# ").partition("\n")
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(box, encoding="utf-8")
    return folder


def run(line: str, folder: Path) -> str:
    """What a command of the page prints, run beside its files, away from the checkout, on tiny models."""
    _, script, *arguments = shlex.split(line)
    if script == "train.py":
        replaced = [part for part in ("transfer", "logger") if any(word.startswith(f"{part}=") for word in arguments)]
        arguments += [word for word in TINY if not word.startswith(tuple(replaced or ["none"]))]
        arguments += [word.replace("range(0,64)", "range(0,6)") for word in arguments if "range(" in word]
    else:
        arguments += ["logger=none"]
    environment = {**os.environ, "PYTHONPATH": f"{folder}:{os.environ.get('PYTHONPATH', '')}", "OMP_NUM_THREADS": "1"}
    command = [interpreter(), str(ROOT / script), *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def command(section: str) -> str:
    """The command of a section of the page."""
    (box,) = re.findall(r"```bash\n(.*?)```", PAGE.partition(f"## {section}\n")[2].partition("\n## ")[0], re.DOTALL)
    return str(box).strip()


@pytest.mark.timeout(900)
def test_a_design_and_an_estimator(folder: Path) -> None:
    run(command("A design"), folder)
    (study,) = (folder / "runs").iterdir()
    records = [record.read(path) for path in study.glob("*/record.safetensors")]
    assert len(records) == 6
    assert len({result.mask.sum() for result in records}) > 1, "the sizes of subsets vary"
    printed = run(command("An estimator"), folder)
    assert "6 models of subsets of 36 groups" in printed
    assert "estimator shrunken" in printed
    summary = json.loads((folder / "outputs/shrunken/summary.json").read_text(encoding="utf-8"))
    assert "shrunken" in json.dumps(summary)


def test_a_transfer_mode(folder: Path) -> None:
    assert "target/digits/accuracy" in run(command("A transfer mode"), folder)
    (study,) = (folder / "runs").glob("*-nearestmean-*")
    (path,) = study.glob("*/record.safetensors")
    accuracy = record.read(path).header.metrics["target/digits/accuracy"]
    assert accuracy > 0.3, "ten classes: chance is 0.1"


def test_a_dataset(folder: Path) -> None:
    assert "target/shapes/accuracy" in run(command("A dataset"), folder)
    (study,) = (folder / "runs").glob("*-digits+shapes-*")
    (path,) = study.glob("*/record.safetensors")
    result = record.read(path)
    assert result.header.class_names["shapes"] == ["square", "cross"]
    assert len(result.targets["shapes"].ids) == 200


def test_a_metric(folder: Path) -> None:
    printed = run(command("A metric"), folder)
    metrics = dict(re.findall(r"(target/digits/\w+) +([\d.]+)", printed))
    assert metrics["target/digits/score"] == metrics["target/digits/worst_class"]
    assert float(metrics["target/digits/worst_class"]) <= float(metrics["target/digits/mean_per_class"])


def test_a_logger(folder: Path) -> None:
    run(command("A logger"), folder)
    lines = [json.loads(line) for line in (folder / "runs.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len({line["run"] for line in lines}) == 1
    assert any("source/train/epoch" in line for line in lines)
    assert "target/digits/accuracy" in lines[-1]


def test_every_section_of_a_kind_is_tested() -> None:
    sections = re.findall(r"^## (.+)$", PAGE, flags=re.MULTILINE)
    tests = {name.removeprefix("test_").replace("_", " ") for name in globals() if name.startswith("test_a_")}
    assert {words for test in tests for words in test.split(" and ")} == {section.lower() for section in sections}
