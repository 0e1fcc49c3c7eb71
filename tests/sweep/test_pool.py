import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from sourcewise.core.errors import SourcewiseError
from sourcewise.sweep.pool import Outcome, Pool
from sourcewise.sweep.runs import Run
from sourcewise.sweep.tasks import load

TASK = f"{Path(__file__).parents[1] / 'fake_task.py'}:simple"
LIMIT = 60.0


@pytest.fixture
def pool() -> Iterator[Pool]:
    with Pool(load(TASK), [{}], grace=0.5) as pool:
        yield pool


def test_a_failure_has_the_line_of_a_single_run(tmp_path: Path) -> None:
    code = """
from sourcewise.sweep import worker
from sourcewise.core.errors import SourcewiseError
def fail(config, overrides):
    try:
        raise SourcewiseError("there is no such folder")
    except SourcewiseError as error:
        raise RuntimeError("Error in call to target") from error
status, cause, _ = worker.perform(fail, {}, "log.txt")
assert (status, cause) == ("raised", "there is no such folder"), cause
"""
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
    assert (tmp_path / "log.txt").read_text().splitlines()[-1] == "there is no such folder"


def do(pool: Pool, folder: Path, *configs: dict[str, Any]) -> list[Outcome]:
    """Outcomes of runs, in the runs' order."""
    pending = [Run(i, config, folder / f"{i}.txt") for i, config in enumerate(configs)]
    outcomes: list[Outcome] = []
    while len(outcomes) < len(configs):
        while pending and pool.idle():
            pool.submit(pending.pop(0))
        outcomes += wait(pool)
    return sorted(outcomes, key=lambda outcome: outcome.run.index)


def wait(pool: Pool) -> Sequence[Outcome]:
    found = pool.wait(LIMIT)
    assert found, "no outcome in a minute"
    return found


def until(condition) -> None:
    for _ in range(int(LIMIT / 0.01)):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("it did not happen in a minute")


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def test_runs_share_a_worker_and_each_has_its_log(pool, tmp_path):
    first, second = do(pool, tmp_path, {"print": "one"}, {"print": "two"})
    assert first.status == second.status == "returned"
    assert first.value == second.value != os.getpid()
    for name, word in (("0.txt", "one"), ("1.txt", "two")):
        text = (tmp_path / name).read_text()
        assert sorted(text.splitlines()) == sorted([word, "to stderr", "by file descriptor", "by a child"])


def test_every_slot_has_its_worker_and_its_environment(tmp_path):
    with Pool(load(TASK), [{"WHERE": "a"}, {"WHERE": "b"}]) as pool:
        jobs = [Run(i, {"sleep": 0.2, "env": "WHERE"}, tmp_path / "log") for i in range(2)]
        [pool.submit(job) for job in jobs]
        assert pool.idle() == []
        outcomes = [*wait(pool)]
        while len(outcomes) < 2:
            outcomes += wait(pool)
    assert {outcome.value for outcome in outcomes} == {"a", "b"}


def test_an_exception_is_the_runs_own_and_the_worker_is_replaced(pool, tmp_path):
    bad, good, exit_, other = do(pool, tmp_path, {"raise": 1}, {}, {"exit": 1}, {})
    assert (bad.status, bad.cause) == ("raised", "ValueError: this went wrong")
    assert "Traceback" in (tmp_path / "0.txt").read_text()
    assert "ValueError: this went wrong\nand more of it" in (tmp_path / "0.txt").read_text()
    assert (exit_.status, exit_.cause) == ("raised", "SystemExit: 3")
    assert good.status == other.status == "returned"
    assert good.value != other.value


@pytest.mark.parametrize(
    ("deed", "cause"),
    [
        ("kill", "killed by SIGKILL (out of memory?)"),
        ("segfault", "killed by SIGSEGV"),
        ("die", "the worker process exited with status 4"),
    ],
)
def test_a_killed_worker_costs_its_run_only(pool, tmp_path, deed, cause):
    bad, good = do(pool, tmp_path, {deed: 1}, {})
    assert (bad.status, bad.cause) == ("killed", cause)
    assert good.status == "returned"
    if deed == "segfault":
        assert "Fatal Python error: Segmentation fault" in (tmp_path / "0.txt").read_text()


@pytest.mark.parametrize("deed", ["hang", "stubborn"])
def test_a_hanging_run_is_stopped(tmp_path, deed):
    with Pool(load(TASK), [{}], timeout=2, grace=0.3) as pool:
        bad, good = do(pool, tmp_path, {deed: 1}, {})
    assert (bad.status, bad.cause) == ("timeout", "hung: stopped after 2 s")
    assert good.status == "returned"
    assert ("KeyboardInterrupt" if deed == "hang" else "I shall not stop") in (tmp_path / "0.txt").read_text()


def test_a_full_disk_hides_no_cause(pool, tmp_path):
    pool.submit(Run(0, {"raise": 1}, Path("/dev/full")))
    (outcome,) = wait(pool)
    assert (outcome.status, outcome.cause) == ("raised", "ValueError: this went wrong")
    pool.submit(Run(1, {"print": 1}, Path("/dev/full")))
    (outcome,) = wait(pool)
    assert (outcome.status, outcome.cause) == ("raised", "OSError: [Errno 28] No space left on device")


def test_a_log_that_cannot_be_written_is_the_runs_failure(pool, tmp_path):
    (tmp_path / "file").touch()
    pool.submit(Run(0, {}, tmp_path / "file" / "log.txt"))
    (outcome,) = wait(pool)
    assert outcome.status == "raised"
    assert "NotADirectoryError" in outcome.cause or "FileExistsError" in outcome.cause


