"""`hydra/launcher=slurm` on a real Slurm: munged, slurmctld and slurmd of this machine, on ports of their own."""

import getpass
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import ROOT, TINY
from fake_sweeps import Sweeps

from sourcewise.core import names
from sourcewise.records import record

pytestmark = pytest.mark.slurm

CONFIG = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ctld}
SlurmdPort={slurmd}
AuthType=auth/munge
AuthInfo=socket={folder}/munge,cred_expire=5
SlurmUser={user}
SlurmdUser={user}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=batch_sched_delay=0,sched_interval=1,bf_interval=1
KillWait=10
ReturnToService=2
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
NodeName={host} NodeAddr=127.0.0.1 CPUs=4 RealMemory=4000
PartitionName=low Nodes={host} Default=YES PriorityTier=1
PartitionName=graceful Nodes={host} PriorityTier=1 GraceTime=60
PartitionName=high Nodes={host} PriorityTier=9 PreemptMode=OFF
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[dict[str, str]]:
    """The environment that reaches a Slurm of one node with four CPUs."""
    os.environ["PATH"] += ":/usr/sbin"
    missing = [name for name in ("munged", "slurmctld", "slurmd", "sbatch") if shutil.which(name) is None]
    if missing:
        pytest.fail(f"{', '.join(missing)}: apt-get install -y slurm-wlm munge")
    folder = Path(tempfile.mkdtemp(prefix="slurm-", dir="/tmp"))  # short: it holds a socket
    for name in ("state", "spool"):
        (folder / name).mkdir()
    key = folder / "key"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o600)
    host = socket.gethostname().partition(".")[0]
    ctld, slurmd = free_ports(2)
    (folder / "slurm.conf").write_text(
        CONFIG.format(folder=folder, host=host, user=getpass.getuser(), ctld=ctld, slurmd=slurmd)
    )
    env = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM", "SUBMITIT", "CUDA"))}
    env["SLURM_CONF"] = str(folder / "slurm.conf")
    munge = ["munged", "--foreground", "--force", f"--key-file={key}", f"--socket={folder / 'munge'}"]
    munge += [f"--{name}-file={folder / name}" for name in ("pid", "log", "seed")]
    daemons: list[subprocess.Popen[bytes]] = []
    try:
        for command in (munge, ["slurmctld", "-D"], ["slurmd", "-D"]):
            with (folder / f"{command[0]}.out").open("wb") as out:
                daemons.append(subprocess.Popen(command, env=env, stdout=out, stderr=out))
            time.sleep(0.5)
        until(lambda: "idle" in ask(env, "sinfo", "--noheader", "--format=%T", "--partition=low"), 30, folder)
        yield env
        ask(env, "scancel", "--user", getpass.getuser())
        ask(env, "scancel", "--signal=KILL", "--user", getpass.getuser())
        until(lambda: ask(env, "squeue", "--noheader") == "", 30, folder)
    finally:
        for process in reversed(daemons):
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        shutil.rmtree(folder, ignore_errors=True)


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [item.getsockname()[1] for item in sockets]
    for item in sockets:
        item.close()
    return ports


def ask(env: dict[str, str], *command: str) -> str:
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=30).stdout.strip()


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def until(condition, seconds: float = 60, folder: Path | None = None) -> None:
    limit = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > limit:
            logs = "\n".join(path.read_text()[-2000:] for path in folder.glob("*.out")) if folder else ""
            raise AssertionError(f"it did not happen within {seconds:g} seconds {logs}")
        time.sleep(0.05)


class SlurmSweeps(Sweeps):
    """Sweeps of fake runs on the cluster."""

    python = sys.executable

    def __init__(self, folder: Path, cluster: dict[str, str]) -> None:
        super().__init__(folder)
        self.cluster = cluster

    def command(self, *overrides: str, **settings: object) -> list[str]:
        slurm = ("hydra/launcher=slurm", "hydra.launcher.poll=0.5", "hydra.launcher.retries=0")
        return super().command(*slurm, *overrides, **settings)  # type: ignore[arg-type]

    def env(self) -> dict[str, str]:
        return self.cluster

    def queue(self, form: str = "%i") -> list[str]:
        return ask(self.cluster, "squeue", "--noheader", "--array", f"--format={form}").split()


@pytest.fixture
def sweeps(tmp_path: Path, cluster: dict[str, str]) -> Iterator[SlurmSweeps]:
    sweeps = SlurmSweeps(tmp_path, cluster)
    yield sweeps
    for process in sweeps.started:
        process.kill()
        process.communicate()
    ask(cluster, "scancel", "--user", getpass.getuser())
    until(lambda: not sweeps.queue())


