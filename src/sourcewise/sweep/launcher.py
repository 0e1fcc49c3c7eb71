"""The default launcher: every slot of this machine busy, every crash contained, every run exactly once.

It composes all jobs, leaves out what is complete, and hands the rest to a pool of worker processes (`pool.py`). A run
that someone else holds (`leases.py`) is looked at again when the others are done. Whether a run is complete is decided
by its record alone, whatever its worker said.
"""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, JobStatus, filter_overrides
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf
from tqdm import tqdm

from sourcewise.core import names, settings
from sourcewise.core.errors import RunFailed, SourcewiseError
from sourcewise.designs import resolve
from sourcewise.records import record
from sourcewise.sweep import leases as claims
from sourcewise.sweep.composition import Composer
from sourcewise.sweep.pool import Job, Outcome, Pool, last_line, noted, settings_of

LOG = "log.txt"
INTERRUPTED = "interrupted"
LISTED = 20
"""Runs of one state that a status names."""

POLL = 2.0
"""Seconds between two looks at a run that someone else is doing."""


@dataclass
class Run:
    """One run of a sweep and what has become of it."""

    index: int
    overrides: list[str]
    config: dict[str, Any]
    folder: Path
    state: str = "missing"
    cause: str = ""
    value: Any = None
    failures: Counter[str] = field(default_factory=Counter)
    again: float = 0.0

    @property
    def log(self) -> Path:
        """Everything that the run printed, tracebacks too."""
        return self.folder / LOG

    @property
    def name(self) -> str:
        """The run's overrides, as one would type them."""
        return shlex.join(filter_overrides(self.overrides)) or "(no overrides)"


@dataclass
class LocalLauncher(Launcher):
    """One run per slot, in worker processes that live across runs. The settings: conf/hydra/launcher/local.yaml."""

    slots: Any = "auto"
    task: str = "sourcewise.commands.train:train"
    preload: Sequence[str] = ()
    recycle_after: int = 200
    timeout: float | None = None
    grace: float = 20.0
    retries: int = 1
    retries_on_error: int = 0
    fail_fast: bool = False
    status: bool = False

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Take what Hydra hands to every launcher."""
        self._context, self._config = hydra_context, config
        chosen: Any = OmegaConf.to_container(config.hydra.launcher, resolve=True)
        mine = {item.name: chosen[item.name] for item in fields(LocalLauncher) if item.name in chosen}
        settings.check_arguments(LocalLauncher, mine, "hydra.launcher")

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Do all jobs that are not done. Raises RunFailed at the end if some failed, SystemExit if interrupted."""
        if not job_overrides:
            raise SourcewiseError("the sweep is empty: one of its ranges or lists has no values")
        runs = self._compose(job_overrides, initial_job_idx)
        first: dict[Path, Run] = {}
        for run in runs:
            first.setdefault(run.folder, run)
        if self.status:
            print(status_table(list(first.values())))
            return []
        _Sweep(self, list(first.values())).run()
        return [
            JobReturn(run.overrides, status=JobStatus.COMPLETED, _return_value=first[run.folder].value) for run in runs
        ]

    def _compose(self, job_overrides: Sequence[Sequence[str]], start: int) -> list[Run]:
        compose, kind = Composer(self._context.config_loader, self._config), settings_of(self.task)
        runs = []
        for index, overrides in enumerate(job_overrides, start):
            config = compose(overrides)
            if kind is not None:
                settings.check_top_level(kind, config)
            if "subset" in config:
                config["subset"] = resolve(config["subset"])
            runs.append(Run(index, list(overrides), config, names.run_dir(config)))
        return runs

    def pool(self, shape: "Shape") -> Pool:
        """Workers for runs of this shape."""
        several = shape.devices > 1
        for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
            os.environ.setdefault(name, str(shape.threads))
        return Pool(
            "sourcewise.sweep.pool:command" if several else self.task,
            shape.slots(self.slots),
            preload=() if several else list(self.preload),
            recycle_after=self.recycle_after,
            timeout=self.timeout,
            grace=self.grace,
        )

    def payload(self, run: Run, shape: "Shape") -> dict[str, Any]:
        """What a worker gets: the config, or for a run on several devices a command.

        Lightning starts the other processes of such a run by repeating its command, which must not be the sweep's.
        """
        if shape.devices == 1:
            return run.config
        argv = [sys.executable, "-m", "sourcewise.sweep.pool", self.task, json.dumps(run.config)]
        return {"argv": argv, "log": str(run.log)}


