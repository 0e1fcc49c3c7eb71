"""Whose record lies in a run's folder, and what becomes of one that is not the run's."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from conftest import compose_config
from fake_records import make

from sourcewise.core import identity, names
from sourcewise.core.errors import SourcewiseError
from sourcewise.records import record
from sourcewise.sweep.belonging import look, other_studies, set_aside

CONTENTS = {"imagefolder": "aa", "digits/train": "bb", "digits/test": "cc"}


def config(folder: Path, *overrides: str, contents: Mapping[str, str] = CONTENTS) -> dict[str, Any]:
    composed = compose_config("source=imagefolder", f"source.root={folder}", f"runs_dir={folder}", *overrides)
    return identity.with_data(composed, contents)


def write(run: dict[str, Any], contents: Mapping[str, str] = CONTENTS, seed: int = 0) -> Path:
    folder = names.run_dir(run)
    names_of_run = {"study": folder.parent.name, "run": folder.name}
    record.write(make(seed, config=run, fingerprints=dict(contents), **names_of_run), folder / names.RECORD)
    return folder


def test_a_record_is_the_runs_own_if_it_is_of_its_recipe_subset_seed_and_data(tmp_path: Path) -> None:
    run, other = config(tmp_path), config(tmp_path, "subset.seed=1")
    assert look(names.run_dir(run), run, lambda config: CONTENTS).state == "missing"
    folder, copy = write(run), names.run_dir(other)
    there = look(folder, run, lambda config: CONTENTS)
    assert (there.state, there.record is not None) == ("done", True)
    copy.mkdir()
    (copy / names.RECORD).write_bytes((folder / names.RECORD).read_bytes())
    there = look(copy, other, lambda config: CONTENTS)
    assert there.state == "foreign"
    assert f"{copy / names.RECORD}: the record of another run ({folder.parent.name}/{folder.name})" in there.detail


def test_a_record_of_other_data_is_not_done_and_the_datasets_are_named(tmp_path: Path) -> None:
    run = config(tmp_path)
    folder = write(run)
    there = look(folder, run, lambda config: {**CONTENTS, "imagefolder": "new", "digits/test": "new"})
    assert (there.state, there.detail, there.record) == ("changed", "source, digits/test", None)


def test_records_count_where_the_data_are_not_at_hand_or_the_task_does_not_tell(tmp_path: Path) -> None:
    run = config(tmp_path)
    folder = write(run)

    def gone(config: object) -> dict[str, str]:
        raise SourcewiseError("no such folder")

    assert look(folder, run, gone).state == "done"
    assert look(folder, run, lambda config: None).state == "done"


def test_data_in_memory_are_not_asked_for(tmp_path: Path) -> None:
    run = compose_config(f"runs_dir={tmp_path}")
    folder = write(run, {})

    def never(config: object) -> dict[str, str]:
        raise AssertionError

    assert look(folder, run, never).state == "done"


def test_a_whole_record_is_kept_beside_for_nothing_to_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, contents = config(tmp_path), dict(CONTENTS)
    for value in ("one", "two"):
        folder, before = write(run), contents
        content = (folder / names.RECORD).read_bytes()
        contents = {**CONTENTS, "imagefolder": value}
        set_aside(folder, look(folder, run, lambda config: contents))  # noqa: B023
        assert "source changed since: it is kept as record." in capsys.readouterr().err
        assert look(folder, run, lambda config: contents).state == "missing"  # noqa: B023
        assert before != contents
        kept = list(folder.glob("record.*.safetensors"))
        assert [path.read_bytes() for path in kept] == [content]
    (folder / names.RECORD).write_text("hello")
    set_aside(folder, look(folder, run, lambda config: CONTENTS))
    assert "the run is done again" in capsys.readouterr().err
    assert not (folder / names.RECORD).exists()


def test_studies_of_the_recipe_with_other_data_are_named(tmp_path: Path) -> None:
    new = {**CONTENTS, "imagefolder": "new"}
    run = config(tmp_path, contents=new)
    assert other_studies(run, new) == ""
    for seed in (0, 1):
        first = write(config(tmp_path, f"subset.seed={seed}"))
    write(config(tmp_path, "model.width=8"))  # another recipe
    old = config(tmp_path, "subset.seed=2", contents=new)
    old["source"]["data"] = "/the/path"
    older = write(old, new).parent
    older = older.rename(older.with_name("imagefolder-digits-small_cnn-fixed-0123456789"))  # as it was named then
    write(run, new)
    line = other_studies(run, new)
    assert f"{first.parent} (2 runs; source differs)" in line
    assert f"{older} (1 run; the same data)" in line
    assert line.count("; ") == 2
