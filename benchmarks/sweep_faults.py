"""What failures cost: wall time of a sweep in which one run in ten is killed, against the same sweep undisturbed.

    python benchmarks/sweep_faults.py

Runs of the demo (about a second each) with offline W&B. A killed run's worker gets SIGKILL after pretraining, when most
of its work is done, and the launcher does the run again. The two sweeps take turns; both must end with all records.
What the launcher and tracking cost when nothing fails: benchmarks/sweep_overhead.py.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

ROOT = Path(__file__).parents[1]
TASK = f"hydra.launcher.task={ROOT / 'tests' / 'faketask.py'}:real"


def sweep(folder: Path, runs: int, slots: int, killed: list[int]) -> float:
    """Wall time in seconds of a sweep whose runs of these seeds are killed once."""
    folder.mkdir()
    deeds = json.dumps({str(seed): "kill_once" for seed in killed})
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "DEEDS": deeds}
    settings = [f"subset.seed=range(0,{runs})", f"runs_dir={folder}", "logger.mode=offline", TASK]
    command = [sys.executable, "train.py", "-m", *settings, f"hydra.launcher.slots={slots}"]
    start = time.perf_counter()
    done = subprocess.run(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True, check=False)
    seconds = time.perf_counter() - start
    records = len(list(folder.glob("*/*/record.safetensors")))
    starts = len((folder / "starts.txt").read_text().splitlines())
    if done.returncode or records != runs or starts != runs + len(killed):
        sys.exit(f"{records} records of {runs}, {starts} starts\n{done.stderr}")
    return seconds


def main() -> None:
    """Print both times of every round and the median ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--slots", type=int, default=len(os.sched_getaffinity(0)))
    options = parser.parse_args()
    ratios = []
    with tempfile.TemporaryDirectory() as folder:
        for round_ in range(options.rounds):
            calm = sweep(Path(folder, f"{round_}-calm"), options.runs, options.slots, [])
            wild = sweep(Path(folder, f"{round_}-wild"), options.runs, options.slots, [*range(5, options.runs, 10)])
            ratios.append(wild / calm)
            print(f"round {round_ + 1}: {calm:.1f} s undisturbed, {wild:.1f} s, ratio {ratios[-1]:.2f}", flush=True)
    print(f"{options.runs} runs, {options.slots} slots, one run in ten killed: median ratio {median(ratios):.2f}")


if __name__ == "__main__":
    main()
