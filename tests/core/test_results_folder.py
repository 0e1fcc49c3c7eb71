"""Results that replace the former ones as a whole."""

import multiprocessing
import os
from pathlib import Path

import pytest

from sourcewise.core.results_folder import MANIFEST, RESERVED, replacing


def files(folder: Path) -> dict[str, str]:
    """All files but the manifest, with their content."""
    paths = [path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST]
    return {str(path.relative_to(folder)): path.read_text() for path in paths}


def write(out: Path, label: str, *names: str, keep: tuple[str, ...] = ()) -> None:
    with replacing(out, label, keep) as folder:
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(label)


def test_nothing_of_the_former_results_stays_and_all_else_does(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs/record").write_text("mine")
    (tmp_path / "notes.txt").write_text("mine")
    write(tmp_path, "a", "summary.json", "digits/influences.nc", "digits/label_mapping.csv", "drop.txt")
    (tmp_path / "digits/mine.txt").write_text("mine")
    write(tmp_path, "b", "summary.json", "pets/influences.nc", keep=("drop.txt",))
    mine = dict.fromkeys(("runs/record", "notes.txt", "digits/mine.txt"), "mine")
    assert files(tmp_path) == {**mine, "summary.json": "b", "pets/influences.nc": "b"}


def test_folders_that_become_empty_go(tmp_path: Path) -> None:
    write(tmp_path, "a", "digits/influences.nc")
    write(tmp_path, "b", "pets/influences.nc")
    assert sorted(path.name for path in tmp_path.iterdir()) == [MANIFEST, "pets"]


def test_files_to_keep_stay_while_the_label_does(tmp_path: Path) -> None:
    write(tmp_path, "a", "summary.json", "drop.txt")
    for _ in range(2):
        write(tmp_path, "a", "summary.json", keep=("drop.txt",))
        assert files(tmp_path) == {"summary.json": "a", "drop.txt": "a"}
    write(tmp_path, "b", "summary.json", keep=("drop.txt",))
    assert files(tmp_path) == {"summary.json": "b"}


def test_an_error_changes_nothing(tmp_path: Path) -> None:
    write(tmp_path, "a", "summary.json")
    with pytest.raises(ValueError, match="no room"), replacing(tmp_path, "b") as folder:
        (folder / "summary.json").write_text("b")
        raise ValueError("no room")
    assert files(tmp_path) == {"summary.json": "a"}
    assert not (tmp_path / ".new-results").exists()


def killed(out: Path, moment: int) -> None:
    """Write results and die at the given rename or removal."""
    import pathlib

    count = iter(range(1000))

    def dying(method):  # type: ignore[no-untyped-def]
        def call(self, *args, **kwargs):  # type: ignore[no-untyped-def]
            if next(count) == moment:
                os._exit(9)
            return method(self, *args, **kwargs)

        return call

    pathlib.Path.replace = dying(pathlib.Path.replace)  # type: ignore[method-assign]
    pathlib.Path.unlink = dying(pathlib.Path.unlink)  # type: ignore[method-assign]
    write(out, "b", "summary.json", "digits/influences.nc", "review.csv")
    os._exit(0)


def test_a_kill_at_any_moment_leaves_no_mix(tmp_path: Path) -> None:
    ended = False
    for moment in range(40):
        out = tmp_path / str(moment)
        write(out, "a", "summary.json", "digits/influences.nc", "drop.txt")
        (out / "notes.txt").write_text("mine")
        process = multiprocessing.get_context("fork").Process(target=killed, args=(out, moment))
        process.start()
        process.join()
        left = {name: text for name, text in files(out).items() if not name.startswith(".")}
        assert left.pop("notes.txt") == "mine"
        assert len(set(left.values())) <= 1, (moment, left)
        write(out, "c", "summary.json")  # whatever was left, the next results are whole
        assert files(out) == {"summary.json": "c", "notes.txt": "mine"}, moment
        if process.exitcode == 0:
            ended = True
            break
    assert ended
    assert moment > 6


@pytest.mark.parametrize("name", ["../outside.txt", "/outside.txt", "a/../../outside.txt", ""])
def test_a_manifest_leads_to_nothing_outside(tmp_path: Path, name: str) -> None:
    out, outside = tmp_path / "out", tmp_path / "outside.txt"
    write(out, "a", "summary.json")
    outside.write_text("mine")
    (out / MANIFEST).write_text('{"label": "a", "files": ["%s"]}' % name)  # noqa: UP031
    write(out, "b", "summary.json")
    assert outside.read_text() == "mine"
    assert files(out) == {"summary.json": "b"}


def test_a_file_that_no_target_may_be_called_like_is_reserved(tmp_path: Path) -> None:
    """All that an estimate writes beside the folders of targets is in one list; a file that is not fails at once."""
    write(tmp_path, "a", *sorted(RESERVED - {"tables", "figures"}), "tables/top.csv", "digits/anything.csv")
    with pytest.raises(AssertionError):
        write(tmp_path, "a", "anything.csv")