def test_a_run_leased_by_others_is_no_failure(pool, tmp_path):
    taken, free = do(pool, tmp_path, {"leased": 1}, {})
    assert (taken.status, taken.cause) == ("leased", "someone has it")
    assert not (tmp_path / "0.txt").read_text()
    assert [worker.pid for worker in pool._workers] == [free.value]


def test_workers_are_recycled(tmp_path):
    with Pool(load(TASK), [{}], recycle_after=2) as pool:
        pids = [outcome.value for outcome in do(pool, tmp_path, *[{}] * 5)]
    assert pids[0] == pids[1] != pids[2] == pids[3] != pids[4]


@pytest.mark.parametrize("end", ["kill", "raise"])
def test_what_a_failed_run_started_ends_with_it(pool, tmp_path, end):
    do(pool, tmp_path, {"child": str(tmp_path / "child"), "fork": 1, end: 1}, {})
    child = int((tmp_path / "child").read_text())
    until(lambda: not pool.wait(0.01) and not alive(child))  # the pool must listen to notice that a worker has ended


def test_stop_interrupts_runs(tmp_path):
    with Pool(load(TASK), [{}, {}], grace=0.3) as pool:
        for i, deed in enumerate(["hang", "stubborn"]):
            pool.submit(Run(i, {"pid_to": str(tmp_path / deed), deed: 1}, tmp_path / f"{i}.txt"))
        until(lambda: (tmp_path / "hang").exists() and (tmp_path / "stubborn").exists())
        while pool.wait(0.01):
            pass
        pool.stop()
        outcomes = [*wait(pool)]
        while len(outcomes) < 2:
            outcomes += wait(pool)
    assert {outcome.status for outcome in outcomes} == {"stopped"}
    assert "KeyboardInterrupt" in (tmp_path / "0.txt").read_text()


def test_stop_before_a_run_has_started(pool, tmp_path):
    pool.submit(Run(0, {"hang": 1}, tmp_path / "log"))
    pool.stop()
    assert [outcome.status for outcome in wait(pool)] == ["stopped"]


def test_wake_ends_a_wait(pool):
    pool.wake()
    assert pool.wait(LIMIT) == []


@pytest.mark.parametrize("task", ["no_such_module:f", "sourcewise.sweep.pool:no_such_function", "no/such/file.py:f"])
def test_a_task_that_cannot_be_imported_is_one_line(tmp_path, task):
    with (
        pytest.raises(SourcewiseError, match="worker processes cannot start: .*no.such"),
        Pool(load(task), [{}]) as pool,
    ):
        do(pool, tmp_path, {})


def test_imports_are_paid_once(tmp_path):
    module = tmp_path / "heavy_module.py"
    module.write_text(
        f"import os\nwith open({str(tmp_path / 'imports')!r}, 'a') as file:\n    file.write(str(os.getpid()) + '\\n')\n"
    )
    sys.path.insert(0, str(tmp_path))
    try:
        with Pool(load(TASK), [{}], preload=["heavy_module", "module_that_is_not_there"]) as pool:
            do(pool, tmp_path, {}, {"kill": 1}, {}, {"raise": 1}, {})
    finally:
        sys.path.remove(str(tmp_path))
    assert len((tmp_path / "imports").read_text().split()) == 1


def test_everything_ends_when_the_launching_process_is_killed(tmp_path):
    code = f"""
import sys, time
from pathlib import Path
from sourcewise.sweep.pool import Pool
from sourcewise.sweep.runs import Run
from sourcewise.sweep.tasks import load
pool = Pool(load({TASK!r}), [{{}}, {{}}])
for i in range(2):
    config = {{"child": f"{tmp_path}/child{{i}}", "pid_to": f"{tmp_path}/worker{{i}}", "stubborn": 1}}
    pool.submit(Run(i, config, Path("{tmp_path}/log")))
pool.wait(1)
pool.wait()
"""
    process = subprocess.Popen([sys.executable, "-c", code])
    names = ["child0", "child1", "worker0", "worker1"]
    until(lambda: all((tmp_path / name).exists() and (tmp_path / name).read_text() for name in names))
    pids = [int((tmp_path / name).read_text()) for name in names]
    assert all(alive(pid) for pid in pids)
    process.send_signal(signal.SIGKILL)
    process.wait()
    until(lambda: not any(alive(pid) for pid in pids))


def test_close_leaves_no_process(tmp_path):
    with Pool(load(TASK), [{}, {}]) as pool:
        do(pool, tmp_path, {}, {})
        pids = [worker.pid for worker in pool._workers]
    assert not any(alive(pid) for pid in pids)
    files = len(list(Path("/proc/self/fd").iterdir()))
    with Pool(load(TASK), [{}]) as pool:
        do(pool, tmp_path, {})
    assert len(list(Path("/proc/self/fd").iterdir())) == files


def test_open_files_stay_the_same(pool, tmp_path):
    do(pool, tmp_path, *[{}] * 3)
    before = len(list(Path("/proc/self/fd").iterdir()))
    counts = [outcome.value for outcome in do(pool, tmp_path, *[{"files": 1}] * 30)]
    assert len(set(counts)) == 1
    do(pool, tmp_path, *[{"raise": 1}, {"kill": 1}] * 3, {})
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_load_finds_functions_by_module_and_by_file(tmp_path):
    assert load("os.path:join") is os.path.join
    (tmp_path / "some_task.py").write_text("def f(config, overrides): return 7")
    assert load(f"{tmp_path}/some_task.py:f")({}, []) == 7
