"""The ranges of an experiment, and another design on the command line."""

import re
from pathlib import Path

import pytest

from tests.commands.test_commands import command


@pytest.mark.slow
@pytest.mark.parametrize(
    ("line", "runs"),
    [
        ("experiment=demo", 98),
        ("experiment=demo subset=hadamard", 96),
        ("experiment=demo subset=full seed=range(0,5)", 5),
        ("experiment=demo subset=listed subset.drop=[A]", 1),
        (
            "experiment=demo subset=ranked subset.ranking=RANKING subset.order=worst,random subset.remove=0,2",
            3,
        ),  # removing none is one run
        ("experiment=demo subset.seed=range(0,3)", 3),
        ("experiment=counterfactual subset.ranking=RANKING", 95),
        ("experiment=counterfactual subset=ranked subset.ranking=RANKING", 95),
        ("experiment=folders source.root=s target.imagefolder.root=t subset=full seed=0,1", 2),
        ("experiment=photographs subset=full seed=0,1", 2),
    ],
)
def test_an_experiment_s_ranges_hold_for_designs_that_have_them(line: str, runs: int, tmp_path: Path) -> None:
    ranking = tmp_path / "ranking.csv"
    ranking.write_text("group,score\n" + "".join(f"group {i},{i}\n" for i in range(36)))
    words = line.replace("RANKING", str(ranking)).split()
    no_data = "hydra.launcher.task=sourcewise.core.names:run_dir"  # a task that does not tell what the datasets hold
    done = command("train.py", "-m", *words, no_data, "hydra.launcher.status=true", f"runs_dir={tmp_path / 'runs'}")
    assert done.returncode == 0, done.stderr
    assert re.search(r"missing +(\d+)", done.stdout).group(1) == str(runs)  # type: ignore[union-attr]
