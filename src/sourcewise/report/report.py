"""`report.html`: one self-contained page that shows an estimate to a reader who did not run it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import xarray as xr

from sourcewise.core.errors import SourcewiseError, did_you_mean
from sourcewise.report import figures, page
from sourcewise.report.page import Section, count, join
from sourcewise.report.pictures import Album
from sourcewise.report.sections import SECTIONS, closing
from sourcewise.report.sections.target import Target
from sourcewise.report.summary import Summary

if TYPE_CHECKING:  # torch is slow to import, and only images need it
    from sourcewise.data import ImageDataset

NO_PICTURES = (
    "Examples go by their ids where their images were not found on this machine. Settings of train.py that choose these"
    " datasets find them: python estimate.py ... 'images={source: <name>, target: [<name>]}'"
)


def check(sections: Sequence[str] | None) -> None:
    """Raise SourcewiseError when there is no section of such a name."""
    for name in sections or ():
        if name not in SECTIONS:
            hint = did_you_mean(name, SECTIONS) or f"; choose from {', '.join(SECTIONS)}"
            raise SourcewiseError(f"sections: the report has no section {name!r}{hint}")


def verdict(target: Target) -> dict[str, Any]:
    """What the data can support for one target, in words: the first thing that a reader should see."""
    facts, summary = target.facts, target.summary
    found, cells = facts.significant_class, facts.cells_class
    overall, examples = facts.significant_overall, facts.significant_example
    percent = f"{summary.fdr:.0%}"
    lead = [facts.verdict] if facts.verdict else []
    if not (found or overall or examples):
        headline = f"These data cannot support a claim about {target.name}."
        lead.append(
            f"None of the {count(cells, 'influence')} of a group on a class, none on single examples and no overall"
            f" influence is significant at a {percent} false discovery rate. The figures below cannot be told from"
            f" noise: differences in them are not findings. More models than these {summary.models:,} may show an"
            " effect, or there is none to be seen."
        )
    else:
        headline, expected = f"No influence of a group on a single class of {target.name} is significant.", ""
        if found:
            headline = f"{found:,} of {cells:,} influences of a group on a class of {target.name} are significant."
            expected = f": of those {found:,}, about {max(round(found * summary.fdr), 1):,} may be false"
        lead.append(
            f"The false discovery rate is held at {percent}{expected}. {overall:,} of "
            f"{count(summary.groups, 'group')} have a significant overall effect, and {examples:,}"
            f" of {facts.cells_example:,} influences on single examples are significant."
        )
    arrays = figures.arrays(target.influences, "_overall", "group")
    sides = zip(("helps", "hurts"), target.ends("group", arrays, summary.fdr), strict=True)
    parts = [f"what {word} most is {join([f'{e.name} ({e.value})' for e in side])}" for word, side in sides if side]
    lead += [f"Over all classes, {'; '.join(parts)}, in {target.unit.name}."] if parts else []
    if unknown := facts.unknown:
        were, their = ("was", "its") if unknown == 1 else ("were", "their")
        lead.append(
            f"{count(unknown, 'group')} {were} kept in every model, or in none: {their} influence is not identifiable."
        )
    return {"supported": bool(found or overall or examples), "headline": headline, "lead": lead}


class Built(NamedTuple):
    """What the page shows of one target, and what the sections need that it has no data for."""

    target: Target
    sections: list[Section]
    needs: dict[str, str]


def build(
    influences: Mapping[str, xr.Dataset],
    summary: Summary,
    sections: Sequence[str] | None = None,
    images: Mapping[str, ImageDataset] | None = None,
) -> list[Built]:
    """What the page is made of, from the influences by target and the summary of the estimate.

    sections: names, in order; null: all. images: of targets by name, and of the source under ""; other examples go by
    their ids. Raises SourcewiseError as `check` does.
    """
    check(sections)
    album, built = Album(images or {}), []
    for name, dataset in influences.items():
        target = Target(name, dataset, summary, album)
        parts = {key: SECTIONS[key](target) for key in sections or SECTIONS}
        needs = {key: what for key, what in parts.items() if isinstance(what, str)}
        needs |= {"pictures": NO_PICTURES} if album.missing else {}
        built.append(Built(target, [part for part in parts.values() if isinstance(part, Section)], needs))
    return built


def render(built: Sequence[Built]) -> str:
    """The page. What else it could show, and what records that needs, stands at its end."""
    summary = built[0].target.summary
    return page.html(
        summary=summary,
        names=join([item.target.name for item in built]),
        built=built,
        verdicts=[verdict(item.target) for item in built],
        closing=closing.sections(summary, {key: what for item in built for key, what in item.needs.items()}),
    )
