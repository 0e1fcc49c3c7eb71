"""What a sweep costs beyond its arithmetic: `python train.py -m ...` against a plain PyTorch loop, in one run.

    python benchmarks/sweep_overhead.py            # the demo's runs of about a second, offline W&B and logger=none
    python benchmarks/sweep_overhead.py --long     # runs of about half a minute

Both sides use the same number of worker processes with one torch thread each, and do the same arithmetic: the benchmark
checks that the plain loop's outputs are those of the records, bit for bit. The time per run is the slope between a
short and a long sweep, so that start-up (given apart) does not count; the sides take turns, and medians are reported.
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
from typing import Any

ROOT = Path(__file__).parents[1]
LONG = ("model.width=48", "source.pretraining.epochs=24", "source.pretraining.batch_size=128")


def plain_worker(config_path: str, out: str, first: int, last: int, workers: int) -> None:
    """The runs first, first + workers, ... below last, as anybody would write them with PyTorch alone."""
    import numpy as np
    import torch
    from torch.nn.functional import cross_entropy

    from sourcewise.data import embedded
    from sourcewise.models import initialise, small_cnn
    from sourcewise.randomness import seed as derive
    from sourcewise.subsets import random

    torch.set_num_threads(1)
    config = json.loads(Path(config_path).read_text())
    pretraining, transfer = config["source"]["pretraining"], config["target"]["digits"]["transfer"]
    mean, std = config["source"]["normalise"]["mean"][0], config["source"]["normalise"]["std"][0]
    source, train, test = embedded.characters(), embedded.digits("train"), embedded.digits("test")

    def normalise(images: torch.Tensor) -> torch.Tensor:
        scale, shift = torch.tensor([std]).mul(255).reciprocal(), torch.tensor([mean]).div(torch.tensor([std]))
        return images.float().mul_(scale).sub_(shift)

    def fit(network: Any, x: Any, y: Any, settings: dict[str, Any], order_seed: int, raw: bool) -> None:
        size, batch, epochs = len(y), settings["batch_size"], settings["epochs"]
        steps, peak = -(-size // batch) - (0 < size % batch < 2), settings["schedule"]["peak"]
        optimiser = torch.optim.SGD(
            network.parameters(), settings["lr"], settings["momentum"], weight_decay=settings["weight_decay"]
        )
        network.train()
        for epoch in range(epochs):
            order = torch.randperm(size, generator=torch.Generator().manual_seed((order_seed + epoch) % 2**63))
            for i in range(steps):
                at = (epoch * steps + i) / steps
                factor = 0.2 + 0.8 * at / peak if at < peak else (epochs - at) / (epochs - peak)
                optimiser.param_groups[0]["lr"] = settings["lr"] * factor
                rows = order[i * batch : (i + 1) * batch]
                loss = cross_entropy(network(normalise(x[rows]) if raw else x[rows]), y[rows])
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()

    width = config["model"]["width"]
    for number in range(first, last, workers):
        mask = random(source.group_names, config["subset"]["fraction"], number)
        kept = source.keep_groups(mask)
        model = initialise(lambda: small_cnn(width, channels=1, classes=36), derive("initialisation", 0, mask))
        fit(model, kept.images, kept.labels, pretraining, derive("order", 0, mask), raw=True)
        head = initialise(lambda: torch.nn.Linear(4 * width, 10), derive("initialisation/digits", 0, mask))
        model.eval()
        with torch.inference_mode():
            x, z = (torch.cat([model.backbone(normalise(p)) for p in d.images.split(1000)]) for d in (train, test))
        fit(head, x.clone(), train.labels, transfer, derive("order/digits", 0, mask), raw=False)
        with torch.inference_mode():
            logits = head(z)
        chosen = test.labels[:, None]
        margin = logits.gather(1, chosen)[:, 0] - logits.scatter(1, chosen, float("-inf")).logsumexp(1)
        np.save(f"{out}/{number}.npy", margin.numpy().astype(np.float16))


def timed(command: list[str] | list[list[str]]) -> tuple[float, float]:
    """Wall time and processor time in seconds of a command, or of several at once."""
    commands = command if isinstance(command[0], list) else [command]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    start, used = time.perf_counter(), processor_time()
    processes = [subprocess.Popen(c, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True) for c in commands]  # type: ignore[arg-type]
    for process in processes:
        _, errors = process.communicate()
        if process.returncode:
            sys.exit(errors)
    return time.perf_counter() - start, processor_time() - used


def processor_time() -> float:
    """Seconds that all processes started here, and those that they started, have used."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--long", action="store_true", help="runs of about half a minute")
    parser.add_argument("--short-sweep", type=int, help="runs of the short sweep")
    parser.add_argument("--long-sweep", type=int, help="runs of the long sweep")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--plain", nargs=5, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.plain:
        config, out, *numbers = options.plain
        return plain_worker(config, out, *map(int, numbers))
    few, many = (2, 6) if options.long else (8, 40)
    few, many = options.short_sweep or few, options.long_sweep or many
    overrides = LONG if options.long else ()

    sys.path.insert(0, str(ROOT / "tests"))
    from conftest import compose_config

    from sourcewise import record

    sides = {"plain PyTorch": None, "sweep, logger=none": "none", "sweep, offline W&B": "wandb"}
    slopes: dict[str, list[float]] = {side: [] for side in sides}
    works: dict[str, list[float]] = {side: [] for side in sides}
    starts: dict[str, list[float]] = {side: [] for side in sides}
    with tempfile.TemporaryDirectory() as folder:
        config_path = Path(folder, "config.json")
        config_path.write_text(json.dumps(compose_config(*overrides)))
        for round_ in range(options.rounds):
            for side, logger in sides.items():
                seconds, work = {}, {}
                for count in (few, many):
                    out = Path(folder, f"{round_}-{logger}-{count}")
                    out.mkdir()
                    if logger is None:
                        place = [str(config_path), str(out)]
                        ends = [str(count), str(options.workers)]
                        script = [sys.executable, __file__, "--plain"]
                        seconds[count], work[count] = timed(
                            [[*script, *place, str(i), *ends] for i in range(options.workers)]
                        )
                    else:
                        sweep = [f"subset.seed=range(0,{count})", f"runs_dir={out}", f"logger={logger}"]
                        slots = f"hydra.launcher.slots={options.workers}"
                        mode = ["logger.mode=offline"] if logger == "wandb" else []
                        seconds[count], work[count] = timed(
                            [sys.executable, "train.py", "-m", *sweep, slots, *mode, *overrides]
                        )
                slope = (seconds[many] - seconds[few]) / (many - few)
                slopes[side].append(slope)
                works[side].append((work[many] - work[few]) / (many - few))
                starts[side].append(seconds[few] - few * slope)
                print(
                    f"round {round_ + 1}: {side:<20} {slope:6.3f} s a run, {works[side][-1]:6.3f} s of processor",
                    flush=True,
                )
        import numpy as np

        same = 0
        for path in sorted(Path(folder, f"0-none-{many}").glob("*/*/record.safetensors")):
            item = record.read(path)
            plain = np.load(Path(folder, f"0-None-{many}", f"{item.header.subset_seed}.npy"))
            same += int(np.array_equal(plain, item.targets["digits"].margin))
    base, least = median(slopes["plain PyTorch"]), median(works["plain PyTorch"])
    print(f"\noutputs equal to the plain loop's, bit for bit: {same} of {many} runs")
    print(f"\n| {options.workers} workers | s a run | times the plain loop | processor s a run | times | start-up, s |")
    print("| --- | --- | --- | --- | --- | --- |")
    for side in sides:
        wall, work = median(slopes[side]), median(works[side])
        start = median(starts[side])
        print(f"| {side} | {wall:.3f} | {wall / base:.2f} | {work:.3f} | {work / least:.2f} | {start:.1f} |")
    return None


if __name__ == "__main__":
    main()
