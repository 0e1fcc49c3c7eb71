"""The command that lists stores of images and removes them."""

from pathlib import Path

import pytest
from PIL import Image

from sourcewise.commands import stores
from sourcewise.data.load import load
from sourcewise.data.loaders import Folder, Mixture, Table


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache with stores of a folder, a table and both, one torn and one that was never finished."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in "ab":
        (tmp_path / "S" / name).mkdir(parents=True)
        Image.new("RGB", (40, 40)).save(tmp_path / "S" / name / "0.png")
    (tmp_path / "S" / "t.csv").write_text("path,label\na/0.png,x\n")
    loaders = Folder(str(tmp_path), "S"), Table(str(tmp_path / "S"), "t.csv")
    for loader in (*loaders, Mixture({"one": loaders[0], "two": loaders[1]})):
        load(loader, side=32, format="raw")
    folder = tmp_path / "cache" / "sourcewise"
    (folder / "torn.arrow").write_bytes(b"x" * 2_000_000)
    (folder / ".half.arrow.123.tmp").write_bytes(b"x" * 1_000_000)
    return folder


def test_stores_are_listed_with_their_size_and_origin(
    cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stores.main([])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 6
    assert lines[0].split()[:2] == ["2.0", "MB"]
    assert lines[0].endswith("torn.arrow  not a whole store")
    assert lines[1].split() == ["1.0", "MB", "unfinished", "half.arrow", "not", "a", "whole", "store"]
    origins = {line.partition("2 images, 32 pixels, raw, from ")[2] for line in lines}
    assert f"Folder {tmp_path / 'S'}" in origins
    assert any(line.endswith(f"1 images, 32 pixels, raw, from Table {tmp_path / 'S' / 't.csv'}") for line in lines)
    assert any(line.endswith(f"from Folder {tmp_path / 'S'}, Table {tmp_path / 'S' / 't.csv'}") for line in lines)
    assert lines[5].strip().startswith("3.0 MB in 5 stores")


def test_stores_are_removed_by_name_or_all(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = next(cache.glob("folder-*.arrow")).name
    (cache / "letters.safetensors").write_bytes(b"not a store")
    stores.main(["--clear", name, "half.arrow"])
    assert "2 stores removed" in capsys.readouterr().out
    assert not list(cache.glob(f"*{name}*"))
    assert not list(cache.glob(".half*"))
    with pytest.raises(SystemExit):
        stores.main(["--clear"])
    assert "--clear: give the names of stores, or all" in capsys.readouterr().err
    with pytest.raises(SystemExit) as ended:
        stores.main(["--clear", "torn.arow"])
    assert ended.value.code == 2
    assert "no store torn.arow; did you mean torn.arrow?" in capsys.readouterr().err
    stores.main(["--clear", "all"])
    assert "3 stores removed" in capsys.readouterr().out
    assert [path.name for path in cache.iterdir()] == ["letters.safetensors"]
    stores.main([])
    assert "0.0 MB in 0 stores" in capsys.readouterr().out


def test_another_folder(cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stores.main(["--folder", str(tmp_path / "none")])
    assert "0.0 MB in 0 stores" in capsys.readouterr().out
