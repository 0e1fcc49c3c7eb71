"""Studies of data that change, move and are mended: what is trained anew, what counts as done, and what is said of it."""

import shutil
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Compose
from PIL import Image
from test_commands import command

from sourcewise.commands import datasets, train
from sourcewise.core import names
from sourcewise.core.errors import WORKER, SourcewiseError
from sourcewise.records import record
from sourcewise.records.reading import Records
from sourcewise.sweep.fingerprints import Reader

LETTERS = [*"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"]
Study = Callable[..., dict[str, Any]]


def images(folder: Path, classes: str, count: int) -> Path:
    """Write coloured noise, `count` images for each class of one letter."""
    for name in classes:
        rng = np.random.default_rng(zlib.crc32(name.encode()))
        base = rng.integers(0, 200, 3)
        (folder / name).mkdir(parents=True)
        for i in range(count):
            noise = base + rng.integers(0, 56, (8, 8, 3))
            Image.fromarray(noise.astype(np.uint8)).save(folder / name / f"{i:03d}.png")
    return folder


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def grouped(tiny: Compose, tmp_path: Path) -> Study:
    """Composes runs of the embedded source, its groups in the file g.csv, which has no `data`."""

    def compose(*overrides: str, letters: str = "letters") -> dict[str, Any]:
        table = [f"{name},{'digits' if name.isdigit() else letters}" for name in LETTERS]
        (tmp_path / "g.csv").write_text("\n".join([*table[:-1], "Z,last"]))
        return tiny(f"source.groups={tmp_path / 'g.csv'}", *overrides)

    return compose


@pytest.fixture
def folders(tiny: Compose, tmp_path: Path) -> Study:
    """Composes runs of images of the folders S and T, their data resolved."""
    images(tmp_path / "S", "abcd", 6), images(tmp_path / "T", "xy", 8)

    def compose(*overrides: str) -> dict[str, Any]:
        roots = [f"source.root={tmp_path / 'S'}", f"target.imagefolder.root={tmp_path / 'T'}"]
        small = ["source.train.side=8", *(f"target.imagefolder.{part}.per_class=4" for part in ("train", "test"))]
        return dict(datasets.resolve_data(tiny("experiment=folders", *roots, *small, *overrides)))

    return compose


def test_copies_of_the_data_at_another_path_are_the_same_study(folders: Study, tmp_path: Path) -> None:
    metrics = train.train(folders())
    shutil.copytree(tmp_path / "S", tmp_path / "elsewhere" / "S")
    copied = folders(f"source.root={tmp_path / 'elsewhere' / 'S'}")
    assert names.run_dir(copied) == names.run_dir(folders())
    assert train.train(copied) == metrics
    train.train(folders(f"source.root={tmp_path / 'elsewhere' / 'S'}", "subset.seed=1"))
    assert len(list(Records(str(names.run_dir(copied).parent), progress=False))) == 2


def test_mended_labels_are_another_study_and_the_first_is_kept(folders: Study, tmp_path: Path) -> None:
    before = folders()
    train.train(before)
    content = (names.run_dir(before) / names.RECORD).read_bytes()
    (tmp_path / "S" / "b" / "000.png").rename(tmp_path / "S" / "c" / "b0.png")
    after = folders()
    assert names.recipe(before) == names.recipe(after)
    train.train(after)
    assert names.run_dir(after) != names.run_dir(before)
    assert (names.run_dir(before) / names.RECORD).read_bytes() == content
    with pytest.raises(SourcewiseError, match=r"one recipe and other data \(source differs\) do not mix"):
        list(Records(before["runs_dir"], progress=False))


def test_a_worker_whose_data_changed_trains_nothing(folders: Study, tmp_path: Path) -> None:
    config = folders()
    (tmp_path / "S" / "b" / "000.png").rename(tmp_path / "S" / "c" / "b0.png")
    with pytest.raises(SourcewiseError, match="the data changed while the sweep ran: source;"):
        train.train(config)
    assert not names.is_done(names.run_dir(config))


