"""`hydra.launcher.status=true`: what has become of every run of a sweep, without running anything."""

import shlex
import sys
import time
from collections.abc import Callable, Sequence

from tqdm import tqdm

from sourcewise.core.identity import Fingerprints
from sourcewise.core.names import Config
from sourcewise.core.overrides import called_as
from sourcewise.sweep import leases
from sourcewise.sweep.belonging import look
from sourcewise.sweep.runs import INTERRUPTED, Run
from sourcewise.sweep.worker import last_line

LISTED = 20
"""Runs of one state that a status names."""


STATES = {"foreign": "damaged", "unusable": "damaged", "changed": "other data"}
"""What a status calls a look at a record that is not done."""


def status_table(runs: Sequence[Run], fingerprints: Callable[[Config], Fingerprints | None]) -> str:
    """Return counts and names of the runs in each state, at one look, and the command that completes the sweep.

    fingerprints: see `belonging.look`.
    """
    rows: dict[str, list[str]] = {
        state: [] for state in ("done", "running", "failed", "damaged", "other data", "missing")
    }
    shared = set.intersection(*(set(run.overrides) for run in runs))
    for run in runs:
        name = shlex.join(word for word in run.overrides if word not in shared) or run.name
        cause = last_line(run.log)
        existing = look(run.folder, run.config, fingerprints)
        if existing.state != "missing":
            state, detail = STATES.get(existing.state, existing.state), existing.detail
        elif (holder := leases.holder(run.folder)) is not None:
            age = f", for {tqdm.format_interval(max(0.0, time.time() - holder.since))}" if holder.since else ""
            state, detail = "running", f"{holder}{age}"
        elif cause and cause != INTERRUPTED and not leases.abandoned(run.folder):
            state, detail = "failed", f"{cause} (see {run.log})"
        else:
            state, detail = "missing", ""
        rows[state].append(f"{name}  {detail}".rstrip())
    places = sorted({str(run.folder.parent) for run in runs})
    text = "\n".join([*places, *(f"  {state:<10}{len(lines):>4}" for state, lines in rows.items() if lines)])
    for state, lines in list(rows.items())[1:]:
        text += "".join(f"\n{state:<8} {line}" for line in lines[:LISTED])
        text += f"\n{state:<8} and {len(lines) - LISTED} more" if len(lines) > LISTED else ""
    if len(rows["done"]) < len(runs):
        arguments = [word for word in sys.argv[1:] if not word.startswith("hydra.launcher.status=")]
        text += f"\nto complete it: {shlex.join([*called_as(), *arguments])}"
    return text
