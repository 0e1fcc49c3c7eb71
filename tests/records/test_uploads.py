"""Which runs W&B has, by the notes in their folders, and the command that uploads the others."""

from pathlib import Path

import pytest

from sourcewise.records import uploads
from sourcewise.records.places import page
from sourcewise.records.uploads import Note, closing_line


@pytest.fixture
def logs(tmp_path: Path) -> Path:
    return tmp_path / "my runs" / "wandb"


def add(logs: Path, name: str, note: Note, synced: bool = False) -> Path:
    """A run's folder with a note, and the folder of its W&B run."""
    folder = logs.parent / "study" / name
    folder.mkdir(parents=True)
    uploads.write(folder, note)
    (logs / note.log).mkdir(parents=True)
    if synced:
        (logs / note.log / "run-x.wandb.synced").touch()
    return folder


def test_the_line_counts_names_and_uploads_what_is_not_in_wandb(logs: Path) -> None:
    folders = [
        add(logs, "a", Note("run-1-a", uploaded=True)),
        add(logs, "b", Note("offline-run-1-b"), synced=True),
        add(logs, "c", Note("run-1-c")),
        add(logs, "d", Note("offline-run-1-d")),
    ]
    (logs.parent / "study" / "e").mkdir()  # not tracked
    line = closing_line(logs, [*folders, logs.parent / "study" / "e"])
    paths = f"'{logs}/run-1-c' '{logs}/offline-run-1-d'"
    assert line == f"W&B: 2 of 5 runs are uploaded, not c, d; upload what is here: wandb sync --include-online {paths}"
    assert closing_line(logs, folders[:2]) == "W&B: 2 of 2 runs are uploaded"
    assert "--include-online" not in closing_line(logs, folders[3:])


def test_many_offline_runs_are_a_pattern_and_a_number(logs: Path) -> None:
    folders = [add(logs, f"r{i}", Note(f"offline-run-1-{i}")) for i in range(96)]
    line = closing_line(logs, folders)
    assert line.startswith("W&B: 0 of 96 runs are uploaded, not r0, r1, r2, r3, r4 and 91 more; ")
    assert line.endswith(f": wandb sync '{logs}'/offline-run-*")


def test_what_lies_on_another_machine_is_counted_and_not_in_the_command(logs: Path) -> None:
    folders = [add(logs, "a", Note("offline-run-1-a")), add(logs, "b", Note("offline-run-1-b"))]
    (logs / "offline-run-1-b").rmdir()
    line = closing_line(logs, folders)
    assert f"the files of 1 are not in {logs}, but on another machine or removed" in line
    assert line.endswith(f"wandb sync '{logs}/offline-run-1-a'")
    assert "wandb sync" not in closing_line(logs, folders[1:])


def test_runs_that_were_never_tracked_need_no_line(logs: Path) -> None:
    assert closing_line(logs, [logs.parent / "study" / "a"]) == ""


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[" * 10_000,
        "[1]",
        '{"log": "../../x"}',
        '{"log": "run-1-a; rm -rf x"}',
        '{"log": "run-1-a", "url": "javascript:alert(1)"}',
        '{"log": "run-1-a", "sweep": "a b"}',
        '{"log": "run-1-a", "more": 1}',
        '{"log": 5}',
    ],
)
def test_a_note_that_makes_no_sense_is_none(tmp_path: Path, content: str) -> None:
    (tmp_path / uploads.NOTE).write_text(content)
    assert uploads.read(tmp_path) is None


def test_the_page_of_a_record_is_known_from_its_place_or_its_note(
    logs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:4711")
    assert page("wandb:me/my project/abc") == "http://127.0.0.1:4711/me/my%20project/runs/abc"
    folder = add(logs, "a", Note("run-1-a", url="http://127.0.0.1:4711/me/p/runs/a"))
    assert page(str(folder / "record.safetensors")) == "http://127.0.0.1:4711/me/p/runs/a"
    assert page(str(tmp_path / "record.safetensors")) is None
