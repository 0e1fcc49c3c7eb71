"""What an estimate of the paper's size costs, from a folder of records to the page.

    OMP_NUM_THREADS=1 python benchmarks/estimate_paper.py             # 7,540 records: writes 1.8 GB, minutes
    OMP_NUM_THREADS=1 python benchmarks/estimate_paper.py --small     # 300 records of a tenth of the examples

Records are made up: halves of 1,000 groups, two targets of 10,000 and 3,669 examples, and two full runs with mappings.
The logit of an example is that of its class, to which all groups add a little and a twentieth of them more, and noise
of its class and of its own. Prints the CPU seconds and the peak memory of `estimate.py`, a process of its own, beside
what reading alone takes. On two cores that two or three other processes shared, the full size took 167 to 171 CPU
seconds and 2.2 GiB, 21 to 24 of these seconds for reading. With more threads than free cores, those of the linear
algebra wait busily for each other, which counts as CPU seconds too.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from hydra import compose, initialize_config_dir
from numpy.typing import NDArray
from scipy.special import expit

from sourcewise.core import names
from sourcewise.designs import draw
from sourcewise.records import record
from sourcewise.records.record import Header, Record, TargetOutputs
from sourcewise.sweep.composition import plain

ROOT = Path(__file__).parents[1]
GROUPS = 1000
TARGETS = {"cifar10": (10, 10_000), "pets": (37, 3_669)}
"""Classes and test examples of each target."""


class Target:
    """A target whose outputs are made up, and what groups do to it."""

    def __init__(self, classes: int, examples: int, rng: np.random.Generator) -> None:
        self.classes, self.labels = classes, np.sort(rng.integers(0, classes, examples)).astype(np.int32)
        self.effects = rng.normal(0, np.where(rng.random((classes, GROUPS)) < 0.05, 0.1, 0.02))
        self.loading, self.base = rng.uniform(0.5, 1.5, examples), rng.normal(1, 1.5, examples)

    def outputs(self, mask: NDArray[np.bool_], rng: np.random.Generator) -> TargetOutputs:
        """Return what one model says."""
        of_class = self.effects @ (mask - 0.5) + rng.normal(0, 0.1, self.classes)
        margin = self.base + self.loading * of_class[self.labels] + rng.normal(0, 0.4, len(self.labels))
        wrong = (self.labels + 1) % self.classes
        mappings: dict[str, Any] = {}
        if mask.all():
            noisy = self.effects + rng.normal(0, 0.03, self.effects.shape)
            mappings = {name: noisy.astype(np.float32) for name in ("label_mapping", "feature_mapping")}
        return TargetOutputs(
            ids=np.arange(len(margin), dtype=np.int32),
            labels=self.labels,
            prediction=np.where(margin > 0, self.labels, wrong).astype(np.int32),
            prob=expit(margin).astype(np.float16),
            margin=margin.astype(np.float16),
            **mappings,
        )


def write_records(folder: Path, models: int, scale: int) -> None:
    """Write the records of a made-up study: `models` random halves and two full runs."""
    rng = np.random.default_rng(0)
    targets = {name: Target(classes, size // scale, rng) for name, (classes, size) in TARGETS.items()}
    group_names = [f"class {group:04}" for group in range(GROUPS)]
    class_names = {name: [f"{name} {label}" for label in range(target.classes)] for name, target in targets.items()}
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        overrides = ["source=imagenet", f"target=[{','.join(targets)}]", "model=torchvision", f"runs_dir={folder}"]
        base = plain(compose("train", overrides))
    datasets = ["imagenet", *(f"{name}/{part}" for name in targets for part in ("train", "test"))]
    subsets = [{**base["subset"], "seed": seed} for seed in range(models)]
    runs = [(subset, 0) for subset in subsets] + [({"design": "full"}, seed) for seed in range(2)]
    for subset, seed in runs:
        resolved = {**base, "subset": subset, "seed": seed}
        mask = draw(group_names, subset)
        header = Header.from_config(
            resolved,
            group_names=group_names,
            class_names=class_names,
            fingerprints=dict.fromkeys(datasets, "0"),
            metrics={f"target/{name}/score": 0.5 for name in targets},
            versions={"sourcewise": "0"},
            commit=None,
            device="cpu",
            seconds={"pretraining": 1.0},
            random_design=subset["design"] == "random",
        )
        outputs = {name: target.outputs(mask, rng) for name, target in targets.items()}
        path = names.run_dir(resolved) / "record.safetensors"
        path.parent.mkdir(parents=True)
        path.write_bytes(record.to_bytes(Record(mask, outputs, header)))


def measure(*command: str) -> tuple[float, float, float]:
    """Run a command; return its CPU seconds, its wall seconds, and its peak memory so far among children, GiB."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([sys.executable, *command], cwd=ROOT, check=True, stdout=subprocess.DEVNULL, env=os.environ)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return used, time.perf_counter() - start, after.ru_maxrss / 2**20


def main() -> None:
    """Make the records if they are not there, measure, and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="300 records of a tenth of the examples")
    parser.add_argument(
        "--out", type=Path, default=ROOT / "outputs/estimate_paper", help="a folder for records and page"
    )
    parser.add_argument("--keep", action="store_true", help="leave the records there")
    options = parser.parse_args()
    runs = options.out.resolve() / ("small" if options.small else "runs")
    if not runs.exists():
        write_records(runs, *((300, 10) if options.small else (7538, 1)))
    reading = "from sourcewise.records.reading import Records; import sys; [None for _ in Records(sys.argv[1])]"
    estimate = ["estimate.py", f"records={runs}", f"out={options.out.resolve() / 'page'}", "logger=none"]
    for name, command in (("reading alone", ["-c", reading, str(runs)]), ("estimate.py", estimate)):
        used, wall, memory = measure(*command)
        print(f"{name:14} {used:6.0f} CPU s, {wall:6.0f} s, peak {memory:.2f} GiB", flush=True)
    if not options.keep:
        shutil.rmtree(runs)


if __name__ == "__main__":
    main()
