"""The end of the page: costs, settings, how to make it again, which records were not used, and what could be added."""

from __future__ import annotations

import json
from collections.abc import Mapping

from sourcewise.acting.review import DROPPED
from sourcewise.core.overrides import quote
from sourcewise.report.formatting import count, display_unit, duration, number
from sourcewise.report.parts import Row, Section, Table, as_code
from sourcewise.report.sections.context import TargetContext
from sourcewise.report.summary import Summary
from sourcewise.study.outputs import UNITS

SEEDS = "seed=range(0,5)"
"""Models of a chosen subset, and of the full source, that are enough to compare them."""
LISTED_RECORDS = 200
"""Records left out that the page lists."""


def closing_sections(summary: Summary, needs: Mapping[str, Mapping[str, str]]) -> list[Section]:
    """Return the sections; `needs` has, by target and name of a section that it lacks, what that would take."""
    facts = _needs({summary.title_of(name): needs[name] for name in needs})
    more = [Section("more", "What else this could show", facts=facts)] if facts else []
    return [*more, _costs(summary), _reproduction(summary), _left_out(summary)]


def next_section(target: TargetContext) -> list[Section]:
    """Return the section with the commands that lead from an estimate to a better subset, if there are any to show."""
    summary, commands = target.summary, []
    if more := summary.more_models:
        label = f"To train {more.count:,} more models"
        if more.asked is None:
            label += ", as many again; how many it takes cannot be told yet"
        else:
            label += ", the first of those that the verdict asks for" * (more.asked > more.count)
        commands.append((label, more.command))
    if summary.curation is None and summary.output in UNITS:
        commands.append(("To have groups proposed that can be removed", f"{summary.command} curate=true"))
    if any(row.flagged for row in summary.review):
        drop = f"subset.drop={quote(str(target.out / DROPPED))}"
        commands += [
            ("To train without the flagged source examples", target.train_command("subset=listed", drop, SEEDS)),
            ("To train with all of them", target.train_command("subset=full", SEEDS)),
            ("After that, to see the difference", summary.command),
        ]
    phrases, code = as_code(commands)
    return [Section("next", "What to do next", phrases, code=code)] if commands else []


def _needs(by_target: Mapping[str, Mapping[str, str]]) -> list[tuple[str, str]]:
    """Return what sections would take: once where targets agree, else for each target."""
    facts: list[tuple[str, str]] = []
    for key in dict.fromkeys(key for needs in by_target.values() for key in needs):
        texts = {title: needs[key] for title, needs in by_target.items() if key in needs}
        if len(set(texts.values())) == 1:
            facts.append((key, next(iter(texts.values()))))
        else:
            facts += [(f"{key}, {title}", text) for title, text in texts.items()]
    return facts


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