def test_a_worker_reads_the_times_of_files_once(folders: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    from sourcewise.data import load
    from sourcewise.data.loaders import Folder

    config, stamp, asked = folders(), Folder.stamp, list[str]()
    monkeypatch.setattr(Folder, "stamp", lambda self: asked.append(self.root) or stamp(self))
    monkeypatch.setattr(load, "_STAMPS", {})
    monkeypatch.setenv(WORKER, "1")
    for seed in (0, 1, 2):
        train.train({**config, "subset": {**config["subset"], "seed": seed}})
    assert len(asked) == 2  # S once; T, which train and test share, once


def test_records_of_an_edited_groups_file_are_not_done(grouped: Study, capsys: pytest.CaptureFixture[str]) -> None:
    config = grouped()
    metrics = train.train(config)
    folder = names.run_dir(config)
    assert train.train(grouped()) == metrics
    edited = grouped(letters="others")
    assert names.run_dir(edited) == folder
    with pytest.raises(
        SourcewiseError, match=r"of other data: source changed since; nothing was trained.*study=.*retrain"
    ):
        train.train(edited)
    content = (folder / names.RECORD).read_bytes()
    train.train(grouped("retrain=true", letters="others"))
    assert "source changed since: it is kept as record." in capsys.readouterr().err
    assert "others" in record.read(folder / names.RECORD).header.group_names  # type: ignore[operator]
    assert [path.read_bytes() for path in folder.glob("record.*.safetensors")] == [content]


def test_another_name_keeps_records_of_other_data_apart(grouped: Study) -> None:
    config = grouped()
    train.train(config)
    train.train(grouped("study=mended", letters="others"))
    for study in ("characters", "mended"):
        (folder,) = Path(config["runs_dir"]).glob(f"{study}-*")
        assert len(list(Records(str(folder), progress=False))) == 1
    with pytest.raises(SourcewiseError, match=r"one recipe and other data \(source differs\)"):
        list(Records(config["runs_dir"], progress=False))


def test_the_record_of_another_run_is_not_taken_for_this_ones(tiny: Compose) -> None:
    first, second = tiny(), tiny("subset.seed=1")
    train.train(first)
    metrics = train.train(second)
    path = names.run_dir(second) / names.RECORD
    path.write_bytes((names.run_dir(first) / names.RECORD).read_bytes())
    assert train.train(second) == metrics
    assert record.read(path).header.subset_seed == 1


@pytest.mark.slow
def test_the_launcher_asks_a_process_of_its_own_once(folders: Study, tmp_path: Path) -> None:
    config = folders()
    reader = Reader("sourcewise.commands.train:train")
    assert reader(config) == datasets.fingerprints(config)
    shutil.rmtree(tmp_path / "S")
    assert reader({**config, "seed": 5}) == reader(config)  # known by now
    with pytest.raises(SourcewiseError, match="S: there is no such folder"):
        Reader("sourcewise.commands.train:train")(config)
    (tmp_path / "task.py").write_text("def train(config, overrides): ...")
    assert Reader(f"{tmp_path / 'task.py'}:train")(config) is None


@pytest.mark.slow
def test_sweeps_on_data_that_change_and_move(tmp_path: Path) -> None:
    source, target = images(tmp_path / "S", "abcdef", 20), images(tmp_path / "T", "xyz", 30)
    common = ("experiment=folders", "logger=none", f"runs_dir={tmp_path / 'R'}", "source.pretraining.epochs=1")
    common += ("transfer.epochs=2", f"target.imagefolder.root={target}")

    def sweep(root: Path, count: int = 4) -> str:
        done = command("train.py", "-m", *common, f"source.root={root}", f"subset.seed=range(0,{count})")
        assert done.returncode == 0, done.stderr
        return done.stderr

    def studies() -> dict[str, int]:
        return {folder.name: len(list(folder.glob("*/record.safetensors"))) for folder in (tmp_path / "R").iterdir()}

    assert "other data" not in sweep(source)
    (first,) = studies()
    assert "4 of 4 runs are done already" in sweep(source)
    for i in range(10):
        (source / "b" / f"{i:03d}.png").rename(source / "c" / f"b{i}.png")
    said = sweep(source)
    assert f"runs are trained anew: {tmp_path / 'R' / first} (4 runs; source differs)" in said
    assert "done already" not in said
    assert sorted(studies().values()) == [4, 4]
    shutil.copytree(source, tmp_path / "copy" / "S")
    assert "4 of 6 runs are done already" in sweep(tmp_path / "copy" / "S", 6)
    assert sorted(studies().values()) == [4, 6]
    (second,) = studies().keys() - {first}
    records = tmp_path / "R" / second
    done = command("estimate.py", f"records={records}", f"out={tmp_path / 'out'}", "logger=none")
    assert (done.returncode, "6 models" in done.stdout) == (0, True), done.stderr
    done = command("estimate.py", f"records={tmp_path / 'R'}", f"out={tmp_path / 'out'}", "logger=none")
    assert done.returncode == 2
    assert "records of one recipe and other data (source differs) do not mix" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
