"""How many runs a line is: an experiment's ranges with every design, without starting a command."""

from typing import Any

import pytest
from conftest import ROOT
from hydra import initialize_config_dir
from hydra._internal.callbacks import Callbacks
from hydra.core.global_hydra import GlobalHydra
from hydra.types import HydraContext, RunMode

DESIGNS = {
    "subset=full": 1,
    "subset=listed subset.drop=[a],[b]": 2,
    "subset=ranked subset.ranking=r.csv subset.order=worst,best,random subset.remove=range(0,5,2)": 9,
    "subset=random": 0,
    "subset=hadamard": 0,
    "subset=replicated": 0,
}
"""Lines that choose a design, and their runs; 0: as many as the experiment's own range over subset seeds."""

PLACES = "source.root=s target.imagefolder.root=t"
EXPERIMENTS = {
    "experiment=demo": 96,
    f"experiment=folders {PLACES}": 64,
    "experiment=photographs source.root=s": 128,
    "experiment=imagenet_paper": 7540,
}


def jobs(line: str) -> list[list[str]]:
    """The jobs that the sweeper hands to its launcher."""

    class Launcher:
        def launch(self, batch: list[list[str]], initial_job_idx: int) -> list[list[str]]:
            return batch

    words = line.split()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        from sourcewise.sweep.sweeper import SourcewiseSweeper  # after Hydra has looked for plugins, which imports anew

        hydra = GlobalHydra.instance().hydra
        assert hydra is not None
        config = hydra.compose_config("train", words, run_mode=RunMode.MULTIRUN, with_log_configuration=False)
        sweeper: Any = SourcewiseSweeper(config.hydra.sweeper.params, config.hydra.sweeper.also)
        sweeper.hydra_context = HydraContext(hydra.config_loader, Callbacks())
        sweeper.config, sweeper.launcher = config, Launcher()
        (batch,) = sweeper.sweep(words)
    return batch


@pytest.mark.slow
@pytest.mark.parametrize("experiment", EXPERIMENTS)
@pytest.mark.parametrize("design", DESIGNS)
def test_a_design_on_the_line_is_as_many_runs_as_it_says(experiment: str, design: str) -> None:
    own = DESIGNS[design] or EXPERIMENTS[experiment]
    assert len(jobs(f"{experiment} {design}")) == own
    assert len(jobs(f"{experiment} {design} seed=range(0,5)")) == 5 * own
    if not DESIGNS[design]:
        assert len(jobs(f"{experiment} {design} subset.seed=0,1")) == 2


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_two_models_of_the_full_source_go_before_an_experiments_own_range(experiment: str) -> None:
    batch = jobs(f"{experiment} source.pretraining.epochs=1")
    assert [job[:3] for job in batch[:2]] == [
        ["subset=full", f"seed={seed}", *experiment.split()[:1]] for seed in (0, 1)
    ]
    assert all("source.pretraining.epochs=1" in job for job in batch)
    assert len(batch) == 2 + EXPERIMENTS[experiment]
    assert len(jobs(f"{experiment} subset.seed=range(0,5)")) == 5
    assert len(jobs(f"{experiment} seed=3")) == EXPERIMENTS[experiment]


@pytest.mark.parametrize(
    ("line", "runs"),
    [
        ("", 3 * 7 * 5),
        ("subset=ranked", 3 * 7 * 5),
        ("subset.ranking=r.csv subset.remove=1,2", 3 * 2 * 5),
        ("subset=full", 5),  # though its settings of a ranking are an error when the runs are composed
        ("subset=listed subset.drop=[a] seed=0", 1),
    ],
)
def test_the_counterfactual_experiment(line: str, runs: int) -> None:
    assert len(jobs(f"experiment=counterfactual {line}")) == runs
