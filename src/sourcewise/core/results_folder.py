"""Results that appear as a whole in a folder which also holds files of others.

New results are written to a fresh folder inside. Then the files of the results before are removed, and the new ones are
moved to their places. At no moment do files of two results lie side by side, whenever the process is killed.
"""

import json
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from sourcewise.core.files import write_atomically

MANIFEST = ".results.json"
"""What the results in a folder are: a label, and the files as paths below the folder."""

RESERVED = frozenset(
    {"summary.json", "records.txt", "report.html", "tables", "figures", "wandb", "runs"}
    | {"search", "keep.txt", "drop.txt", "ranking.csv", "review.csv", "review_drop.txt"}
)
"""Names in a folder of results that are no target's, in lower case: of an estimate's own files and folders, of the
logger's, and of the records that may lie there (`outputs/demo/runs`). A target has a folder of its name beside them."""

_STAGE = ".new-results"


@contextmanager
def replacing(out: Path, label: str, keep: Collection[str] = ()) -> Iterator[Path]:
    """Give a fresh folder for results; without an exception, they take the place of the earlier ones in `out`.

    Files that no earlier results wrote stay where they are, unless a new result has their name.

    Args:
        out: the folder that the results are for.
        label: what they are results of.
        keep: files of earlier results with the same label that stay, if there are no new ones of these names.
    """
    stage = out / _STAGE
    shutil.rmtree(stage, ignore_errors=True)  # of a process that was killed
    for path in out.glob(f".{MANIFEST}.*.tmp"):
        path.unlink(missing_ok=True)
    stage.mkdir(parents=True)
    try:
        yield stage
        _swap(out, stage, label, keep)
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def _swap(out: Path, stage: Path, label: str, keep: Collection[str]) -> None:
    """Remove the files of earlier results, and move the new ones to their places."""
    before, files = _manifest(out)
    new = sorted(str(path.relative_to(stage)) for path in stage.rglob("*") if path.is_file())
    assert {name for name in new if len(Path(name).parts) == 1} <= RESERVED
    kept = {name for name in files if name in keep and name not in new and before == label}
    # From now on both old and new files are known, so that whatever a kill leaves is removed by the next results.
    _write_manifest(out, label, {*files, *new})
    for name in set(files) - kept:
        (out / name).unlink(missing_ok=True)
        _remove_empty((out / name).parent, out)
    for name in new:
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (stage / name).replace(out / name)
    _write_manifest(out, label, {*new, *kept})


def _manifest(out: Path) -> tuple[str, list[str]]:
    """Return the label and the files of the results in a folder; nothing without a manifest that can be read."""
    try:
        content = json.loads((out / MANIFEST).read_text(encoding="utf-8"))
        label, files = str(content["label"]), [str(name) for name in content["files"]]
    except (OSError, ValueError, KeyError, TypeError):
        return "", []
    return label, [name for name in files if _is_inside(name)]


def _is_inside(name: str) -> bool:
    """Return whether a path leads to a place below the folder that it is relative to."""
    path = Path(name)
    return bool(path.parts) and not path.is_absolute() and ".." not in path.parts


def _write_manifest(out: Path, label: str, files: Collection[str]) -> None:
    write_atomically(out / MANIFEST, json.dumps({"label": label, "files": sorted(files)}, indent=1).encode())


def _remove_empty(folder: Path, out: Path) -> None:
    """Remove a folder below `out` that has become empty."""
    if folder != out and folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
