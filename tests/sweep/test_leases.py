import contextlib
import errno
import json
import multiprocessing
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from sourcewise.core import names
from sourcewise.core.errors import SourcewiseError
from sourcewise.sweep import leases
from sourcewise.sweep.lease_files import LeaseFiles
from sourcewise.sweep.leases import Holder, Leased, Watch, lease


def lease_of(folder: Path, **changes: object) -> Holder:
    """Write a lease as another holder would: by default one on another machine."""
    fields = {
        "token": "t0",
        "host": "elsewhere",
        "pid": 1,
        "place": "another boot",
        "birth": "77",
        "since": 0.0,
        "beat": "000000000000",
    }
    folder.mkdir(parents=True, exist_ok=True)
    fields |= changes
    (folder / "lease").write_text(json.dumps(fields))
    return Holder(**fields)  # type: ignore[arg-type]


def dead_lease(folder: Path, token: str = "t0") -> None:
    process = subprocess.Popen(["sleep", "100"])
    birth = leases._birth(process.pid)
    process.kill()
    process.wait()
    lease_of(folder, token=token, pid=process.pid, place=leases._place(), birth=birth)


@pytest.fixture
def hasty(monkeypatch):
    monkeypatch.setattr(leases, "HEARTBEAT", 0.02)
    monkeypatch.setattr(leases, "EXPIRY", 0.3)
    monkeypatch.setattr(leases, "DELAY", 0.0)


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_one_holder_at_a_time(tmp_path):
    with lease(tmp_path / "run"), pytest.raises(Leased, match=f"process {os.getpid()} on"):
        lease(tmp_path / "run").__enter__()
    assert files(tmp_path / "run") == []
    with lease(tmp_path / "run"):
        pass


def test_an_exception_frees_the_run(tmp_path):
    with pytest.raises(ValueError), lease(tmp_path):
        raise ValueError
    assert leases.holder(tmp_path) is None
    assert files(tmp_path) == []


def test_many_processes_one_winner(tmp_path):
    context = multiprocessing.get_context("fork")
    with context.Pool(6) as pool:
        for round_ in range(10):
            folder = tmp_path / str(round_)
            wins = pool.starmap(_try, [(folder,)] * 6)
            assert sum(wins) == 1


def _try(folder: Path) -> bool:
    try:
        leases._acquire(folder)
    except Leased:
        return False
    return True


def test_many_takers_of_a_dead_holder_one_winner(tmp_path):
    for round_ in range(30):
        folder = tmp_path / str(round_)
        dead_lease(folder)
        barrier, winners = threading.Barrier(8), []

        def take(folder=folder, barrier=barrier, winners=winners):
            barrier.wait()
            with contextlib.suppress(Leased):
                winners.append(leases._acquire(folder))

        threads = [threading.Thread(target=take) for _ in range(8)]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
        assert len(winners) == 1
        winners[0].check()
        winners[0].release()
        assert leases.holder(folder) is None
        assert files(folder) == []


def test_a_holder_killed_here_is_succeeded_at_once(tmp_path):
    code = "import sys, time\nfrom pathlib import Path\nfrom sourcewise.sweep.leases import lease\n"
    code += "with lease(Path(sys.argv[1])):\n    print('held', flush=True)\n    time.sleep(100)"
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    with pytest.raises(Leased):
        lease(tmp_path).__enter__()
    process.kill()
    while leases._birth(process.pid) != "gone":  # a zombie is dead enough
        time.sleep(0.01)
    with lease(tmp_path) as held:
        assert files(tmp_path) == sorted(["lease", f"lease-{leases._read(tmp_path / 'lease').token}"])
        held.check()
    assert files(tmp_path) == []
    process.wait()
    process.stdout.close()


def test_a_new_process_with_the_dead_holders_number_is_not_the_holder(tmp_path):
    lease_of(tmp_path, pid=os.getpid(), place=leases._place(), birth="1")
    assert leases.holder(tmp_path) is None


def test_process_numbers_of_another_container_mean_nothing(tmp_path):
    boot = leases._place().split()[0]
    lease_of(tmp_path, pid=2**22 - 1, place=f"{boot} pid:[1]")
    assert leases.holder(tmp_path) is not None


@pytest.mark.parametrize("since", [0.0, 4e9])  # a holder's clock decades behind or ahead
def test_another_machines_holder_expires_by_the_watchers_clock(tmp_path, hasty, since):
    lease_of(tmp_path, since=since)
    watch = Watch()
    assert watch.holder(tmp_path) is not None
    assert watch.holder(tmp_path) is not None
    with pytest.raises(Leased):
        lease(tmp_path, patience=0).__enter__()
    time.sleep(leases.EXPIRY + 0.05)
    assert watch.holder(tmp_path) is None
    assert files(tmp_path) == []


def test_a_beating_holder_is_never_taken_for_dead(tmp_path, hasty, monkeypatch):
    place = leases._place()
    monkeypatch.setattr(leases, "_place", lambda: "elsewhere")
    held = leases._acquire(tmp_path).keep()
    monkeypatch.setattr(leases, "_place", lambda: place)
    watch = Watch()
    for _ in range(20):
        assert watch.holder(tmp_path) is not None
        time.sleep(0.04)
    with pytest.raises(Leased):  # at the first sign of life
        lease(tmp_path, patience=60).__enter__()
    held.release()
    assert watch.holder(tmp_path) is None


