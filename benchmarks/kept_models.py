"""What another target costs with a kept source model, and without: the demo's runs, in this process, on the CPU.

    python benchmarks/kept_models.py                     # about a minute
    python benchmarks/kept_models.py --models 3 model=resnet9 source=photographs source.root=...

For each of a few subsets a run keeps its source model; a run of one more target transfers it, and another one pretrains
anew, in turns. Times are CPU seconds, which do not depend on what else the machine does. A ResNet-9's file is written
and read too.
"""

import argparse
import sys
import tempfile
import time
from collections import defaultdict
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


class Clock:
    """CPU milliseconds by name, of functions while they are watched."""

    def __init__(self) -> None:
        self.taken: dict[str, list[float]] = defaultdict(list)

    def watch(self, name: str, function: Any) -> Any:
        """Return the function, whose calls are timed under the name."""

        def timed(*arguments: Any, **settings: Any) -> Any:
            start = time.process_time()
            try:
                return function(*arguments, **settings)
            finally:
                self.taken[name].append(1000 * (time.process_time() - start))

        return timed

    def print(self) -> None:
        """Print the medians."""
        for name, times in self.taken.items():
            print(f"  {name:<44} {median(times):8.1f} ms")


def config(folder: Path, seed: int, *settings: str, **top: Any) -> dict[str, Any]:
    """Return the config of a run on one subset, with records below the folder."""
    line = ["logger=none", f"subset.seed={seed}", f"runs_dir={folder}", *settings]
    return {**plain(compose("train", overrides=line)), **top}


def print_reading(folder: Path) -> None:
    """Print the size of a ResNet-9's file, and the CPU time to read it."""
    network, path, mask, clock = resnet9(channels=3, classes=10), folder / names.MODEL, np.ones(10, bool), Clock()
    for dtype in kept.DTYPES:
        header = Header(names.fingerprint({}), {}, {"design": "full"}, 0, 10, None, "", dtype)
        kept.keep(path, network, mask, header)
        restore = clock.watch(f"ResNet-9, {path.stat().st_size / 1e6:.1f} MB in {dtype}, read", kept.restore)
        for _ in range(20):
            restore(path, network, mask, header)
    clock.print()


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=int, default=8)
    options, settings = parser.parse_known_args()
    clock = Clock()
    watched = {name: clock.watch(f"its stage {name}", getattr(Run, name)) for name in ("pretrain", "transfer")}
    with tempfile.TemporaryDirectory() as place, initialize_config_dir(CONFIGS, version_base="1.3"):
        folder = Path(place)
        for seed in range(options.models + 1):  # the first one warms up
            train(config(folder / "kept", seed, *settings, keep_model="float32"))
            another = ["target.digits.train.per_class=6", *settings]
            with mock.patch.multiple(Run, **watched) if seed else mock.MagicMock():
                for name, runs in (("a run from a kept model", "kept"), ("a run that pretrains", f"anew-{seed}")):
                    (clock.watch(name, train) if seed else train)(config(folder / runs, seed, *another))
        print(f"{options.models} runs of {' '.join(['the demo', *settings])}; medians")
        clock.print()
        print_reading(folder)


if __name__ == "__main__":
    sys.exit(main())
