"""What cached features save: transfer to three targets with a fixed backbone, against running it in every epoch.

    python benchmarks/transfer.py

The same source model and the same targets (the digits three times, 50 training examples a class) on both sides; the
second side's training images pass through an augmentation that changes nothing, which forbids the cache. The sides take
turns, and medians over rounds are reported.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

from sourcewise.records import record

ROOT = Path(__file__).parents[1]
TARGETS = ("digits", "second", "third")
SETTINGS = (
    "logger=none",
    "source.pretraining.epochs=3",
    "target.digits.train.per_class=50",
    "target.digits.test.per_class=50",
    "+target.second=${target.digits}",
    "+target.third=${target.digits}",
)
NOTHING = "target.digits.augmentation=[{_target_: sourcewise.lightning_modules.augmentation.Translate, pixels: 0}]"


def transfer(folder: Path, *settings: str) -> tuple[float, list[float]]:
    """Seconds of the transfer to all targets, and the accuracy on each."""
    command = [sys.executable, "train.py", f"runs_dir={folder}", *SETTINGS, *settings]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (path,) = folder.glob("*/*/record.safetensors")
    header = record.read(path).header
    return (
        sum(header.seconds[f"transfer/{name}"] for name in TARGETS),
        [header.metrics[f"target/{name}/accuracy"] for name in TARGETS],
    )


def main() -> None:
    """Print the medians, their ratio and the accuracies."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument(
        "--model", default="resnet9", help="small_cnn: the demo's, so small that steps cost what it costs"
    )
    options = parser.parse_args()
    seconds: dict[str, list[float]] = {"cached features": [], "backbone in every epoch": []}
    accuracies = {}
    with tempfile.TemporaryDirectory() as folder:
        for round_ in range(options.rounds):
            for name, extra in zip(seconds, ((), (NOTHING,)), strict=True):
                place = Path(folder, f"{round_}-{name}")
                settings = (f"model={options.model}", f"transfer.epochs={options.epochs}", *extra)
                taken, accuracies[name] = transfer(place, *settings)
                seconds[name].append(taken)
    for name, taken in seconds.items():
        print(f"{name:<24} {median(taken):7.2f} s   accuracy {', '.join(f'{a:.4f}' for a in accuracies[name])}")
    cached, every = seconds.values()
    print(f"cached features are {median(every) / median(cached):.1f} times as fast (target: at least 5)")


if __name__ == "__main__":
    main()
