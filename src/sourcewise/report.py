"""`report.html`: one self-contained page that shows an estimate to a reader who did not run it.

`render` turns the influences of every target and the summary of the estimate into the page: a list of
`Section`s. Those of a target are built by the functions in `SECTIONS`, so a later section is one more
function there. The template knows sections, tables and figures, not their topics. Nothing is fetched from
anywhere, and a content security policy says so.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import plotly.graph_objects as go
import xarray as xr
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from sourcewise import baselines, figures

Summary = Mapping[str, Any]
ROWS = 40
"""Rows of a searchable table that are shown before the reader asks for more."""


@dataclass(frozen=True)
class Effect:
    """One influence in a table: whose it is, how large, and whether it is significant."""

    name: str
    value: str
    error: str
    q: str
    significant: bool


@dataclass(frozen=True)
class Row:
    """One row of a table: its header names what it is about, its cells are texts or lists of effects."""

    header: str
    cells: Sequence[str | Sequence[Effect]]
    muted: bool = False


@dataclass(frozen=True)
class Table:
    """A table with a caption. The search box filters it if it says what its rows are: `class` or `group`."""

    id: str
    caption: str
    columns: Sequence[str]
    rows: Sequence[Row]
    numeric: Sequence[int] = ()
    searchable: str = ""

    @property
    def wordy(self) -> bool:
        """Whether names are too long for effects to stand side by side."""
        effects = (e for row in self.rows for cell in row.cells if not isinstance(cell, str) for e in cell)
        return any(len(effect.name) > 8 for effect in effects)


@dataclass(frozen=True)
class Figure:
    """A plotly figure, the caption that everybody sees, and the text for those who do not see the figure."""

    id: str
    figure: go.Figure
    caption: str
    alternative: str

    @property
    def meta(self) -> dict[str, Any]:
        """What the page needs to know of the figure."""
        return dict(self.figure.layout.meta or {})

    @property
    def width(self) -> int:
        """Pixels below which it is scrolled rather than squeezed."""
        return min(90 + 15 * len(self.meta["groups"]), 640) if self.meta.get("kind") == "heatmap" else 0

    @property
    def data(self) -> Markup:
        """The figure as JSON that is safe inside a script element."""
        return embed(json.loads(self.figure.to_json()))


@dataclass(frozen=True)
class Section:
    """A titled part of the page: leading paragraphs, then facts, figures, tables and code, if it has them."""

    id: str
    title: str
    lead: Sequence[str] = ()
    facts: Sequence[tuple[str, str]] = ()
    figures: Sequence[Figure] = ()
    tables: Sequence[Table] = ()
    code: Sequence[tuple[str, str]] = ()


@dataclass(frozen=True)
class Target:
    """What the sections of one target are made from: its influences, its facts and the whole summary."""

    name: str
    influences: xr.Dataset
    summary: Summary

    @property
    def id(self) -> str:
        """An element id that differs between targets, whatever their names."""
        escaped = (c if c.isascii() and c.isalnum() else f"-{ord(c):x}-" for c in self.name)
        return "target-" + "".join(escaped)

    @property
    def facts(self) -> Summary:
        """The part of the summary that is about this target."""
        facts: Summary = self.summary["targets"][self.name]
        return facts

    @property
    def unit(self) -> figures.Unit:
        """The unit in which influences are shown."""
        return figures.unit(self.summary["output"])

    def arrays(self, suffix: str, *dims: str) -> list[figures.Floats]:
        """Influences, standard errors and q-values."""
        names = (f"{name}_{suffix}" for name in ("influence", "stderr", "qvalue"))
        return [np.asarray(self.influences[name].transpose(*dims).values, float) for name in names]

    def show(self, value: float | None, sign: bool = True) -> str:
        """An influence as text, in `unit`."""
        return number(None if value is None else value * self.unit.factor, self.unit.decimals, sign)

    def significant(self, q: float | None) -> bool:
        """Whether a q-value is."""
        return q is not None and q <= self.summary["fdr"]

    def effect(self, name: object, value: float, error: float, q: float) -> Effect:
        """An influence for a table."""
        return Effect(str(name), self.show(value), self.show(error, False), small(q), self.significant(q))


def embed(value: object) -> Markup:
    r"""JSON that may stand inside `<script>`: no character in it can end the element or a line of the script.

    >>> print(embed("</script>&"))
    "\u003c/script\u003e\u0026"
    """
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)  # noqa: S704 (escaped above)


def join(names: Sequence[str]) -> str:
    """Names as a reader would say them.

    >>> join(["a", "b", "c"])
    'a, b and c'
    """
    return " and ".join([*([", ".join(names[:-1])] if names[:-1] else []), *names[-1:]])


def count(number: int, noun: str, plural: str | None = None) -> str:
    """A number with its noun.

    >>> count(1, "class", "classes"), count(1200, "model")
    ('1 class', '1,200 models')
    """
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def number(value: float | None, decimals: int = 2, sign: bool = True) -> str:
    """A number with a true minus sign; what the data cannot show is 'not identifiable'.

    >>> number(-0.5), number(float("nan"))
    ('−0.50', 'not identifiable')
    """
    if value is None or not math.isfinite(value):
        return "not identifiable"
    return f"{value:{'+' if sign else ''},.{decimals}f}".replace("-", "−")


def small(q: float | None) -> str:
    """A q-value, never printed as 0.

    >>> small(0.0123), small(1e-9), small(None)
    ('0.012', '< 0.0001', '–')
    """
    if q is None or not math.isfinite(q):
        return "–"
    return "< 0.0001" if q < 1e-4 else f"{q:.2g}"


def duration(seconds: float) -> str:
    """Seconds as a reader would say them.

    >>> duration(75), duration(7300)
    ('1.2 min', '2.0 h')
    """
    sizes = ((2 * 86400, 86400, "days"), (3600, 3600, "h"), (60, 60, "min"))
    return next(
        (f"{seconds / size:,.1f} {name}" for least, size, name in sizes if seconds >= least),
        f"{seconds:.1f} s",
    )


def verdict(target: Target) -> dict[str, Any]:
    """What the data can support for one target, in words: the first thing that a reader should see."""
    facts, summary = target.facts, target.summary
    found, cells = facts["significant_class"], facts["cells_class"]
    overall, examples = facts["significant_overall"], facts["significant_example"]
    percent = f"{summary['fdr']:.0%}"
    lead = [facts["verdict"]] if facts.get("verdict") else []
    if not (found or overall or examples):
        headline = f"These data cannot support a claim about {target.name}."
        lead.append(
            f"None of the {count(cells, 'influence')} of a group on a class, none on single examples and "
            f"no overall influence is significant at a {percent} false discovery rate. "
            "The figures below cannot be told from noise: differences in them are not findings. "
            "More models than these "
            f"{summary['models']:,} may show an effect, or there is none to be seen."
        )
    else:
        headline = f"No influence of a group on a single class of {target.name} is significant."
        expected = ""
        if found:
            headline = f"{found:,} of {cells:,} influences of a group on a class of {target.name} are significant."
            expected = f": of those {found:,}, about {max(round(found * summary['fdr']), 1):,} may be false"
        lead.append(
            f"The false discovery rate is held at {percent}{expected}. "
            f"{overall:,} of {count(target.influences.sizes['group'], 'group')} have a significant overall "
            f"effect, and {examples:,} of {facts['cells_example']:,} influences on single examples are "
            "significant."
        )
        lead.extend(_ends(target))
    unknown = int(np.isnan(target.arrays("overall")[0]).sum())
    if unknown:
        were = "was" if unknown == 1 else "were"
        lead.append(
            f"{count(unknown, 'group')} {were} kept in every model, or in none: "
            f"{'its' if unknown == 1 else 'their'} influence is not identifiable."
        )
    return {"supported": bool(found or overall or examples), "headline": headline, "lead": lead}


def _ends(target: Target, most: int = 3) -> list[str]:
    """A sentence that names the groups that help and hurt most overall."""
    known = [row for row in target.facts["overall"] if target.significant(row["qvalue"])]
    known.sort(key=lambda row: row["influence"])
    parts = []
    for word, rows in (("helps", known[::-1][:most]), ("hurts", known[:most])):
        rows = [row for row in rows if (row["influence"] > 0) == (word == "helps")]
        named = join([f"{row['group']} ({target.show(row['influence'])})" for row in rows])
        parts += [f"what {word} most is {named}"] if rows else []
    return [f"Over all classes, {'; '.join(parts)}, in {target.unit.name}."] if parts else []


def class_section(target: Target) -> Section:
    """The heatmap, and for each target class the groups that help and hurt it most."""
    facts = target.facts
    figure = figures.heatmap(target.influences, target.summary["fdr"])
    meta = figure.layout.meta
    classes, groups = len(meta["classes"]), len(meta["groups"])
    caption = "Blue helps, orange hurts, pale is not significant, grey is not identifiable."
    if [classes, groups] != list(meta["of"]):
        caption += (
            f" Shown are the {count(classes, 'class', 'classes')} and {count(groups, 'group')} with the "
            f"strongest evidence, of {meta['of'][0]:,} and {meta['of'][1]:,}; the tables name every one."
        )
    alternative = (
        f"Heatmap of the influence of {count(groups, 'source group')} on "
        f"{count(classes, 'class', 'classes')} of {target.name}: {facts['significant_class']:,} of "
        f"{facts['cells_class']:,} cells are significant. "
        "The tables hold the largest of these numbers for every class and every group."
    )
    rows = [
        Row(
            str(row["class"]),
            [[target.effect(*_fields(e)) for e in row[side]] for side in ("helps", "hurts")],
        )
        for row in facts["table"]
    ]
    table = Table(
        f"{target.id}-by-class",
        f"For each class of {target.name}, the groups that help and hurt it most ({target.unit.name} ± "
        "standard error; pale: not significant)",
        ["Target class", "Helped most by", "Hurt most by"],
        rows,
        searchable="class",
    )
    return Section(
        f"{target.id}-classes",
        "Which groups help which classes",
        ["The effect of keeping one source group on one target class, as a mean over its examples."],
        figures=[Figure(f"{target.id}-heatmap", figure, caption, alternative)],
        tables=[table],
    )


def _fields(entry: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(entry[key] for key in ("group", "influence", "stderr", "qvalue"))


def overall_section(target: Target) -> Section:
    """The overall influence of each group: bars with intervals, and the table of all groups."""
    figure = figures.overall_bars(target.influences, target.summary["fdr"])
    meta = figure.layout.meta
    total, ends = len(meta["groups"]), meta["ends"]
    caption = "Bars are estimates, lines their 95% intervals; pale is not significant."
    if total > 2 * ends:
        caption += f" Shown are the {ends} that help most and the {ends} that hurt most; search for any other."
    alternative = (
        f"Bars of the overall influence of {count(total, 'source group')} on {target.name}, sorted, with 95% "
        f"intervals, in {target.unit.name}. The table holds the same numbers."
    )
    value, error, q = target.arrays("overall", "group")
    names = target.influences["group"].values
    affected = _affected(target)
    rows = []
    for i in np.argsort(-value, kind="stable"):
        low, high = (target.show(value[i] + side * figures.Z95 * error[i]) for side in (-1, 1))
        interval = f"{low} to {high}" if np.isfinite(value[i] + error[i]) else "–"
        cells = [target.show(value[i]), interval, small(q[i]), *affected[i]]
        rows.append(Row(str(names[i]), cells, muted=not target.significant(q[i])))
    table = Table(
        f"{target.id}-by-group",
        f"For each source group, its influence on {target.name} ({target.unit.name}), and the classes that "
        "it helps and hurts most, where that is significant",
        ["Source group", "Overall", "95% interval", "q-value", "Helps most", "Hurts most"],
        rows,
        numeric=(1, 2, 3),
        searchable="group",
    )
    examples = count(target.influences.sizes["example"], "example")
    return Section(
        f"{target.id}-overall",
        "Which groups help overall, and which hurt",
        [f"The effect of keeping one source group, as a mean over all {examples} of {target.name}."],
        figures=[Figure(f"{target.id}-bars", figure, caption, alternative)],
        tables=[table],
    )


def _affected(target: Target, most: int = 3) -> list[list[list[Effect]]]:
    """For each group, the classes that it helps most and hurts most, of those where that is significant."""
    value, error, q = target.arrays("class", "group", "class")
    names = target.influences["class"].values
    result = []
    for v, e, p in zip(value, error, q, strict=True):
        known = np.flatnonzero(p <= target.summary["fdr"])
        known = known[np.argsort(v[known], kind="stable")]
        helps, hurts = known[v[known] > 0][::-1][:most], known[v[known] < 0][:most]
        result.append([[target.effect(names[c], v[c], e[c], p[c]) for c in side] for side in (helps, hurts)])
    return result


def trust_section(target: Target) -> Section:
    """How well influences predict models that they were not estimated from, and how many models would do better."""
    checks = target.facts["checks"]
    rows, lead = [], []
    for level, found in checks.items():
        low, high = found["lds_interval"]
        interval = f" ({low:.2f} to {high:.2f})" if low is not None and high is not None else ""
        ceiling, more = found["noise_ceiling"], found["more_models"]
        rows.append(
            Row(
                level,
                [
                    found["estimator"],
                    number(found["lds"], 2, False) + interval,
                    "–" if ceiling is None else number(ceiling, 2, False),
                    number(found["split_half"], 2, False),
                    "cannot be told" if more is None else f"{more:,}",
                ],
            )
        )
        lead += [found["verdict"]] if level != "overall" else []
    tried = "; ".join(
        f"{level} level: " + ", ".join(f"{name} {number(lds, 2, False)}" for name, lds in found["candidates"].items())
        for level, found in checks.items()
        if found["candidates"]
    )
    lead.append(
        "LDS is the rank correlation of predicted and actual outputs over subsets that were held out; split-half"
        " reliability the correlation of influences from two halves of the models."
        + (f" LDS of the estimators tried: {tried}." if tried else "")
    )
    lead.append(baselines.as_text(target.facts["baselines"]))
    if all(found["noise_ceiling"] is None for found in checks.values()):
        lead.append(
            "The noise ceiling is not known: it needs subsets trained with several seeds, such as"
            " python train.py -m subset=replicated 'subset.seed=range(0,128)'."
        )
    columns = ["Level", "Estimator", "LDS (95% interval)", "Noise ceiling", "Split-half", "More models for 0.8"]
    table = Table(f"{target.id}-checks", "How far influences can be trusted, by level", columns, rows, (2, 3, 4, 5))
    drawn = [level for level in ("class", "example") if len(checks[level].get("curve", ())) > 1]
    shown = []
    if len(drawn) == len(("class", "example")):
        alternative = "Lines of split-half reliability and LDS against the number of models: " + "; ".join(
            f"at {level} level, with {models:,} models, split-half {number(half, 2, False)},"
            f" LDS {number(lds, 2, False)}"
            for level in drawn
            for models, lds, half in checks[level]["curve"][-1:]
        )
        caption = "What fewer of these models would have given, and all of them. Rising lines: more models would help."
        shown.append(Figure(f"{target.id}-convergence", figures.convergence(checks), caption, alternative))
    return Section(f"{target.id}-trust", "How far to trust this", lead, figures=shown, tables=[table])


SECTIONS: list[Callable[[Target], Section]] = [class_section, overall_section, trust_section]
"""What the page shows of each target, in order. Later sections are added here."""


def closing_sections(summary: Summary, most: int = 200) -> list[Section]:
    """What it took, how to get the same page again, and which records were found and not used."""
    models, seconds, left_out = summary["models"], summary["seconds"], summary["left_out"]
    times = [Row(stage, [number(s, 2, False), duration(s * models)]) for stage, s in seconds.items()]
    settings = json.dumps(summary["config"], indent=2, ensure_ascii=False, default=str)
    costs = [
        ("Models", f"{models:,}"),
        ("Subset designs", ", ".join(f"{design} ({n:,})" for design, n in summary["designs"].items()) or "–"),
        ("Estimator", summary["estimator"]),
        ("Output", f"{summary['output']}: {figures.unit(summary['output']).meaning}"),
        ("False discovery rate", f"{summary['fdr']:.0%}, Benjamini–Hochberg over each table of a target"),
        ("Wall time of all runs", duration(sum(seconds.values()) * models) if seconds else "–"),
    ]
    origin = [
        ("Study", summary["study"]),
        ("Recipe", summary["recipe"]),
        ("Commit", summary["commit"] or "unknown"),
        ("Versions", ", ".join(f"{name} {version}" for name, version in summary["versions"].items())),
    ]
    unused = f"{count(len(left_out), 'record')} found and not used." if left_out else "Nothing."
    unused += f" The first {most} are listed; summary.json lists all." if len(left_out) > most else ""
    rows = [Row(item["path"], [item["reason"]]) for item in left_out[:most]]
    tables = [
        [Table("seconds", "Wall time by stage", ["Stage", "Seconds a run", "All runs"], times, (1, 2))],
        [Table("records", "Records left out", ["Record", "Reason"], rows)],
    ]
    recipe = [("All settings of the recipe", settings)]
    return [
        Section("costs", "Costs and settings", (), costs, (), tables[0] if times else (), recipe),
        Section("reproduce", "How to reproduce this", (), origin, code=[("Command", summary["command"])]),
        Section("left-out", "What was left out", [unused], tables=tables[1] if rows else ()),
    ]


def _header(targets: Sequence[Target], summary: Summary) -> list[tuple[str, str]]:
    """What was asked, on which data, with how many models."""
    header = [("Source", f"{summary['source']}, {count(summary['groups'], 'group')}")]
    for target in targets:
        examples, classes = target.facts["examples"], target.facts["classes"]
        size = f"{count(examples, 'example')}, {count(classes, 'class', 'classes')}"
        header.append(("Target", f"{target.name}, {size}"))
    header.append(("Models", f"{summary['models']:,}"))
    for target in targets:
        mean, spread = (target.facts.get(f"metric_{key}") for key in ("mean", "std"))
        if mean is not None:
            name = f"Accuracy on {target.name}" if len(targets) > 1 else "Accuracy"
            about = (", mean ± sd", f" ± {100 * spread:.1f}") if spread is not None else ("", "")
            header.append((f"{name}{about[0]}", f"{100 * mean:.1f}%{about[1]}"))
    return header


def render(influences: Mapping[str, xr.Dataset], summary: Summary) -> str:
    """The page, from the influences by target and the summary of the estimate."""
    targets = [Target(name, dataset, summary) for name, dataset in influences.items()]
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("sourcewise", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    folder = Path(__file__).with_name("templates")
    style, script = (folder.joinpath(f"report.{kind}").read_text("utf-8") for kind in ("css", "js"))
    scripts = [get_plotlyjs(), script]
    digests = (base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in scripts)
    allowed = " ".join(f"'sha256-{digest}'" for digest in digests)
    return environment.get_template("report.html.j2").render(
        source=summary["source"],
        names=join(list(influences)),
        models=count(summary["models"], "model"),
        groups=summary["groups"],
        unit=figures.unit(summary["output"]),
        facts=_header(targets, summary),
        verdicts=[verdict(target) for target in targets],
        notes=summary["notes"],
        targets=[(target.name, target.id, [build(target) for build in SECTIONS]) for target in targets],
        closing=closing_sections(summary),
        themes=embed(figures.THEMES),
        rows=ROWS,
        style=Markup(style),  # noqa: S704 (our own file)
        scripts=[Markup(text) for text in scripts],  # noqa: S704 (plotly's file and our own)
        policy=f"default-src 'none'; img-src data: blob:; style-src 'unsafe-inline'; script-src {allowed}",
    )


def write(path: str | Path, influences: Mapping[str, xr.Dataset], summary: Summary) -> Path:
    """Render the page into the file `path`, which then is either the old page or all of the new one."""
    path = Path(path)
    text = render(influences, summary)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return path
