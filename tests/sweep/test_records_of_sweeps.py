"""Which records of a sweep are done, damaged, or of something else, and what status says of them."""

# ruff: noqa: F401, F811  (fixtures are imported, and named again as arguments)

import os
import subprocess
from collections import Counter

import pytest
from fake_sweeps import sweeps, until

from sourcewise.core import names
from sourcewise.sweep import leases


def test_status(sweeps):
    failing = {"1": "raise", "3": "raise", "5": "kill"}
    assert sweeps.run("hydra.launcher.retries=0", seeds=6, deeds=failing).returncode == 1
    with (sweeps.folder(4) / names.RECORD).open("r+b") as file:
        file.truncate(100)
    started = sweeps.start("subset.seed=6", seeds=1, deeds={"6": "hang"})
    until(lambda: any(seed == 6 for seed, _, _ in sweeps.starts()))
    started.kill()
    started.communicate()
    until(lambda: leases.abandoned(sweeps.folder(6)))
    before = sweeps.starts()
    with leases.lease(sweeps.folder(3)):
        done = sweeps.run("hydra.launcher.status=true", seeds=8)
    assert done.returncode == 0, done.stderr
    study_folder, *lines = done.stdout.splitlines()
    assert study_folder == str(sweeps.folder(0).parent)
    counts = {"done": "2", "running": "1", "failed": "2", "damaged": "1", "missing": "2"}
    assert dict(line.split() for line in lines[:5]) == counts
    assert lines[5].startswith(f"running  subset.seed=3  process {os.getpid()} on ")
    assert lines[6] == f"failed   subset.seed=1  ValueError: this went wrong (see {sweeps.folder(1) / 'log.txt'})"
    assert lines[7].startswith("failed   subset.seed=5  killed by SIGKILL (out of memory?) (see ")
    assert lines[8].startswith("damaged  subset.seed=4  ")
    assert "truncated" in lines[8]
    assert lines[9:11] == ["missing  subset.seed=6", "missing  subset.seed=7"]
    assert lines[11].startswith("to complete it: python ")
    assert "hydra.launcher.status" not in lines[11]
    assert "'subset.seed=range(0,8)'" in lines[11]
    assert sweeps.starts() == before


@pytest.mark.parametrize("damage", ["truncate", "change", "empty", "another kind"])
def test_a_damaged_record_is_made_again(sweeps, damage):
    assert sweeps.run(seeds=3).returncode == 0
    path = sweeps.folder(1) / names.RECORD
    content = path.read_bytes()
    changed = bytes([content[100] ^ 1])
    path.write_bytes(
        {
            "truncate": content[:-7],
            "change": content[:100] + changed + content[101:],
            "empty": b"",
            "another kind": b"hello\n" * 100,
        }[damage]
    )
    done = sweeps.run(seeds=3)
    assert done.returncode == 0, done.stderr
    assert f"{path}: " in done.stderr
    assert "the run is done again" in done.stderr
    assert path.read_bytes() == content
    assert Counter(seed for seed, _, _ in sweeps.starts()) == {0: 1, 1: 2, 2: 1}
    assert sweeps.leftovers() == []


def test_a_copy_of_another_runs_record_counts_for_nothing(sweeps):
    assert sweeps.run(seeds=3).returncode == 0
    path, content = sweeps.folder(1) / names.RECORD, (sweeps.folder(1) / names.RECORD).read_bytes()
    path.write_bytes((sweeps.folder(0) / names.RECORD).read_bytes())
    assert "damaged      1" in sweeps.run("hydra.launcher.status=true", seeds=3).stdout
    done = sweeps.run(seeds=3)
    assert done.returncode == 0, done.stderr
    assert f"{path}: the record of another run" in done.stderr
    assert "2 of 3 runs are done already" in done.stderr
    assert path.read_bytes() == content
    (kept,) = sweeps.leftovers()  # it may be the only copy of someone's work
    assert kept.read_bytes() == (sweeps.folder(0) / names.RECORD).read_bytes()
    assert Counter(seed for seed, _, _ in sweeps.starts()) == {0: 1, 1: 2, 2: 1}


@pytest.mark.slow
def test_records_of_other_data_are_not_done_and_nothing_is_trained_unasked(sweeps, tmp_path):
    groups = tmp_path / "groups.csv"

    def sweep(*overrides: str, seeds: int = 3) -> subprocess.CompletedProcess[str]:
        return sweeps.run(f"source.groups={groups}", *overrides, seeds=seeds)

    groups.write_text("one")
    assert sweep().returncode == 0
    assert "3 of 3 runs are done already" in sweep().stderr
    before = {path: path.read_bytes() for path in sweeps.runs.glob(f"*/*/{names.RECORD}")}
    groups.write_text("two")
    done = sweep(seeds=5)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "3 of 5 runs have records of other data" in line
    assert "source changed since; nothing was trained" in line
    assert "study=<another name>" in line
    assert len(sweeps.starts()) == 3
    status = sweep("hydra.launcher.status=true", seeds=5).stdout
    assert "other data   3" in status
    assert "missing      2" in status

    assert sweep("study=mended", seeds=5).returncode == 0
    assert len(list(sweeps.runs.glob("mended-*/*"))) == 5
    assert {path: path.read_bytes() for path in before} == before

    assert sweep("retrain=true", seeds=5).returncode == 0
    assert [path.read_bytes() for path in sweeps.leftovers()] == [
        before[path.parent / names.RECORD] for path in sweeps.leftovers()
    ]
    assert len(sweeps.leftovers()) == 3
    assert "5 of 5 runs are done already" in sweep(seeds=5).stderr
    assert Counter(seed for seed, _, _ in sweeps.starts()) == {0: 3, 1: 3, 2: 3, 3: 2, 4: 2}


def test_records_in_a_renamed_folder_of_the_same_recipe_are_done(sweeps):
    assert sweeps.run("study=first", seeds=2).returncode == 0
    (study,) = sweeps.runs.glob("first-*")
    study.rename(study.with_name(study.name.replace("first", "second")))
    done = sweeps.run("study=second", seeds=2)
    assert "2 of 2 runs are done already" in done.stderr


def test_a_record_of_another_version_is_never_touched(sweeps):
    assert sweeps.run(seeds=2).returncode == 0
    path = sweeps.folder(1) / names.RECORD
    content = path.read_bytes().replace(b'schema\\": 1', b'schema\\": 7')
    path.write_bytes(content)
    done = sweeps.run(seeds=2)
    assert done.returncode == 1
    assert "a record of schema 7" in done.stderr
    assert path.read_bytes() == content
