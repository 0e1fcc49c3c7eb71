"""What another target costs with kept source models, and without: the demo's runs, one at a time, on the CPU.

    python benchmarks/kept_models.py

The first sweep keeps its models. The second transfers them to one more target, a third pretrains for both targets anew.
Reading times are those of a ResNet-9 too: its file is written and read 20 times.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np

from sourcewise.core import names
from sourcewise.records import record
from sourcewise.records.source_models import Header
from sourcewise.training import kept
from sourcewise.training.models import resnet9

ROOT = Path(__file__).parents[1]
ONE_AT_A_TIME = ("logger=none", "hydra.launcher.slots=1")
ANOTHER = "+target.second=${target.digits}"


def sweep(folder: Path, models: int, *settings: str) -> float:
    """Return the seconds that a sweep takes, its start included."""
    command = [sys.executable, "train.py", "-m", f"subset.seed=range(0,{models})", f"runs_dir={folder}", *ONE_AT_A_TIME]
    start = time.perf_counter()
    subprocess.run([*command, *settings], cwd=ROOT, check=True, capture_output=True)
    return time.perf_counter() - start


def stages(folder: Path) -> dict[str, float]:
    """Return the median seconds of each stage of the runs in a folder."""
    seconds = [record.read(path).header.seconds for path in folder.glob(f"*second*/*/{names.RECORD}")]
    return {stage: median(run[stage] for run in seconds) for stage in seconds[0]}


def print_reading(folder: Path) -> None:
    """Print the size of a ResNet-9's file, and the median time to read it."""
    network, path, mask = resnet9(channels=3, classes=10), folder / names.MODEL, np.ones(10, bool)
    for dtype in kept.DTYPES:
        header = Header("", {}, {"design": "full"}, 0, 10, None, "", dtype)
        header = Header(**{**vars(header), "recipe": names.fingerprint({})})
        kept.keep(path, network, mask, header)
        times = []
        for _ in range(20):
            start = time.perf_counter()
            kept.restore(path, network, mask, header)
            times.append(time.perf_counter() - start)
        print(f"ResNet-9 in {dtype}: {path.stat().st_size / 1e6:.1f} MB, read in {1000 * median(times):.0f} ms")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=int, default=12)
    parser.add_argument("settings", nargs="*", help="further settings, such as model=resnet9")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        sweep(folder / "kept", options.models, "keep_model=float32", *options.settings)
        model = next((folder / "kept").glob(f"*/*/{names.MODEL}"))
        print(f"a kept model: {model.stat().st_size / 1e3:.0f} kB")
        for name, runs in (("from kept models", "kept"), ("pretrained anew", "anew")):
            total = sweep(folder / runs, options.models, ANOTHER, *options.settings)
            shown = ", ".join(f"{stage} {1000 * value:.0f} ms" for stage, value in stages(folder / runs).items())
            print(f"{options.models} runs {name}: {total:.1f} s with the start; {shown}")
        print_reading(folder)


if __name__ == "__main__":
    main()
