"""What failures cost: wall time of a sweep in which one run in ten is killed, against the same sweep undisturbed.

    python benchmarks/sweep_faults.py

Runs of the demo (about a second each) with offline W&B. A killed run's worker gets SIGKILL after pretraining, when most
of its work is done, and the launcher does the run again. The two sweeps take turns; both must end with all records. CPU
time is given too: wall time says little on a machine that others use.
What the launcher and tracking cost when nothing fails: benchmarks/sweep_overhead.py.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

ROOT = Path(__file__).parents[1]
TASK = f"hydra.launcher.task={ROOT / 'tests' / 'fake_task.py'}:real"


def sweep(folder: Path, runs: int, slots: int, killed: list[int]) -> tuple[float, float]:
    """Wall and CPU seconds of a sweep whose runs of these seeds are killed once."""
    folder.mkdir()
    deeds = json.dumps({str(seed): "kill_once" for seed in killed})
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "DEEDS": deeds}
    settings = [f"subset.seed=range(0,{runs})", f"runs_dir={folder}", "logger.mode=offline", TASK]
    command = [sys.executable, "train.py", "-m", *settings, f"hydra.launcher.slots={slots}"]
    start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True, check=False)
    seconds, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    records = len(list(folder.glob("*/*/record.safetensors")))
    starts = len((folder / "starts.txt").read_text().splitlines())
    if done.returncode or records != runs or starts != runs + len(killed):
        sys.exit(f"{records} records of {runs}, {starts} starts\n{done.stderr}")
    return seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Print both times of every round and the median ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--slots", type=int, default=len(os.sched_getaffinity(0)))
    options = parser.parse_args()
    walls, cpus = [], []
    killed = list(range(5, options.runs, 10))
    with tempfile.TemporaryDirectory() as folder:
        for round_ in range(options.rounds):
            times = {}
            for seeds in ([], killed) if round_ % 2 == 0 else (killed, []):
                place = Path(folder, f"{round_}-{len(seeds)}")
                times[len(seeds)] = sweep(place, options.runs, options.slots, seeds)
            (wall, cpu), (wild_wall, wild_cpu) = times[0], times[len(killed)]
            walls.append(wild_wall / wall)
            cpus.append(wild_cpu / cpu)
            print(
                f"round {round_ + 1}: {wall:.1f} s undisturbed, {wild_wall:.1f} s with kills: {walls[-1]:.2f} times;"
                f" CPU {cpu:.1f} s, {wild_cpu:.1f} s: {cpus[-1]:.2f} times",
                flush=True,
            )
    print(f"{options.runs} runs, {options.slots} slots, one in ten killed; median of {options.rounds} rounds:")
    print(f"{median(walls):.2f} times the wall time, {median(cpus):.2f} times the CPU time")


if __name__ == "__main__":
    main()
