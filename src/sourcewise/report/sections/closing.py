"""What it took, how to get the same page again, which records were not used, and what others would show."""

from __future__ import annotations

import json
from collections.abc import Mapping

from sourcewise.report import figures
from sourcewise.report.page import Row, Section, Table, count, duration, number
from sourcewise.report.summary import Summary


def sections(summary: Summary, needs: Mapping[str, str], most: int = 200) -> list[Section]:
    """From the summary, and by name of a section that was left out what it needs."""
    models, seconds, left_out = summary.models, summary.seconds, summary.left_out
    runs = sum(summary.designs.values())
    costs = [
        ("Models", f"{models:,}"),
        ("Subset designs", ", ".join(f"{design} ({n:,})" for design, n in summary.designs.items()) or "–"),
        ("Estimator", summary.estimator),
        ("Output", f"{summary.output}: {figures.unit(summary.output).meaning}"),
        ("False discovery rate", f"{summary.fdr:.0%}, Benjamini–Hochberg over each table of a target"),
        ("Wall time of all runs", duration(sum(seconds.values()) * runs) if seconds else "–"),
    ]
    origin = [
        ("Study", summary.study),
        ("Recipe", summary.recipe),
        ("Commit", summary.commit or "unknown"),
        ("Versions", ", ".join(f"{name} {version}" for name, version in summary.versions.items())),
    ]
    times = [Row(stage, [number(s), duration(s * runs)]) for stage, s in seconds.items()]
    time_table = Table("seconds", "Wall time by stage", ["Stage", "Seconds a run", "All runs"], times, (1, 2))
    settings = json.dumps(summary.config, indent=2, ensure_ascii=False, default=str)
    unused = f"{count(len(left_out), 'record')} found and not used." if left_out else "Nothing."
    unused += f" The first {most} are listed; summary.json lists all." if len(left_out) > most else ""
    rows = [Row(item.path, [item.reason]) for item in left_out[:most]]
    unused_table = Table("records", "Records left out", ["Record", "Reason"], rows)
    more = [Section("more", "What else this could show", facts=list(needs.items()))] if needs else []
    return [
        *more,
        Section(
            "costs",
            "Costs and settings",
            facts=costs,
            tables=[time_table] if times else (),
            code=[("All settings of the recipe", settings)],
        ),
        Section("reproduce", "How to reproduce this", facts=origin, code=[("Command", summary.command)]),
        Section("left-out", "What was left out", [unused], tables=[unused_table] if rows else ()),
    ]