def test_a_sweep_of_real_runs(tmp_path: Path, cluster: dict[str, str]) -> None:
    runs = tmp_path / "runs"
    command = [sys.executable, "train.py", "-m", "hydra/launcher=slurm", "hydra.launcher.poll=0.5", *TINY]
    command += ["subset.seed=range(0,6)", "hydra.launcher.runs_per_task=3", f"runs_dir={runs}", "keep_model=true"]
    done = subprocess.run(command, cwd=ROOT, env=cluster, capture_output=True, text=True, check=False, timeout=200)
    assert done.returncode == 0, done.stderr
    assert ": 2 tasks" in done.stderr
    paths = sorted(runs.glob(f"*/*/{names.RECORD}"))
    assert [record.read(path).header.subset_seed for path in paths] == [0, 1, 2, 3, 4, 5]
    assert len(list(runs.glob(f"*/*/{names.MODEL}"))) == 6
    assert not list(runs.glob("*/*/lease*"))
    assert not (runs / ".slurm").exists()
    again = subprocess.run(command, cwd=ROOT, env=cluster, capture_output=True, text=True, check=False, timeout=60)
    assert again.returncode == 0
    assert "6 of 6 runs are done already" in again.stderr
    assert "Slurm job" not in again.stderr


DDP = ("trainer=ddp", "trainer.accelerator=cpu", "trainer.precision=32-true", "trainer.sync_batchnorm=false")


def test_a_failed_run_on_several_devices(tmp_path: Path, cluster: dict[str, str]) -> None:
    runs = tmp_path / "runs"
    command = [sys.executable, "train.py", "-m", "hydra/launcher=slurm", "hydra.launcher.poll=0.5", *TINY, *DDP]
    command += ["source.pretraining.lr=1e30", "trainer.threads=1", f"runs_dir={runs}"]
    done = subprocess.run(command, cwd=ROOT, env=cluster, capture_output=True, text=True, check=False, timeout=200)
    assert done.returncode == 1, done.stderr
    assert "cause: source: the training loss is" in done.stderr
    assert done.stderr.strip().endswith("0 of 1 runs are done, 1 failed, 0 are left")
    assert len(list(runs.glob(".slurm/*/*_log.out"))) == 2  # one task for each device


@pytest.mark.timeout(900)
def test_a_run_on_several_devices_goes_on_from_its_checkpoint(tmp_path: Path, cluster: dict[str, str]) -> None:
    runs = tmp_path / "runs"
    command = [sys.executable, "train.py", "-m", "hydra/launcher=slurm", "hydra.launcher.poll=0.5", *TINY, *DDP]
    command += ["source.pretraining.epochs=12", "trainer.threads=1", "trainer.checkpoint_minutes=0", f"runs_dir={runs}"]
    command += ["source.train.per_letter=10"]
    process = subprocess.Popen(command, cwd=ROOT, env=cluster, stderr=subprocess.PIPE, text=True)
    try:
        until(lambda: list(runs.glob("*/*/checkpoint-source.pt")) or process.poll() is not None, 300)
        ask(cluster, "scancel", "--signal=USR2", "--user", getpass.getuser())
        _, err = process.communicate(timeout=200)
    finally:
        process.kill()
        ask(cluster, "scancel", "--user", getpass.getuser())
    assert process.returncode == 0, err
    assert err.count("Slurm job") == 1
    (folder,) = runs.glob("*/*")
    assert {path.name for path in folder.iterdir()} == {"log.txt", names.RECORD}
    assert (folder / "log.txt").read_text().count("source: going on after") == 2  # each of the ranks


def test_failures_are_listed_and_cost_their_runs_only(sweeps: SlurmSweeps) -> None:
    deeds = {"1": "raise", "2": "kill", "3": "nothing"}
    done = sweeps.run("hydra.launcher.runs_per_task=3", seeds=6, deeds=deeds)
    assert done.returncode == 1, done.stderr
    assert set(sweeps.records()) == {0, 4, 5}
    for seed, cause in {
        1: "ValueError: this went wrong",
        2: "killed by SIGKILL (out of memory?)",
        3: "it ended without a record",
    }.items():
        assert f"  cause: {cause}\n  log:   {sweeps.folder(seed) / 'log.txt'}\n" in done.stderr
    assert done.stderr.strip().endswith("3 of 6 runs are done, 3 failed, 0 are left")
    assert "ValueError: this went wrong" in (sweeps.folder(1) / "log.txt").read_text()
    again = sweeps.run(seeds=6)
    assert again.returncode == 1  # `nothing` leaves its mark
    assert set(sweeps.records()) == {0, 1, 2, 4, 5}
    assert Counter(seed for seed, _, _ in sweeps.starts())[0] == 1


def test_array_tasks_are_limited(sweeps: SlurmSweeps) -> None:
    process = sweeps.start("hydra.launcher.array_parallelism=2", seeds=4, sleep=2)
    most = 0
    while process.poll() is None:
        most = max(most, sweeps.queue("%T").count("RUNNING"))
        time.sleep(0.1)
    process.communicate()
    assert process.returncode == 0
    assert most == 2
    assert len(sweeps.records()) == 4


def test_a_task_that_is_killed_is_submitted_again(sweeps: SlurmSweeps) -> None:
    process = sweeps.start("hydra.launcher.retries=1", seeds=2, deeds={"1": "hang_once"})
    until(lambda: len(sweeps.starts()) == 2 and len(sweeps.records()) == 1)
    (pid,) = [pid for seed, pid, _ in sweeps.starts() if seed == 1]
    os.kill(parent(pid), signal.SIGKILL)  # as for want of memory: the task, of which the run's process is a worker
    _, err = process.communicate(timeout=90)
    assert process.returncode == 0, err
    assert err.count("Slurm job") == 2
    assert Counter(seed for seed, _, _ in sweeps.starts()) == {0: 1, 1: 2}