@dataclass(frozen=True)
class Shape:
    """What a run needs of the machine."""

    accelerator: str = "cpu"
    devices: int = 1
    threads: int = 1

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> "Shape":
        """What this run's `trainer` settings ask for."""
        trainer = config.get("trainer") or {}
        devices, threads = (trainer.get(name, 1) for name in ("devices", "threads"))
        for name, value in (("devices", devices), ("threads", threads)):
            if not isinstance(value, int) or value < 1:
                raise SourcewiseError(f"trainer.{name}={value}: a sweep needs a number of {name} per run")
        return cls(str(trainer.get("accelerator", "cpu")), devices, threads)

    def slots(self, asked: Any) -> list[dict[str, str]]:
        """The environment of every slot. asked: auto, a number of slots, or lists of GPUs."""
        gpus = visible_gpus() if self.accelerator in ("auto", "gpu", "cuda") else []
        if self.accelerator in ("gpu", "cuda") and len(gpus) < self.devices:
            raise SourcewiseError(
                f"trainer.accelerator={self.accelerator} trainer.devices={self.devices}: "
                f"this machine has {len(gpus)} GPUs"
            )
        groups = [gpus[i : i + self.devices] for i in range(0, len(gpus) - self.devices + 1, self.devices)]
        if asked == "auto":
            count = len(groups) or max(1, cores() // (self.devices * self.threads))
        elif type(asked) is int and asked > 0:
            count = asked
        elif isinstance(asked, Sequence) and not isinstance(asked, str) and len(asked):
            groups = [[str(gpu) for gpu in ([group] if isinstance(group, int) else group)] for group in asked]
            if any(len(group) != self.devices for group in groups):
                raise SourcewiseError(
                    f"hydra.launcher.slots={asked}: every slot needs {self.devices} GPUs, as trainer.devices says"
                )
            count = len(groups)
        else:
            raise SourcewiseError(
                f"hydra.launcher.slots={asked}: give auto, a number, or lists of GPUs as [[0,1],[2,3]]"
            )
        if not groups:
            return [{} for _ in range(count)]
        return [{"CUDA_VISIBLE_DEVICES": ",".join(group)} for group in islice(cycle(groups), count)]


class _Sweep:
    """The policy: which run is next, what is tried again, when it ends."""

    def __init__(self, launcher: LocalLauncher, runs: list[Run]) -> None:
        self.launcher, self.runs = launcher, runs
        self.signals: list[int] = []
        self.watch = claims.Watch()
        self.halted = False

    def run(self) -> None:
        for run in self.runs:
            if names.is_done(run.folder):
                self._look_at_record(run)
        shapes: dict[Shape, list[Run]] = {}
        for run in self.runs:
            if run.state == "missing":
                shapes.setdefault(Shape.of(run.config), []).append(run)
        if done := self._count("done"):
            print(f"{done} of {len(self.runs)} runs are done already", file=sys.stderr, flush=True)
        for shape, runs in shapes.items():
            if not self.halted:
                with (
                    self.launcher.pool(shape) as pool,
                    noted(pool.wake, signal.SIGINT, signal.SIGTERM, signal.SIGHUP) as self.signals,
                    _progress(len(self.runs), self._count("done")) as bar,
                ):
                    self._drive(pool, shape, runs, bar)
        self._report()

    def _count(self, state: str) -> int:
        return sum(run.state == state for run in self.runs)

    def _look_at_record(self, run: Run) -> None:
        """The state of a run that has a record. A damaged one is removed, by whoever holds the run."""
        path = run.folder / names.RECORD
        try:
            record.read(path)
            run.state = "done"
            claims.tidy(run.folder)
        except record.Damaged as error:
            print(f"{str(error).partition(';')[0]}: the run is done again", file=sys.stderr)
            with suppress(claims.Claimed), claims.claim(run.folder):
                if damage(run.folder):  # still
                    path.unlink()
        except record.RecordError as error:
            run.state, run.cause = "failed", str(error)

    def _drive(self, pool: Pool, shape: Shape, runs: list[Run], bar: "tqdm[Any]") -> None:
        by_index = {run.index: run for run in runs}
        todo = deque(runs)
        say = partial(bar.write if sys.stderr.isatty() else print, file=sys.stderr)
        while True:
            while not self.halted and pool.idle() and (free := self._next(todo)) is not None:
                free.state = "running"
                pool.submit(Job(free.index, self.launcher.payload(free, shape), free.log))
            bar.set_postfix({s: n for s in ("failed", "claimed") if (n := self._count(s))}, refresh=False)
            bar.update(self._count("done") - bar.n)
            if not pool.running() and (self.halted or not todo):
                bar.refresh()
                return
            for outcome in pool.wait(POLL):
                run = by_index[outcome.job.id]
                self._judge(run, outcome)
                if run.state in ("missing", "claimed"):
                    todo.append(run)
                elif run.state == "failed":
                    say(f"failed: {run.name}: {run.cause} (see {run.log})")
                    if self.launcher.fail_fast and not self.halted:
                        self.halted = True
                        pool.stop()
            if self.signals and not self.halted:
                self.halted = True
                name = signal.Signals(self.signals[0]).name
                say(f"{name}: waiting for the running ones to end; once more to stop at once")
                pool.stop()
            if len(self.signals) > 1:
                pool.kill()
                return

    def _next(self, todo: deque[Run]) -> Run | None:
        """The next run that nobody holds. One that someone else holds comes last, and is looked at now and then."""
        for _ in range(len(todo)):
            run = todo.popleft()
            if time.monotonic() < run.again:
                todo.append(run)
            elif names.is_done(run.folder):  # someone else was faster
                run.state = "done"
            elif (holder := self.watch.holder(run.folder)) is None:
                return run
            else:
                run.state, run.cause, run.again = "claimed", str(holder), time.monotonic() + POLL
                todo.append(run)
        return None

    def _judge(self, run: Run, outcome: Outcome) -> None:
        """The run's next state: done, failed, claimed, missing (to be done again) or stopped."""
        launcher = self.launcher
        if names.is_done(run.folder):
            run.state, run.value = "done", outcome.value
            claims.tidy(run.folder)
            return
        run.state, run.cause = "failed", outcome.cause or "it ended without a record"
        if outcome.status == "stopped":
            run.cause = INTERRUPTED
        if outcome.status in ("claimed", "stopped"):
            run.state = outcome.status
        elif outcome.status != "timeout":
            retries = launcher.retries if outcome.status == "killed" else launcher.retries_on_error
            run.failures[outcome.status] += 1
            run.state = "missing" if run.failures[outcome.status] <= retries else "failed"
        if run.state == "failed":
            claims.clear(run.folder)
        if outcome.status in ("killed", "timeout", "stopped"):  # what the run itself could not say
            with suppress(OSError), run.log.open("a") as log:
                log.write(f"{run.cause}\n")

    def _report(self) -> None:
        failed = [run for run in self.runs if run.state == "failed"]
        left = [run for run in self.runs if run.state not in ("done", "failed")]
        for run in failed:
            print(f"\nfailed: {run.name}\n  cause: {run.cause}\n  log:   {run.log}", file=sys.stderr)
        if left or failed:
            done = len(self.runs) - len(failed) - len(left)
            text = f"{done} of {len(self.runs)} runs are done, {len(failed)} failed, {len(left)} are left"
            text += "; the same command goes on where this one stopped" if left else ""
            if self.signals:
                print(text, file=sys.stderr, flush=True)
                raise SystemExit(128 + self.signals[0])
            raise RunFailed(text)


def _progress(total: int, done: int) -> "tqdm[Any]":
    """A bar on a terminal, otherwise a line now and then: runs done, time left, runs per second, failed."""
    tqdm.monitor_interval = 0  # no thread: this process forks workers
    terminal = sys.stderr.isatty()
    return tqdm(
        total=total,
        initial=done,
        unit=" runs",
        miniters=1,
        dynamic_ncols=True,
        mininterval=0.1 if terminal else 10.0,
        leave=terminal,
        bar_format="{l_bar}{bar}{r_bar}" if terminal else "{n_fmt}/{total_fmt} runs, {remaining} left{postfix}\n",
    )


def status_table(runs: Sequence[Run]) -> str:
    """What has become of every run of a sweep, at one look, and the command that completes it."""
    rows: dict[str, list[str]] = {state: [] for state in ("done", "running", "failed", "damaged", "missing")}
    shared = set.intersection(*(set(run.overrides) for run in runs))
    for run in runs:
        name = shlex.join(word for word in run.overrides if word not in shared) or run.name
        cause = last_line(run.log)
        if names.is_done(run.folder):
            state, about = ("damaged", error) if (error := damage(run.folder)) else ("done", "")
        elif (holder := claims.holder(run.folder)) is not None:
            age = f", for {tqdm.format_interval(max(0.0, time.time() - holder.since))}" if holder.since else ""
            state, about = "running", f"{holder}{age}"
        elif cause and cause != INTERRUPTED and not claims.abandoned(run.folder):
            state, about = "failed", f"{cause} (see {run.log})"
        else:
            state, about = "missing", ""
        rows[state].append(f"{name}  {about}".rstrip())
    places = sorted({str(run.folder.parent) for run in runs})
    text = "\n".join([*places, *(f"  {state:<8}{len(lines):>6}" for state, lines in rows.items() if lines)])
    for state in ("running", "failed", "damaged", "missing"):
        lines = rows[state]
        text += "".join(f"\n{state:<8} {line}" for line in lines[:LISTED])
        text += f"\n{state:<8} and {len(lines) - LISTED} more" if len(lines) > LISTED else ""
    if len(rows["done"]) < len(runs):
        words = [word for word in sys.argv if not word.startswith("hydra.launcher.status=")]
        text += f"\nto complete it: python {shlex.join(words)}"
    return text


def damage(folder: Path) -> str:
    """What is wrong with the record of a complete run; "" if nothing is."""
    try:
        record.read(folder / names.RECORD)
    except record.RecordError as error:
        return str(error)
    return ""


def visible_gpus() -> list[str]:
    """The machine's GPUs, as CUDA_VISIBLE_DEVICES names them; found without CUDA, which workers must find untouched."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return [gpu.strip() for gpu in chosen.split(",") if gpu.strip() not in ("", "-1")]
    try:
        listing = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=True, timeout=60).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    return [str(number) for number, _ in enumerate(line for line in listing.splitlines() if line.startswith("GPU "))]


def cores() -> int:
    """Cores that this process may use: its affinity, the quota of its container, and what Slurm gave its task."""
    from joblib import cpu_count

    given = os.environ.get("SLURM_CPUS_PER_TASK", "")
    return min(cpu_count(), int(given)) if given.isdecimal() else int(cpu_count())
