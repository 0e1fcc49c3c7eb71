"""Every command that the product prints can be pasted into bash, and does what the text beside it says."""

import html
import json
import os
import re
import shlex
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ROOT, TINY
from PIL import Image
from warm_python import interpreter

from sourcewise.core.names import RECORD

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

COMMAND = re.compile(
    r"(?:python (?:train|estimate)\.py|sourcewise-(?:train|estimate))(?: (?:.*\\\n)*.*)?$", re.MULTILINE
)
SUBSETS = 20
"""Random subsets that a proposal of groups to remove needs."""
CLASSES = ("sea lion", "07", "true", "it's", "a,b", "f", "g", "h", "i", "j", "k", "l")
"""Names that a shell or Hydra's grammar would misread without quotes, and some that they would not."""
PLACES = ("source.root='my photos/source'", "target.imagefolder.root='my photos/target'")
SMALL = ("side=32", "format=raw")
TORCHVISION = (
    "source=imagefolder",
    "target=[imagefolder]",
    *PLACES,
    *(f"source.train.{setting}" for setting in SMALL),
    "source.crop=null",
    "source.resolution=null",
    "source.pretraining.epochs=1",
    "source.pretraining.batch_size=32",
    "source.pretraining.lr=0.001",
    *(f"target.imagefolder.train.{setting}" for setting in SMALL),
    "target.imagefolder.train.dataset.folder=''",
    "target.imagefolder.train.per_class=10",
    "target.imagefolder.test.dataset.folder=''",
    "target.imagefolder.test.per_class=10",
    "target.imagefolder.test.rest=true",
    "target.imagefolder.resolution=null",
    "model=torchvision",
    "model.name=squeezenet1_0",
    "transfer.epochs=2",
    "transfer.lr=0.01",
    "study=net",
)
DEFAULT = tuple(override for override in TINY if override != "logger=none")


@dataclass(frozen=True)
class Shell:
    """A bash in the folder of a user, who has train.py and estimate.py there and no W&B login."""

    folder: Path
    texts: list[str] = field(default_factory=list)
    """What the commands have printed."""

    def __call__(self, line: str, status: int = 0) -> str:
        """Return what a line printed on both streams; it must end with this exit status."""
        clean = {name: value for name, value in os.environ.items() if not name.startswith("WANDB")}
        paths = {"PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}", "NETRC": os.devnull, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            ["bash", "-c", line], cwd=self.folder, env={**clean, **paths}, capture_output=True, text=True, timeout=500
        )
        assert done.returncode == status, f"{line}\n{done.stderr}"
        self.texts.append(f"{done.stdout}\n{done.stderr}")
        return self.texts[-1]

    def status(self, line: str) -> tuple[list[str], int]:
        """Return the folders of studies and the number of runs that a sweep would be of, without running any."""
        lines = self(f"{line} hydra.launcher.status=true logger=none").splitlines()
        counts = [int(match[1]) for text in lines if (match := re.fullmatch(r"  [a-z]+ +(\d+)", text))]
        return [text for text in lines if text.startswith(("runs/", "outputs/"))], sum(counts)

    def studies(self, runs: str = "runs") -> list[str]:
        """Return the folders of studies that have records."""
        return sorted(
            {str(path.parents[1].relative_to(self.folder)) for path in self.folder.glob(f"{runs}/*/*/{RECORD}")}
        )


