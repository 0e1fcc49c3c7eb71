"""Job arrays of Slurm: what a task does with its runs, and how arrays are submitted and watched.

A task of the array does its runs in worker processes, as the local launcher would; a run on several devices gets one
task for each, and Lightning takes its ranks from Slurm.
"""

import atexit
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sourcewise.core import names
from sourcewise.core.errors import WORKER, SourcewiseError
from sourcewise.sweep import leases
from sourcewise.sweep.policy import Backend
from sourcewise.sweep.pool import Outcome
from sourcewise.sweep.runs import Run
from sourcewise.sweep.signals import caught
from sourcewise.sweep.slots import Shape
from sourcewise.sweep.tasks import load
from sourcewise.sweep.worker import Ending, Status, perform

TASKS = 1000
"""Tasks of an array, at most: the default of Slurm's MaxArraySize, less one."""

Report = dict[int, Ending]
"""How each run of a task ended, by its index."""


@dataclass
class Task:
    """A task of an array, which does its runs. Picklable, and called by submitit on the node."""

    launcher: Backend
    shape: Shape

    def __call__(self, runs: Sequence[Run]) -> Report:
        """Do the runs that are not done. When asked to stop, stop the runs and put the task back into the queue."""
        from submitit import JobEnvironment

        todo = deque(run for run in runs if not names.is_done(run.folder))
        if self.shape.devices > 1:
            return {run.index: self._together(run) for run in todo}
        limit = JobEnvironment._usr_sig()
        requeue: Any = signal.getsignal(limit)  # submitit's
        report: Report = {}
        with self.launcher.pool(self.shape) as pool, caught(pool.wake, limit, signal.SIGTERM) as received:
            while pool.running() or (todo and not received):
                while todo and not received and pool.idle():
                    pool.submit(todo.popleft())
                for outcome in pool.wait(2.0):
                    status = "stopped" if received and outcome.status != "returned" else outcome.status
                    report[outcome.run.index] = status, outcome.cause, outcome.value
                if received:
                    time.sleep(0.5)  # the workers may have got the signal, too, and two at once can get lost
                    pool.stop()
        for run in runs if received else ():
            leases.clear(run.folder)  # of a worker that was killed: another node cannot know that it is dead
        # Before a preemption Slurm sends SIGTERM alone. After scancel the task does not count as running any more.
        if limit in received or (received and _queue(os.environ["SLURM_JOB_ID"], "%T") == ["RUNNING"]):
            requeue(limit, None)
        return report

    def checkpoint(self, runs: Sequence[Run]) -> Any:
        """Return what submitit puts back into the queue: the same runs, since the records show which are done."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self, runs)

    def _together(self, run: Run) -> Ending:
        """Do one run on several devices, of which this process is one rank."""
        os.environ[WORKER] = "1"
        ending = perform(load(self.launcher.task), run.config, str(run.log), run.overrides)
        if ending[0] != "returned":
            atexit.register(os._exit, 1)  # srun then ends the other ranks, too
        return ending


@dataclass
class Array(AbstractContextManager["Array"]):
    """Workers that are the tasks of job arrays, one array at a time.

    executor: function of a folder and a shape to submitit's executor. poll: seconds between two looks at the queue.
    """

    executor: Callable[[Path, Shape], Any]
    task: Task
    runs_per_task: int
    poll: float = 10.0
    runs: list[Run] = field(default_factory=list)
    tasks: dict[str, tuple[Any, list[Run]]] = field(default_factory=dict)
    clean: bool = True
    stopping: bool = False
    woken: bool = False

    def __exit__(self, *exc: object) -> None:
        """Leave the array to Slurm, if this process ends before it."""

    def idle(self) -> list[int]:
        """Return one slot as long as the last array has ended and the next one has room."""
        return [0] if not self.tasks and len(self.runs) < TASKS * self.runs_per_task else []

    def running(self) -> list[Run]:
        """Return the runs whose tasks have not ended."""
        return [*self.runs, *(run for _, runs in self.tasks.values() for run in runs)]

    def submit(self, run: Run) -> None:
        """Put a run into the next array."""
        self.runs.append(run)

    def wake(self) -> None:
        """Make `wait` return."""
        self.woken = True

    def wait(self, timeout: float = 0.0) -> list[Outcome]:
        """Submit what is waiting; `poll` seconds later, return the outcomes of tasks that have ended since."""
        if self.runs:
            self._submit()
        limit = time.monotonic() + (self.poll if self.tasks else timeout)
        while not self.woken and time.monotonic() < limit:
            time.sleep(0.2)
        self.woken = False
        return self._look()

    def finish(self) -> None:
        """Cancel the tasks of the array that wait: those that run may end."""
        self.stop("--state=PENDING")

    def stop(self, *which: str) -> None:
        """Cancel the array, or the tasks that these options choose: they stop their runs."""
        self.stopping = True
        subprocess.run(["scancel", *which, *{name.partition("_")[0] for name in self.tasks}], check=False)

    def kill(self) -> None:
        """Cancel the array."""
        self.stop()

    def _submit(self) -> None:
        """Submit the runs that wait as one array. Raises SourcewiseError for what sbatch refuses."""
        folder = self.runs[0].log.absolute().parents[2] / ".slurm" / f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"
        size = self.runs_per_task
        chunks = [self.runs[start : start + size] for start in range(0, len(self.runs), size)]
        executor = self.executor(folder, self.task.shape)
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # Ctrl-C in a terminal must not reach sbatch
        try:
            submitted = executor.map_array(self.task, chunks)
        except Exception as error:
            raise SourcewiseError(f"sbatch: {str(error).strip().splitlines()[-1]}") from error
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        self.tasks = {item.job_id: (item.task(0).paths, chunk) for item, chunk in zip(submitted, chunks, strict=True)}
        self.runs, self.clean = [], True
        array = submitted[0].job_id.partition("_")[0]
        print(f"Slurm job {array}: {len(chunks)} tasks; their logs are in {folder}", file=sys.stderr, flush=True)

    def _look(self) -> list[Outcome]:
        """Return the outcomes of tasks that have left the queue; clear up after an array that went well."""
        queue = _queue(next(iter(self.tasks)).partition("_")[0], "%i") if self.tasks else None
        outcomes: list[Outcome] = []
        for name, (paths, runs) in list(self.tasks.items()):
            if queue is None or name in queue:
                continue
            del self.tasks[name]
            report = self._report(name, paths, runs)
            for run in runs:
                _refresh(run.folder)
                outcomes.append(Outcome(run, *report.get(run.index, ("returned", "", None))))
            self.clean &= all(names.is_done(run.folder) for run in runs)
            if self.clean and not self.tasks:
                shutil.rmtree(paths.folder, ignore_errors=True)
                with suppress(OSError):
                    paths.folder.parent.rmdir()
        return outcomes

    def _report(self, name: str, paths: Any, runs: Sequence[Run]) -> Report:
        """Return how the runs of a task that has ended did; it may have been killed before it could report."""
        from submitit.core.utils import pickle_load

        _refresh(paths.folder)
        if paths.result_pickle.exists():
            outcome, result = pickle_load(paths.result_pickle)
            if outcome == "success":
                return dict(result)
            ending: tuple[Status, str] = "raised", result.strip().splitlines()[-1]
        elif self.stopping or not paths.stdout.exists():
            ending = "stopped", "its task was cancelled"
        else:
            ending = "killed", f"Slurm's task {name} was killed; see {paths.stderr}"
        return {run.index: (*ending, None) for run in runs}


def _refresh(folder: Path) -> None:
    """Make a network file system look again at what is in a folder."""
    with suppress(OSError):
        list(folder.iterdir())


def _queue(job: str, form: str) -> list[str] | None:
    """Return a line for each of the job's tasks in Slurm's queue; None if Slurm does not answer."""
    command = ["squeue", "--noheader", "--array", f"--format={form}", f"--jobs={job}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    except subprocess.TimeoutExpired:
        return None
    if done.returncode and "Invalid job id" not in done.stderr:
        return None
    return [line.strip() for line in done.stdout.splitlines()]