def test_a_patient_lease_waits_until_a_silent_holder_has_expired(tmp_path, hasty, capsys):
    lease_of(tmp_path)
    with lease(tmp_path, patience=60):
        pass
    assert "leased by process 1 on elsewhere" in capsys.readouterr().err


def test_a_torn_lease_counts_as_held_and_expires(tmp_path, hasty):
    (tmp_path / "lease").touch()
    watch = Watch()
    assert "unknown" in str(watch.holder(tmp_path))
    time.sleep(leases.EXPIRY + 0.05)
    assert watch.holder(tmp_path) is None


def test_a_slow_taker_cannot_take_from_the_successors_successor(tmp_path, monkeypatch):
    """It saw t0 dead; before it acts, t0 was succeeded, that one has finished, and a third one holds the run."""
    dead_lease(tmp_path)
    stale = leases._chain(tmp_path)
    leases._acquire(tmp_path).release()
    third = leases._acquire(tmp_path)
    real, answers = leases._chain, iter([stale])
    monkeypatch.setattr(leases, "_chain", lambda folder: next(answers, None) or real(folder))
    with pytest.raises(Leased):
        leases._acquire(tmp_path)
    third.check()
    assert files(tmp_path) == ["lease"]


def test_a_holder_that_slept_too_long_finds_out(tmp_path):
    sleeper = leases._acquire(tmp_path)
    successor = leases._acquire(tmp_path, expired=sleeper.holder.token)
    with pytest.raises(Leased, match="taken over by"):
        sleeper.check()
    sleeper.release()
    successor.check()
    successor.release()
    assert files(tmp_path) == []


def test_a_run_that_was_taken_over_ends_at_the_next_heartbeat(tmp_path, hasty):
    with pytest.raises(Leased, match="taken over"), lease(tmp_path) as sleeper:
        successor = leases._acquire(tmp_path, expired=sleeper.holder.token)
        threading.Event().wait(60)
    successor.check()
    successor.release()
    assert files(tmp_path) == []


def test_ctrl_c_is_no_takeover(tmp_path, hasty):
    with pytest.raises(KeyboardInterrupt), lease(tmp_path):
        raise KeyboardInterrupt
    assert files(tmp_path) == []


def test_a_bid_frees_the_run_when_all_machines_have_seen_it(tmp_path, hasty, monkeypatch):
    monkeypatch.setattr(leases, "DELAY", 0.3)
    dead = lease_of(tmp_path)
    watch = Watch()
    watch.holder(tmp_path)
    time.sleep(leases.EXPIRY + 0.05)
    assert watch.holder(tmp_path) == dead
    assert files(tmp_path) == ["lease", "lease-t0"]
    assert Watch().holder(tmp_path) is not None  # others see the bid
    time.sleep(leases.DELAY + 0.05)
    assert watch.holder(tmp_path) is None
    assert files(tmp_path) == []


def test_a_bid_for_what_others_have_freed_meanwhile_frees_nothing(tmp_path, hasty, monkeypatch):
    monkeypatch.setattr(leases, "DELAY", 0.3)
    lease_of(tmp_path)
    watch = Watch()
    watch.holder(tmp_path)
    time.sleep(leases.EXPIRY + 0.05)
    watch.holder(tmp_path)
    (tmp_path / "lease").unlink()
    (tmp_path / "lease-t0").unlink()
    third = leases._acquire(tmp_path)
    time.sleep(leases.DELAY + 0.05)
    assert watch.holder(tmp_path) is not None
    third.check()
    third.release()


def test_a_lease_that_was_removed_before_its_first_heartbeat_is_no_error(tmp_path, monkeypatch):
    """On a network file system, by one who saw the run complete."""

    class Late(LeaseFiles):
        def overwrite(self, file: int, content: bytes) -> None:
            monkeypatch.undo()
            (tmp_path / "lease").unlink()
            raise OSError(errno.ESTALE, "Stale file handle")

    monkeypatch.setattr(leases, "FILES", Late())
    leases._acquire(tmp_path).release()
    assert files(tmp_path) == []


def test_a_forked_child_does_not_free_the_run(tmp_path):
    with lease(tmp_path) as held:
        child = multiprocessing.get_context("fork").Process(target=held.release)
        child.start()
        child.join()
        held.check()


def test_what_the_dead_left_is_removed(tmp_path):
    dead_lease(tmp_path)
    (tmp_path / ".record.safetensors.x.tmp").touch()
    with lease(tmp_path):
        assert not list(tmp_path.glob("*.tmp"))
        (tmp_path / "lease-of-a-failed-taker").touch()
        (tmp_path / "checkpoint-source.pt").touch()
        (tmp_path / names.RECORD).touch()
    assert files(tmp_path) == [names.RECORD]


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(SourcewiseError, match="cannot lease the run"), lease(tmp_path / "file" / "run"):
        pass