def shell_beside_folders(tmp_path: Path) -> Shell:
    """Return a shell beside two folders of small images."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").symlink_to(interpreter())
    for program in ("train.py", "estimate.py"):
        (tmp_path / program).symlink_to(ROOT / program)
    rng = np.random.default_rng(0)
    for part, classes, count in (("source", CLASSES, 20), ("target", ("x", "y", "z"), 30)):
        for place, name in enumerate(classes):
            folder = tmp_path / "my photos" / part / name
            folder.mkdir(parents=True)
            for number in range(count):
                noise = rng.integers(0, 160, (16, 16, 3)) + 90 * (place >> np.arange(3) & 1)
                Image.fromarray(noise.astype(np.uint8)).save(folder / f"{number}.png")
    return Shell(tmp_path)


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return shell_beside_folders(tmp_path)


def printed(text: str) -> dict[str, list[str]]:
    """Return the commands in a text as they stand there, each once, with their words."""
    return {match[0]: shlex.split(match[0].replace("\\\n", " ")) for match in COMMAND.finditer(text)}


def strings(node: Any) -> Iterator[str]:
    """Return all text in a JSON document."""
    if isinstance(node, str):
        yield node
    elif isinstance(node, list | dict):
        for item in node.values() if isinstance(node, dict) else node:
            yield from strings(item)


def written(out: Path) -> str:
    """Return the text of a report and of its summary, without markup."""
    page = html.unescape(re.sub(r"<[^>]*>", "\n", (out / "report.html").read_text()))
    return "\n".join([page, *strings(json.loads((out / "summary.json").read_text()))])


def length(words: Sequence[str]) -> int:
    """Return how many different runs the ranges and lists of a command stand for. Nothing removed is one subset."""

    def values(name: str) -> list[str]:
        (value,) = [word.partition("=")[2] for word in words if word.startswith(f"{name}=")] or ["none"]
        if ends := re.fullmatch(r"range\((\d+),(\d+)\)", value):
            return list(map(str, range(int(ends[1]), int(ends[2]))))
        return re.findall(r"\[[^]]*\]|[^,]+", value)

    subsets = {
        ("" if removed == "0" else order, removed)
        for order in values("subset.order")
        for removed in values("subset.remove")
    }
    return len(subsets) * prod(len(values(name)) for name in ("seed", "subset.seed", "subset.drop"))


def typed(*overrides: str) -> str:
    """Return a command that a user types to start with."""
    return shlex.join(["python", "train.py", "-m", *overrides, "logger=none"])


def shortened(line: str, was: str, instead: str) -> str:
    """Return a command of fewer runs, without a tracker."""
    assert line.count(was) == 1, line
    return f"{line.replace(was, instead)} logger=none"


def spelled(word: str) -> str:
    """Return an override in one of the spellings of its value."""
    return word.replace("'", '"').replace("=True", "=true")


def the_one(commands: dict[str, list[str]], word: str) -> str:
    """Return the only command with a word."""
    (line,) = {tuple(words): line for line, words in commands.items() if word in words}.values()
    return line


def check_all(shell: Shell, commands: dict[str, list[str]], recipe: Sequence[str], groups: int) -> set[str]:
    """Check every command that trains: its recipe, its study and its number of runs. Return the designs of them."""
    (study,) = shell.studies()
    designs, seen = set(), set()
    for line, words in commands.items():
        if words[1] != "train.py" or tuple(words) in seen:
            continue
        seen.add(tuple(words))
        assert not re.search(r"\.\.\.|<\w+>|with the overrides", line), line
        assert set(map(spelled, recipe)) <= set(map(spelled, words)), line
        places, count = shell.status(line)
        assert count == length(words), line
        if "source.groups=example" in words:  # other groups are another study
            assert len(places) == 1, line
            assert places[0].startswith("runs/"), line
            assert places != [study], line
            designs.add("example")
            continue
        assert places == [study], line
        for word in words:
            if word.startswith("subset.remove="):
                assert all(0 <= int(number) < groups for number in word.partition("=")[2].split(",")), line
        designs.add(next(word.partition("=")[2] for word in words if word.startswith("subset=")))
    return designs


def test_the_embedded_default(shell: Shell) -> None:
    sweep = typed(*DEFAULT, f"subset.seed=range(0,{SUBSETS})")
    (missing,) = printed(shell(f"{sweep} hydra.launcher.status=true"))
    shell(missing)
    error = shell("python estimate.py records=runs out=outputs/first curate=true logger=none", status=2)
    (more,) = printed(error)
    assert check_all(shell, printed(error), DEFAULT, 36) == {"full"}
    shell(shortened(more, "range(0,5)", "0,1"))
    text = shell("python estimate.py records=runs out=outputs/first curate=true remove=2 logger=none")
    commands = printed(f"{text}\n{written(shell.folder / 'outputs/first')}")
    assert check_all(shell, commands, DEFAULT, 36) >= {"full", "ranked", "replicated", "example"}
    verify = next(line for line in printed(text) if "subset=ranked" in line)  # in the terminal: over several lines
    shell(shortened(verify, "range(0,20)", "0,1"))
    assert len(shell.studies()) == 1
    again = the_one(commands, "curate=true")
    assert "Verified on" not in text
    assert "Verified on" in shell(again)
    full = the_one(commands, "seed=range(0,10)")
    assert shell(shortened(full, "range(0,10)", "0,1")).count("2 of 2 runs are done already") == 1


def test_a_torchvision_model(shell: Shell) -> None:
    shell(typed(*TORCHVISION, f"subset.seed=range(0,{SUBSETS})"))
    shell("python estimate.py records=runs out=outputs/plain logger=none")
    commands = printed(written(shell.folder / "outputs/plain"))
    assert any({"subset=ranked", "subset.order=worst,best,random"} <= set(words) for words in commands.values())
    assert check_all(shell, commands, TORCHVISION, len(CLASSES)) >= {"full", "ranked", "replicated"}


@pytest.mark.parametrize("experiment", [("experiment=demo",), ("experiment=folders", *PLACES)])
def test_an_experiment_with_another_design_is_as_many_runs_as_its_line_says(
    experiment: Sequence[str], shell: Shell
) -> None:
    start = shlex.join(["python", "train.py", "-m", *experiment])
    (shell.folder / "ranking.csv").write_text("group,score\n" + "".join(f"{name},1\n" for name in "fghijkl"))
    ranked = "subset=ranked subset.ranking=ranking.csv subset.order=worst,best,random subset.remove=0,2,4"
    assert shell.status(f"{start} subset=full 'seed=range(0,5)'")[1] == 5
    assert shell.status(f"{start} subset=listed 'subset.drop=[f],[g]'")[1] == 2
    assert shell.status(f"{start} {ranked} 'seed=range(0,5)'")[1] == (1 + 3 * 2) * 5


def test_a_range_that_the_chosen_design_has_no_setting_for_is_one_clear_line(shell: Shell) -> None:
    text = shell("python train.py -m experiment=counterfactual subset=full", status=2).strip()
    assert len(text.splitlines()) == 1, text
    assert "subset." in text


def test_the_examples_of_help(shell: Shell) -> None:
    lines = [
        line.strip() for line in shell("python train.py --help").splitlines() if line.startswith("  python train.py ")
    ]
    examples = [re.split(r"  +", line)[0].replace(" -m", "") for line in lines]
    assert [shell.status(line.replace("train.py", "train.py -m"))[1] for line in examples] == [1, 96, 1]
