"""`hydra/launcher=slurm`: the same sweep, its runs done by the tasks of a Slurm job array, which submitit submits.

To the sweep's policy (`launcher.py`), Slurm is just another pool of workers: what is skipped, tried again, waited for
and reported is decided there. A task of the array does its runs in worker processes, as the local launcher would; a
run on several devices gets one task for each, and Lightning takes its ranks from Slurm.
"""

import atexit
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from sourcewise.core import names
from sourcewise.core.errors import WORKER, SourcewiseError
from sourcewise.sweep import leases as claims
from sourcewise.sweep.launcher import LocalLauncher, Run, Shape
from sourcewise.sweep.pool import Ending, Job, Outcome, Status, load, noted, perform

TASKS = 1000
"""Tasks of an array, at most: the default of Slurm's MaxArraySize, less one."""

Report = dict[int, Ending]
"""How each job ended."""


class SlurmLauncher(LocalLauncher):
    """One task of a job array for every `runs_per_task` runs. The settings: conf/hydra/launcher/slurm.yaml."""

    def __init__(self, runs_per_task: int = 1, poll: float = 10.0, **settings: Any) -> None:
        self.runs_per_task, self.poll = runs_per_task, poll
        self.local = {item.name: settings.pop(item.name) for item in fields(LocalLauncher) if item.name in settings}
        self.sbatch = {name: value for name, value in settings.items() if value is not None}
        super().__init__(**self.local)

    def pool(self, shape: Shape) -> "Array":  # type: ignore[override]
        """What does runs of this shape."""
        slots = self.slots
        if slots == "auto" and shape.accelerator == "cpu":
            slots = max(1, self.sbatch.get("cpus_per_task", 0) // shape.threads)
        local = LocalLauncher(**{**self.local, "slots": slots})
        return Array(self, Task(local, shape), self.runs_per_task if shape.devices == 1 else 1)

    def payload(self, run: Run, shape: Shape) -> dict[str, Any]:
        """What a task gets of a run."""
        return run.config

    def executor(self, folder: Path, shape: Shape) -> Any:
        """Submitit's, with the settings and the defaults of hydra-submitit-launcher."""
        own = {"name": "sourcewise", "tasks_per_node": shape.devices, "cpus_per_task": shape.threads}
        if shape.accelerator in ("gpu", "cuda") and not self.sbatch.keys() & {"gres", "gpus_per_task"}:
            own["gpus_per_node"] = shape.devices  # all tasks of a run see all its GPUs: Lightning picks one by rank
        try:
            import submitit
            from hydra_plugins.hydra_submitit_launcher.config import BaseQueueConf, SlurmQueueConf

            settings: Any = OmegaConf.merge(OmegaConf.structured(SlurmQueueConf), own, self.sbatch)
            executor = submitit.AutoExecutor(folder, "slurm", slurm_max_num_timeout=settings.max_num_timeout)
        except (ImportError, RuntimeError) as error:
            needs = "hydra/launcher=slurm needs Slurm's commands and pip install 'sourcewise[slurm]'"
            raise SourcewiseError(f"{needs}: {error}") from error
        settings = OmegaConf.to_container(settings)
        for name in ("_target_", "submitit_folder", "max_num_timeout"):
            del settings[name]
        settings["additional_parameters"] = {"requeue": True, **settings["additional_parameters"]}
        settings["srun_args"] = ["--kill-on-bad-exit=1", f"--cpus-per-task={settings['cpus_per_task']}"]
        shared = {item.name for item in fields(BaseQueueConf)}
        executor.update_parameters(**{n if n in shared else f"slurm_{n}": value for n, value in settings.items()})
        return executor


@dataclass
class Task:
    """What a task of an array does: its runs. Picklable, and called by submitit on the node."""

    launcher: LocalLauncher
    shape: Shape

    def __call__(self, jobs: Sequence[Job]) -> Report:
        """Do what is not done. Told to stop, stop the runs and put the task back into the queue."""
        from submitit import JobEnvironment

        todo = deque(job for job in jobs if not names.is_done(job.log.parent))
        if self.shape.devices > 1:
            return {job.id: self._together(job) for job in todo}
        limit = JobEnvironment._usr_sig()
        requeue: Any = signal.getsignal(limit)  # submitit's
        report: Report = {}
        with self.launcher.pool(self.shape) as pool, noted(pool.wake, limit, signal.SIGTERM) as caught:
            while pool.running() or (todo and not caught):
                while todo and not caught and pool.idle():
                    pool.submit(todo.popleft())
                for outcome in pool.wait(2.0):
                    status = "stopped" if caught and outcome.status != "returned" else outcome.status
                    report[outcome.job.id] = status, outcome.cause, outcome.value
                if caught:
                    time.sleep(0.5)  # the workers may have been told, too, and two signals at once can get lost
                    pool.stop()
        for job in jobs if caught else ():
            claims.clear(job.log.parent)  # of a worker that was killed: another node cannot know that it is dead
        # Before a preemption Slurm sends SIGTERM alone. After scancel the task does not count as running any more.
        if limit in caught or (caught and _queue(os.environ["SLURM_JOB_ID"], "%T") == ["RUNNING"]):
            requeue(limit, None)
        return report

    def checkpoint(self, jobs: Sequence[Job]) -> Any:
        """What submitit puts back into the queue: the same, since what is done is seen by its records."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self, jobs)

    def _together(self, job: Job) -> Ending:
        """One run on several devices: this process is one rank of it."""
        os.environ[WORKER] = "1"
        ending = perform(lambda config: load(self.launcher.task)(config), job.config, str(job.log))
        if ending[0] != "returned":
            atexit.register(os._exit, 1)  # srun then ends the other ranks, too
        return ending


@dataclass
class Array(AbstractContextManager["Array"]):
    """Has the interface of a `Pool`: hands runs to Slurm, one job array at a time, and tells how they ended."""

    launcher: SlurmLauncher
    task: Task
    runs_per_task: int
    jobs: list[Job] = field(default_factory=list)
    tasks: dict[str, tuple[Any, list[Job]]] = field(default_factory=dict)
    clean: bool = True
    stopping: bool = False
    woken: bool = False

    def __exit__(self, *exc: object) -> None:
        """Leave the array to Slurm, if this process ends before it."""

    def idle(self) -> list[int]:
        """One slot as long as the last array is over and the next one has room."""
        return [0] if not self.tasks and len(self.jobs) < TASKS * self.runs_per_task else []

    def running(self) -> list[Job]:
        """Jobs whose tasks have not ended."""
        return [*self.jobs, *(job for _, jobs in self.tasks.values() for job in jobs)]

    def submit(self, job: Job) -> None:
        """Put a job into the next array."""
        self.jobs.append(job)

    def wake(self) -> None:
        """Make `wait` return."""
        self.woken = True

    def wait(self, timeout: float = 0.0) -> list[Outcome]:
        """Submit what is waiting; outcomes of the tasks that have ended since the last call, `poll` seconds later."""
        if self.jobs:
            self._submit()
        limit = time.monotonic() + (self.launcher.poll if self.tasks else timeout)
        while not self.woken and time.monotonic() < limit:
            time.sleep(0.2)
        self.woken = False
        return self._look()

    def stop(self) -> None:
        """Cancel the array: its tasks stop their runs."""
        self.stopping = True
        subprocess.run(["scancel", *{name.partition("_")[0] for name in self.tasks}], check=False)

    def kill(self) -> None:
        """Nothing to wait for: the array is cancelled already."""

    def _submit(self) -> None:
        folder = self.jobs[0].log.absolute().parents[2] / ".slurm" / f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"
        size = self.runs_per_task
        chunks = [self.jobs[start : start + size] for start in range(0, len(self.jobs), size)]
        executor = self.launcher.executor(folder, self.task.shape)
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # Ctrl-C in a terminal must not reach sbatch
        try:
            submitted = executor.map_array(self.task, chunks)
        except Exception as error:
            raise SourcewiseError(f"sbatch: {str(error).strip().splitlines()[-1]}") from error
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        self.tasks = {item.job_id: (item.task(0).paths, jobs) for item, jobs in zip(submitted, chunks, strict=True)}
        self.jobs, self.clean = [], True
        array = submitted[0].job_id.partition("_")[0]
        print(f"Slurm job {array}: {len(chunks)} tasks; their logs are in {folder}", file=sys.stderr, flush=True)

    def _look(self) -> list[Outcome]:
        queue = _queue(next(iter(self.tasks)).partition("_")[0], "%i") if self.tasks else None
        outcomes: list[Outcome] = []
        for name, (paths, jobs) in list(self.tasks.items()):
            if queue is None or name in queue:
                continue
            del self.tasks[name]
            report = self._report(name, paths, jobs)
            for job in jobs:
                _refresh(job.log.parent)
                outcomes.append(Outcome(job, *report.get(job.id, ("returned", "", None))))
            self.clean &= all(names.is_done(job.log.parent) for job in jobs)
            if self.clean and not self.tasks:
                shutil.rmtree(paths.folder, ignore_errors=True)
                with suppress(OSError):
                    paths.folder.parent.rmdir()
        return outcomes

    def _report(self, name: str, paths: Any, jobs: Sequence[Job]) -> Report:
        """What a task that has ended said of its runs; it may have been killed before it could say anything."""
        from submitit.core.utils import pickle_load

        _refresh(paths.folder)
        if paths.result_pickle.exists():
            outcome, said = pickle_load(paths.result_pickle)
            if outcome == "success":
                return dict(said)
            found: tuple[Status, str] = "raised", said.strip().splitlines()[-1]
        elif self.stopping or not paths.stdout.exists():
            found = "stopped", "its task was cancelled"
        else:
            found = "killed", f"Slurm's task {name} was killed; see {paths.stderr}"
        return {job.id: (*found, None) for job in jobs}


def _refresh(folder: Path) -> None:
    """Make a network file system look again at what is in a folder."""
    with suppress(OSError):
        list(folder.iterdir())


def _queue(job: str, form: str) -> list[str] | None:
    """A line for each of the job's tasks that are in Slurm's queue; None if Slurm does not answer."""
    command = ["squeue", "--noheader", "--array", f"--format={form}", f"--jobs={job}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    except subprocess.TimeoutExpired:
        return None
    if done.returncode and "Invalid job id" not in done.stderr:
        return None
    return [line.strip() for line in done.stdout.splitlines()]
