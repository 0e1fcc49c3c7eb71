"""Leaks and misleading examples: source examples that look like copies of target examples, or have a dubious label."""

from __future__ import annotations

from collections.abc import Sequence

from sourcewise.acting.review import CopyRow, LabelRow, ReviewRow
from sourcewise.report.formatting import count, number, q_value
from sourcewise.report.parts import Cell, Effect, Row, Section, Table
from sourcewise.report.sections.context import TargetContext

LISTED_ROWS = 25
"""Source examples that a table lists."""
COPIES = "nearer to one target image than chance would have it"
LABELS = "whose label few of the models predict that did not see it: fewer than half, and than is usual for its class"


def review_section(target: TargetContext) -> Section | str:
    """Return the rows of the review whose influence is on this target."""
    rows = [row for row in target.summary.review if row.target == target.name]
    if not rows:
        train = target.train_command("source.groups=example", "source.outputs=true", "subset.seed=range(0,200)")
        return (
            "It lists copies of target images in the source, and dubious labels. Copies need the images (setting images"
            f" of estimate.py), and all of it needs groups that are single source examples: {train}"
        )
    labels = [row for row in rows if isinstance(row, LabelRow)]
    copies = [row for row in rows if isinstance(row, CopyRow)]
    lead = [
        "Candidates for a person to look at: review.csv has them all, and review_drop.txt those that are significant,"
        " as a list for subset=listed. Influence is shown beside, and decides nothing: what is merely similar to a"
        " target example helps it too, and the influence of one source example is mostly noise."
    ]
    if not copies:
        lead.append("Copies were not looked for: the images are not at hand (setting images), or too many.")
    tables = []
    if copies:
        lead.append(_flagged(copies, COPIES))
        tables.append(_copies(target, copies[:LISTED_ROWS]))
    if labels:
        lead.append(_flagged(labels, LABELS))
        tables.append(_labels(target, labels[:LISTED_ROWS]))
    return Section("review", "Leaks and misleading examples", lead, tables=tables)


def _flagged(rows: Sequence[ReviewRow], description: str) -> str:
    return f"{count(sum(row.flagged for row in rows), 'source example')} {description}."


def _copies(target: TargetContext, rows: Sequence[CopyRow]) -> Table:
    listed = [_row(target, row, [[_example(target, target.name, row.example, row.flagged)]]) for row in rows]
    columns = ["Source example", "Target example", "Influence", "q-value"]
    return Table("copy", _caption(target, COPIES), columns, listed, (2, 3) if listed[0].picture else (1, 2, 3))


def _labels(target: TargetContext, rows: Sequence[LabelRow]) -> Table:
    columns = ["Source example", "Held out", "In sample", "Influence", "q-value"]
    listed = [_row(target, row, [number(row.held_out), number(row.in_sample)]) for row in rows]
    caption = (
        f"{_caption(target, LABELS)}. Held out, in sample: mean probability of the label by models that did not see the"
        " example, and by models that did"
    )
    return Table("label", caption, columns, listed, (1, 2, 3, 4))


def _caption(target: TargetContext, description: str) -> str:
    return f"Source examples {description}; influence in {target.unit.name} ± standard error"


def _row(target: TargetContext, row: ReviewRow, cells: Sequence[Cell]) -> Row:
    source = _example(target, "", row.source, row.flagged)
    influence = target.with_error(row.influence, row.stderr)
    return Row(source.name, [*cells, influence, q_value(row.qvalue)], row.flagged, source.picture)


def _example(target: TargetContext, dataset: str, example: int, flagged: bool) -> Effect:
    """Return an example's name, with its picture and class where there is a picture."""
    picture = target.album(dataset, example)
    name = target.example_name(dataset, example) + (f" (class {picture.label})" if picture else "")
    return Effect(name, significant=flagged, picture=picture)
