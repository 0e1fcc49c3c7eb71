"""Leaks and misleading examples: source examples that look like copies of target examples, or have a dubious label."""

from __future__ import annotations

from sourcewise.acting.review_rows import CopyRow, LabelRow, ReviewRow
from sourcewise.report.page import Effect, Row, Section, Table, count, number, small
from sourcewise.report.pictures import Picture
from sourcewise.report.sections.target import Target

ROWS = 25
WHAT = {
    "copy": "nearer to one target image than chance would have it",
    "label": "with a label that fewer than half of the models predict that did not see it",
}
COLUMNS = {"copy": ["Target example"], "label": ["Outside", "Inside"]}


def section(target: Target) -> Section | str:
    """From the rows to review; labels go with the first target."""
    rows = [row for row in target.summary.review if row.target == target.name]
    if not rows:
        return (
            "It lists copies of target images in the source, and dubious labels. It needs groups that are single source"
            " examples, as python train.py -m source.groups=example source.outputs=true 'subset.seed=range(0,200)'"
            " makes them; for copies, also the setting images of estimate.py."
        )
    lead = [
        "Candidates for a person to look at: review.csv has them all, and review_drop.txt those that are significant,"
        " as a list for subset=listed. Influence is shown beside, and decides nothing: what is merely similar to a"
        " target example helps it too, and the influence of one source example is mostly noise."
    ]
    if all(row.why == "label" for row in rows):
        lead.append("Copies were not looked for: the images are not at hand (setting images), or too many.")
    tables = []
    for why in [why for why in WHAT if any(row.why == why for row in rows)]:
        mine = [row for row in rows if row.why == why]
        lead.append(f"{count(sum(row.flagged for row in mine), 'source example')} {WHAT[why]}.")
        lines = []
        for row in mine[:ROWS]:
            cells = [*_cells(target, row), target.within(row), small(row.qvalue)]
            name, picture = _named(row.source, target.album("", row.source))
            lines.append(Row(name, cells, not row.flagged, picture))
        caption = (
            f"Source examples {WHAT[why]}; influence in {target.unit.name} ± standard error; pale: not significant"
        )
        if why == "label":
            caption += ". Outside, inside: mean probability of the label by models that did not see it, and did"
        columns = ["Source example", *COLUMNS[why], "Influence", "q-value"]
        numeric = range(1 + bool(lines[0].picture and why == "copy"), len(columns))
        tables.append(Table(why, caption, columns, lines, tuple(numeric)))
    return Section("review", "Leaks and misleading examples", lead, tables=tables)


def _cells(target: Target, row: ReviewRow) -> list[str | list[Effect]]:
    """Return the cells that only rows of this kind have."""
    if isinstance(row, CopyRow):
        name, picture = _named(row.example, target.album(target.name, row.example))
        return [[Effect(name, significant=row.flagged, picture=picture)]]
    return [number(value) for value in (row.held_out, row.in_sample)] if isinstance(row, LabelRow) else []


def _named(example: int, picture: Picture | None) -> tuple[str, Picture | None]:
    return f"{example} (class {picture.label})" if picture else str(example), picture
