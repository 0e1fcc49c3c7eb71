"""Stands in for training in tests of the launcher. What a run does is in the config's `fake`, by subset seed.

As a script it is a Hydra command like train.py: `python tests/fake_task.py -m 'subset.seed=range(0,8)'`.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import hydra
import numpy as np
from omegaconf import DictConfig

from sourcewise.core import exits, identity, names
from sourcewise.records import record
from sourcewise.sweep import leases
from sourcewise.sweep.composition import plain


def train(config: dict[str, Any], overrides: Sequence[str] = ()) -> dict[str, float]:
    folder = names.run_dir(config)
    seed = config["subset"]["seed"]
    fake = config.get("fake") or {}
    with leases.lease(folder) as lease:
        if names.is_done(folder):
            return {}
        print(f"run {seed} by {os.getpid()}")
        print("argv", *sys.argv)
        note_start(config)
        time.sleep(fake.get("sleep", 0.0))
        act(fake.get("deeds", {}).get(str(seed)) or fake.get("deeds", {}).get(seed), folder, config)
        if names.is_done(folder) or (folder / "nothing").exists():
            return {}
        lease.check()
        write(config, seed)
        (folder / "once").unlink(missing_ok=True)
    return {"seed": float(seed)}


def fingerprints(config: dict[str, Any], overrides: Sequence[str] = ()) -> dict[str, str]:
    """What the source holds is what its file of groups says."""
    return {"characters": Path(config["source"]["groups"]).read_text()}


def real(config: dict[str, Any], overrides: Sequence[str] = ()) -> dict[str, float]:
    """train.py's own run, with the deed that the environment's DEEDS has for it between pretraining and transfer."""
    from sourcewise.commands import train
    from sourcewise.training.run import Run

    deeds = json.loads(os.environ.get("DEEDS", "{}"))
    execute, transfer = Run.execute, Run.transfer

    def noted(self: Run, *args: Any) -> Any:
        note_start(config)
        return execute(self, *args)

    def disturbed(self: Run, *args: Any) -> Any:
        act(deeds.get(str(self.subset["seed"])), names.run_dir(config), config)
        return transfer(self, *args)

    with mock.patch.multiple(Run, execute=noted, transfer=disturbed):
        found = train.train(config, overrides)
    (names.run_dir(config) / "once").unlink(missing_ok=True)
    return found


def note_start(config: dict[str, Any]) -> None:
    line = f"{config['subset']['seed']} {os.getpid()} {os.environ.get('CUDA_VISIBLE_DEVICES', '-')}\n"
    with (Path(config["runs_dir"]) / "starts.txt").open("a") as file:
        file.write(line)


def act(deed: str | None, folder: Path, config: dict[str, Any] | None = None) -> None:
    if deed and deed.endswith("_once"):
        if (folder / "once").exists():
            return
        (folder / "once").touch()
        deed = deed.removesuffix("_once")
    if deed == "raise":
        raise ValueError("this went wrong\nand more of it")
    if deed == "exit":
        sys.exit(3)
    if deed == "die":
        os._exit(4)
    if deed == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if deed == "segfault":
        os.kill(os.getpid(), signal.SIGSEGV)
    if deed == "hang":
        time.sleep(1000)
    if deed == "stubborn":
        while True:
            try:
                time.sleep(1000)
            except KeyboardInterrupt:
                print("I shall not stop")
    if deed == "nothing":
        (folder / "nothing").touch()
    if deed == "late":  # killed after its record is complete
        write(config or {}, -1)
        os.kill(os.getpid(), signal.SIGKILL)


def write(config: dict[str, Any], seed: int) -> None:
    """The record of a run, of which a test reads the number back with `said`; it holds nothing else."""
    folder = names.run_dir(config)
    texts = dict.fromkeys(("recipe", "commit", "device"), "")
    texts |= {"study": folder.parent.name, "run": folder.name, "design": config["subset"]["design"]}
    tables = {name: {} for name in ("class_names", "fingerprints", "versions")}
    if identity.lies_on_disk(config):
        tables["fingerprints"] = fingerprints(config)
    told = {"config": config, "metrics": {"seed": float(seed)}, "seed": seed, "subset_seed": seed}
    header = record.Header(**texts, **tables, **told, group_names=list("abc"))  # type: ignore[arg-type]
    record.write(record.Record(np.ones(3, bool), {}, header), folder / names.RECORD)


def recorded_value(path: Path) -> float:
    return record.read(path).header.metrics["seed"]


# For tests of the pool, which know neither runs nor studies


def simple(config: dict[str, Any], overrides: Sequence[str] = ()) -> Any:
    """Does what it is told, step by step; returns its process id."""
    for step, value in config.items():
        if step == "print":
            print(value)
            sys.stderr.write("to stderr\n")
            os.write(1, b"by file descriptor\n")
            subprocess.run(["echo", "by a child"], check=True)
        elif step == "sleep":
            time.sleep(value)
        elif step == "env":
            return os.environ.get(value)
        elif step == "child":  # a process that would outlive the run
            child = subprocess.Popen(["sleep", "1000"])
            Path(value).write_text(str(child.pid))
        elif step == "pid_to":
            Path(value).write_text(str(os.getpid()))
        elif step == "leased":
            raise leases.Leased("someone has it")
        elif step == "fork":  # as a DataLoader's worker: it holds copies of all that is open
            if os.fork() == 0:
                time.sleep(1000)
        elif step == "files":
            return len(list(Path("/proc/self/fd").iterdir()))
        else:
            act(step, Path())
    return os.getpid()


@hydra.main(version_base="1.3", config_path="../conf", config_name="train")
def main(config: DictConfig) -> None:
    train(plain(config))


if __name__ == "__main__":
    with exits.errors():
        main()
