"""What another target costs with kept source models: runs of a study in this process, as a worker of a sweep does them.

    python benchmarks/kept_models.py                       # 96 source models of the demo, about ten minutes
    python benchmarks/kept_models.py --runs 5 --another transfer.lr=0.1 experiment=photographs

Each run of the study pretrains, keeps its source model, and transfers it; then another run transfers the kept model to
another target. Times are medians of CPU milliseconds, which depend less than wall time on what else the machine does.
The last line should be 1.2 at most: the run from a kept model, less what any run costs besides its stages, over the
transfer stage of ordinary runs. A ResNet-9's file is written and read too.
"""

import argparse
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from typing import Any
from unittest import mock

import numpy as np
from hydra import compose, initialize_config_dir

from sourcewise.commands.cli import CONFIGS
from sourcewise.commands.train import train
from sourcewise.core import names
from sourcewise.records.source_models import Header
from sourcewise.sweep.composition import plain
from sourcewise.training import kept
from sourcewise.training.models import resnet9
from sourcewise.training.run import Run

Times = dict[str, list[float]]
STAGES = ((Run, "pretrain"), (Run, "transfer"), (kept, "keep"), (kept, "restore_first"))


@contextmanager
def timed(times: Times, name: str) -> Iterator[None]:
    """Add the block's CPU milliseconds to the times of this name."""
    start = time.process_time()
    yield
    times[name].append(1000 * (time.process_time() - start))


def run(config: dict[str, Any]) -> Times:
    """Do a run; return the times of all of it, `run`, and of its stages."""
    times: Times = defaultdict(list)

    def watched(name: str, function: Any) -> Any:
        def call(*arguments: Any, **settings: Any) -> Any:
            with timed(times, name):
                return function(*arguments, **settings)

        return call

    with ExitStack() as stack:
        for place, name in STAGES:
            stack.enter_context(mock.patch.object(place, name, watched(name, getattr(place, name))))
        with timed(times, "run"):
            train(config)
    return times


def config(folder: Path, seed: int, *settings: str, **top: Any) -> dict[str, Any]:
    """Return the config of a run on one subset, with records below the folder."""
    line = ["logger=none", *settings, f"subset.seed={seed}", f"runs_dir={folder}"]
    return {**plain(compose("train", overrides=line)), **top}


def study(runs: int, settings: list[str], another: str) -> dict[str, float]:
    """Return the median times of ordinary runs and of runs from kept models, after one of each to warm up."""
    columns: Times = defaultdict(list)
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(runs + 1):
            ordinary = run(config(Path(folder), seed, *settings, keep_model="float32"))
            from_kept = run(config(Path(folder), seed, *settings, another))
            assert "pretrain" in ordinary
            assert "pretrain" not in from_kept
            if not seed:
                continue
            stages = {name: sum(ordinary[name]) for name in ("pretrain", "transfer", "keep")}
            columns["pretraining"].append(stages["pretrain"])
            columns["transfer"].append(stages["transfer"])
            columns["an empty run"].append(sum(ordinary["run"]) - sum(stages.values()))
            columns["a run from a kept model"].append(sum(from_kept["run"]))
            columns["of it reading the model"].append(sum(from_kept["restore_first"]))
            columns["of it transfer"].append(sum(from_kept["transfer"]))
    return {name: median(values) for name, values in columns.items()}


def reading() -> dict[str, float]:
    """Return the median times to read and verify the file of a ResNet-9."""
    network, mask, times = resnet9(channels=3, classes=10), np.ones(10, bool), defaultdict(list)
    with tempfile.TemporaryDirectory() as folder:
        for dtype in kept.DTYPES:
            path = Path(folder, names.MODEL)
            header = Header(names.fingerprint({}), {}, {"design": "full"}, 0, 10, None, "", dtype)
            kept.keep(path, network, mask, header)
            for _ in range(20):
                with timed(times, f"a ResNet-9 in {dtype}, {path.stat().st_size / 1e6:.0f} MB, read"):
                    kept.restore(path, network, mask, header)
    return {name: median(values) for name, values in times.items()}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=96)
    parser.add_argument("--another", default="target.digits.train.per_class=6", help="the setting of the other target")
    options, settings = parser.parse_known_args()
    with initialize_config_dir(CONFIGS, version_base="1.3"):
        times = study(options.runs, settings, options.another)
    for name, value in {**times, **reading()}.items():
        print(f"{name:<52} {value:8.1f} ms")
    ratio = (times["a run from a kept model"] - times["an empty run"]) / times["transfer"]
    print(f"{'(a run from a kept model - an empty run) / transfer':<52} {ratio:8.2f}")


if __name__ == "__main__":
    sys.exit(main())
