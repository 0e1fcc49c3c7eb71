"""The end of the page: costs, settings, how to make it again, which records were not used, and what could be added."""

from __future__ import annotations

import json
from collections.abc import Mapping

from sourcewise.core.overrides import quote
from sourcewise.report.formatting import count, display_unit, duration, number
from sourcewise.report.parts import Row, Section, Table, as_code
from sourcewise.report.sections.context import TargetContext
from sourcewise.report.summary import Summary
from sourcewise.study.outputs import UNITS

LISTED_RECORDS = 200
"""Records left out that the page lists."""


def closing_sections(summary: Summary, needs: Mapping[str, str]) -> list[Section]:
    """Return the sections; `needs` has, by name of a section that the page lacks, what it would take."""
    more = [Section("more", "What else this could show", facts=list(needs.items()))] if needs else []
    return [*more, _costs(summary), _reproduction(summary), _left_out(summary)]


def next_section(target: TargetContext) -> list[Section]:
    """Return the section with the commands that lead from an estimate to a better subset, if there are any to show."""
    summary, subset, commands = target.summary, target.summary.config.get("subset", {}), []
    if subset.get("design") in ("random", "hadamard"):
        settings = [f"subset.{key}={quote(value)}" for key, value in subset.items() if key not in ("design", "seed")]
        wanted = f"subset.seed=range(0,{2 * summary.models})"
        commands.append(
            ("To train as many models again", target.train_command(f"subset={subset['design']}", *settings, wanted))
        )
    if summary.curation is None and summary.output in UNITS:
        commands.append(("To have groups proposed that can be removed", f"{summary.command} curate=true"))
    phrases, code = as_code(commands)
    return [Section("next", "What to do next", phrases, code=code)] if commands else []


def _costs(summary: Summary) -> Section:
    seconds, runs = summary.seconds, sum(summary.designs.values())
    facts = [
        ("Models", f"{summary.models:,}"),
        ("Subset designs", ", ".join(f"{design} ({n:,})" for design, n in summary.designs.items()) or "–"),
        ("Estimator", summary.estimator),
        ("Output", f"{summary.output}: {display_unit(summary.output).meaning}"),
        ("False discovery rate", f"{summary.fdr:.0%}, Benjamini–Hochberg over each table of a target"),
        ("Wall time, summed over all runs", duration(sum(seconds.values()) * runs) if seconds else "–"),
        ("Wall time that elapsed, parallel runs counted once", duration(summary.elapsed) if summary.elapsed else "–"),
    ]
    rows = [Row(stage, [number(mean), duration(mean * runs)]) for stage, mean in seconds.items()]
    table = Table("seconds", "Wall time by stage", ["Stage", "Seconds a run", "Summed over all runs"], rows, (1, 2))
    settings = json.dumps(summary.config, indent=2, ensure_ascii=False, default=str)
    code = [("All settings of the recipe", settings)]
    return Section("costs", "Costs and settings", facts=facts, tables=[table] if rows else (), code=code)


def _reproduction(summary: Summary) -> Section:
    facts = [
        ("Study", summary.study),
        ("Recipe", summary.recipe),
        ("Commit", summary.commit or "unknown"),
        ("Versions", ", ".join(f"{name} {version}" for name, version in summary.versions.items())),
    ]
    sweeps, code = as_code([("Training", sweep) for sweep in summary.sweeps])
    code.append(("Estimate", summary.command))
    return Section("reproduce", "How to reproduce this", sweeps, facts, code)


def _left_out(summary: Summary) -> Section:
    left_out = summary.left_out
    text = f"{count(len(left_out), 'record')} found and not used." if left_out else "Nothing."
    text += f" The first {LISTED_RECORDS} are listed; summary.json lists all." if len(left_out) > LISTED_RECORDS else ""
    rows = [Row(item.path, [item.reason]) for item in left_out[:LISTED_RECORDS]]
    table = Table("records", "Records left out", ["Record", "Reason"], rows)
    return Section("left-out", "What was left out", [text], tables=[table] if rows else ())
