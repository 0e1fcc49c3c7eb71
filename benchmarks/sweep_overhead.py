"""What a sweep costs beyond its arithmetic: `python train.py -m ...` against a plain PyTorch loop, in one run.

    python benchmarks/sweep_overhead.py            # the demo's runs of about a second, offline W&B and logger=none
    python benchmarks/sweep_overhead.py --long     # runs of about half a minute

Both sides use the same number of worker processes with one torch thread each, and do the same arithmetic: the benchmark
checks that the plain loop's outputs are those of the records, bit for bit. The time per run is taken between the
moments at which runs end, from the first of every worker on, so that start-up does not count; the sides take turns, and
medians over rounds are reported.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).parents[1]
LONG = ("model.width=48", "source.pretraining.epochs=160", "source.pretraining.batch_size=128")


def plain_worker(config_path: str, out: str, first: int, last: int, workers: int) -> None:
    """Do the runs first, first + workers, ... below last, in a plain PyTorch loop."""
    import numpy as np
    import torch
    from torch.nn.functional import cross_entropy

    from sourcewise.core.randomness import derive_seed as derive
    from sourcewise.data import embedded
    from sourcewise.designs.random_designs import random
    from sourcewise.training.models import initialise, small_cnn

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


def perform(commands: list[list[str]]) -> None:
    """Run commands at the same time, to their end."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    processes = [subprocess.Popen(c, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True) for c in commands]
    for process in processes:
        _, errors = process.communicate()
        if process.returncode:
            sys.exit(errors)


def steady(files: list[Path], workers: int) -> float:
    """Seconds a run between the first end of a run by every worker and the time at which workers fall idle."""
    ends = sorted(path.stat().st_mtime for path in files)[workers - 1 : -workers + 1 or None]
    return (ends[-1] - ends[0]) / (len(ends) - 1)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--long", action="store_true", help="runs of about half a minute")
    parser.add_argument("--runs", type=int, help="of a sweep")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--plain", nargs=5, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.plain:
        config, out, *numbers = options.plain
        return plain_worker(config, out, *map(int, numbers))
    count = options.runs or (8 if options.long else 32)
    overrides = LONG if options.long else ()

    sys.path.insert(0, str(ROOT / "tests"))
    from conftest import compose_config

    from sourcewise.records import record

    sides = {"plain PyTorch": None, "sweep, logger=none": "none", "sweep, offline W&B": "wandb"}
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    with tempfile.TemporaryDirectory() as folder:
        config_path = Path(folder, "config.json")
        config_path.write_text(json.dumps(compose_config(*overrides)))
        for round_ in range(options.rounds):
            for side, logger in sides.items():
                out = Path(folder, f"{round_}-{logger}")
                out.mkdir()
                if logger is None:
                    plain = [sys.executable, __file__, "--plain", str(config_path), str(out)]
                    ends = [str(count), str(options.workers)]
                    perform([[*plain, str(i), *ends] for i in range(options.workers)])
                else:
                    sweep = [f"subset.seed=range(0,{count})", f"runs_dir={out}", f"logger={logger}"]
                    mode = ["logger.mode=offline"] if logger == "wandb" else []
                    slots = f"hydra.launcher.slots={options.workers}"
                    perform([[sys.executable, "train.py", "-m", *sweep, slots, *mode, *overrides]])
                files = list(out.glob("*.npy")) or list(out.glob("*/*/record.safetensors"))
                seconds[side].append(steady(files, options.workers))
            print(
                f"round {round_ + 1}: " + ", ".join(f"{side} {seconds[side][-1]:.3f} s" for side in sides), flush=True
            )
        import numpy as np

        same = 0
        for path in sorted(Path(folder, "0-none").glob("*/*/record.safetensors")):
            item = record.read(path)
            expected = np.load(Path(folder, "0-None", f"{item.header.subset_seed}.npy"))
            same += int(np.array_equal(expected, item.targets["digits"].margin))
    print(f"\noutputs equal to the plain loop's, bit for bit: {same} of {count} runs")
    print(f"\n| {options.workers} workers | s a run | more than the plain loop, s | times the plain loop |")
    print("| --- | --- | --- | --- |")
    for side, taken in seconds.items():
        pairs = list(zip(taken, seconds["plain PyTorch"], strict=True))
        more, ratio = median(a - b for a, b in pairs), median(a / b for a, b in pairs)
        print(f"| {side} | {median(taken):.3f} | {more:+.3f} | {ratio:.2f} |")
    return None


if __name__ == "__main__":
    main()
