"""Which runs W&B has, and how to upload the others: each run's folder keeps a note of its W&B run in `wandb.json`.

The note outlives the process and the W&B run: a run that is done again learns from it which sweep it belongs to.
"""

import json
import re
import shlex
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from sourcewise.core.messages import first_names

NOTE = "wandb.json"

LISTED = 5
"""Names of runs in a line."""


@dataclass(frozen=True)
class Note:
    """The note on its W&B run in a run's folder.

    log: the folder of the W&B run on this machine, in the logger's. uploaded: whether the run ended well online.
    url: of the W&B run; None offline. sweep: id of the W&B sweep that the run belongs to.
    """

    log: str
    uploaded: bool = False
    url: str | None = None
    sweep: str | None = None

    def __post_init__(self) -> None:
        """Raise ValueError for what no run of ours wrote: parts of it become a command line."""
        texts = [self.log, self.url or "https://", self.sweep or "-"]
        patterns = [r"(offline-)?run-[\w.-]+", r"https?://[!-~]*", r"[\w.-]+"]
        if not all(re.fullmatch(*pair, re.ASCII) for pair in zip(patterns, texts, strict=True)):
            raise ValueError("not the note of a W&B run")

    @property
    def is_offline(self) -> bool:
        """Whether the W&B run was offline from its start."""
        return self.log.startswith("offline-")


def write(folder: Path, note: Note) -> None:
    """Write the note into a run's folder. Raises OSError when the disk does not take it."""
    (folder / NOTE).write_text(json.dumps(asdict(note)))


def read(folder: Path) -> Note | None:
    """Return the note in a run's folder; None when there is none that makes sense."""
    with suppress(OSError, ValueError, TypeError, AttributeError, RecursionError):
        return Note(**json.loads((folder / NOTE).read_bytes()))
    return None


def closing_line(logs: Path, folders: Sequence[Path]) -> str:
    """Return a line on how many runs W&B has, and the command that uploads the others; "" if none was tracked.

    logs: the folder of W&B runs on this machine. folders: of the runs.
    """
    notes = {folder: note for folder in folders if (note := read(folder))}
    absent = {folder: note for folder, note in notes.items() if not (note.uploaded or _is_synced(logs / note.log))}
    if not notes:
        return ""
    line = f"W&B: {len(notes) - len(absent)} of {len(folders)} runs are uploaded"
    local = [note for note in absent.values() if (logs / note.log).is_dir()]
    if not absent:
        return line
    line += f", not {first_names([folder.name for folder in absent], LISTED)}"
    if len(local) < len(absent):
        line += f"; the files of {len(absent) - len(local)} are not in {logs}, but on another machine or removed"
    return f"{line}; upload what is here: {sync_command(logs, local)}" if local else line


def sync_command(logs: Path, notes: Sequence[Note]) -> str:
    """Return the command line that uploads W&B runs from this machine, offline ones and ones that were cut off."""
    cut_off = [note.log for note in notes if not note.is_offline]
    offline = [note.log for note in notes if note.is_offline]
    words = ["wandb sync", *["--include-online"] * bool(cut_off), *(shlex.quote(str(logs / log)) for log in cut_off)]
    if len(offline) > LISTED:  # the pattern may match more: what is uploaded already is skipped
        return " ".join([*words, f"{shlex.quote(str(logs))}/offline-run-*"])
    return " ".join([*words, *(shlex.quote(str(logs / log)) for log in offline)])


def _is_synced(log: Path) -> bool:
    """Return whether `wandb sync` has uploaded a W&B run, as the mark that it leaves says."""
    return any(log.glob("*.wandb.synced"))