def test_a_task_that_someone_cancels_is_left(sweeps: SlurmSweeps) -> None:
    process = sweeps.start("hydra.launcher.retries=1", seeds=1, deeds={"0": "hang_once"})
    until(lambda: len(sweeps.starts()) == 1)
    ask(sweeps.cluster, "scancel", *sweeps.queue())
    _, err = process.communicate(timeout=90)
    assert process.returncode == 1
    assert "0 of 1 runs are done, 0 failed, 1 are left" in err
    assert not list(sweeps.runs.glob("*/*/lease*"))


@pytest.mark.parametrize("how", ["requeue", "signal", "preempt", "grace"])
def test_a_task_taken_away_goes_on_later(sweeps: SlurmSweeps, how: str) -> None:
    partition = "graceful" if how == "grace" else "low"
    settings = ("hydra.launcher.runs_per_task=3", f"hydra.launcher.partition={partition}")
    process = sweeps.start(*settings, seeds=3, deeds={"1": "hang_once"})
    until(lambda: len(sweeps.starts()) == 2)
    (job,) = sweeps.queue()
    if how == "requeue":
        ask(sweeps.cluster, "scontrol", "requeue", job)
    elif how == "signal":
        ask(sweeps.cluster, "scancel", "--signal=USR2", job)
    else:
        ask(sweeps.cluster, "sbatch", "--partition=high", "--exclusive", "--output=/dev/null", "--wrap=sleep 1")
    _, err = process.communicate(timeout=200)
    assert process.returncode == 0, err
    assert err.count("Slurm job") == 1  # it was Slurm that started it again
    assert Counter(seed for seed, _, _ in sweeps.starts()) == {0: 1, 1: 2, 2: 1}
    assert set(sweeps.records()) == {0, 1, 2}


@pytest.mark.parametrize("pending", [False, True])
def test_interrupt_cancels_the_array(sweeps: SlurmSweeps, pending: bool) -> None:
    settings = ("hydra.launcher.array_parallelism=1",) if pending else ()
    settings += ("hydra.launcher.finish_within=1",)
    process = sweeps.start(*settings, seeds=3, deeds={"0": "hang_once", "1": "hang_once", "2": "hang_once"})
    until(lambda: len(sweeps.starts()) == (1 if pending else 3))
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "0 of 3 runs are done, 0 failed, 3 are left; the same command goes on where this one stopped" in err
    assert sweeps.queue() == []
    assert not list(sweeps.runs.glob("*/*/lease*"))
    assert "KeyboardInterrupt" in (sweeps.folder(0) / "log.txt").read_text()


def test_the_first_interrupt_lets_running_tasks_end(sweeps: SlurmSweeps) -> None:
    settings = ("hydra.launcher.array_parallelism=1", "hydra.launcher.finish_within=1000")
    process = sweeps.start(*settings, seeds=3, sleep=15)
    until(lambda: len(sweeps.starts()) == 1)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=90)
    assert process.returncode == 130, err
    assert "1 of 3 runs are done, 0 failed, 2 are left; the same command goes on where this one stopped" in err
    assert sweeps.queue() == []


def test_a_second_interrupt_cancels_the_array(sweeps: SlurmSweeps) -> None:
    process = sweeps.start("hydra.launcher.finish_within=1000", seeds=2, deeds={"0": "hang_once", "1": "hang_once"})
    until(lambda: len(sweeps.starts()) == 2)
    process.send_signal(signal.SIGINT)
    time.sleep(3)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 130
    until(lambda: sweeps.queue() == [])


def test_what_slurm_refuses_is_one_line(sweeps: SlurmSweeps) -> None:
    done = sweeps.run("hydra.launcher.partition=nowhere")
    assert done.returncode == 2
    assert "sbatch: error: Batch job submission failed: Invalid partition name specified" in done.stderr
    done = sweeps.run("+hydra.launcher.quality=high")
    assert done.returncode == 2
    assert "quality" in done.stderr
    assert "Traceback" not in done.stderr


def test_one_of_several_independent_processes_under_srun(tmp_path: Path) -> None:
    """As `srun -n 4 wandb agent`: each does runs of its own, whatever rank Slurm gives it."""
    slurm = {"SLURM_NTASKS": "4", "SLURM_PROCID": "3", "SLURM_LOCALID": "3", "SLURM_JOB_ID": "7"}
    slurm |= {"SLURM_JOB_NAME": "agents", "SLURM_NTASKS_PER_NODE": "4", "SLURM_NODEID": "0", "SLURM_NNODES": "1"}
    command = [sys.executable, "train.py", *TINY, f"runs_dir={tmp_path}"]
    env = {**os.environ, **slurm}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert len(list(tmp_path.glob(f"*/*/{names.RECORD}"))) == 1
