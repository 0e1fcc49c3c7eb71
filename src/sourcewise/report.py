"""`report.html`: one self-contained page that shows an estimate to a reader who did not run it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from sourcewise import figures, page
from sourcewise.errors import SourcewiseError, did_you_mean
from sourcewise.files import write_whole
from sourcewise.page import Section, count, join
from sourcewise.pictures import Album
from sourcewise.sections import SECTIONS, closing
from sourcewise.sections.target import Summary, Target

if TYPE_CHECKING:  # torch is slow to import, and only images need it
    from sourcewise.data import ImageDataset

ILLUSTRATED = ("subpopulations", "brittle", "review")
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
    found, cells = facts["significant_class"], facts["cells_class"]
    overall, examples = facts["significant_overall"], facts["significant_example"]
    percent = f"{summary['fdr']:.0%}"
    lead = [facts["verdict"]] if facts.get("verdict") else []
    if not (found or overall or examples):
        headline = f"These data cannot support a claim about {target.name}."
        lead.append(
            f"None of the {count(cells, 'influence')} of a group on a class, none on single examples and no overall"
            f" influence is significant at a {percent} false discovery rate. The figures below cannot be told from"
            f" noise: differences in them are not findings. More models than these {summary['models']:,} may show an"
            " effect, or there is none to be seen."
        )
    else:
        headline, expected = f"No influence of a group on a single class of {target.name} is significant.", ""
        if found:
            headline = f"{found:,} of {cells:,} influences of a group on a class of {target.name} are significant."
            expected = f": of those {found:,}, about {max(round(found * summary['fdr']), 1):,} may be false"
        lead.append(
            f"The false discovery rate is held at {percent}{expected}. {overall:,} of "
            f"{count(target.influences.sizes['group'], 'group')} have a significant overall effect, and {examples:,}"
            f" of {facts['cells_example']:,} influences on single examples are significant."
        )
    value, error, q = target.arrays("_overall", "group")
    sides = zip(("helps", "hurts"), target.ends("group", value, error, q, fdr=summary["fdr"]), strict=True)
    parts = [f"what {word} most is {join([f'{e.name} ({e.value})' for e in side])}" for word, side in sides if side]
    lead += [f"Over all classes, {'; '.join(parts)}, in {target.unit.name}."] if parts else []
    if unknown := int(np.isnan(value).sum()):
        were, their = ("was", "its") if unknown == 1 else ("were", "their")
        lead.append(
            f"{count(unknown, 'group')} {were} kept in every model, or in none: {their} influence is not identifiable."
        )
    return {"supported": bool(found or overall or examples), "headline": headline, "lead": lead}


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


def render(
    influences: Mapping[str, xr.Dataset],
    summary: Summary,
    sections: Sequence[str] | None = None,
    images: Mapping[str, ImageDataset] | None = None,
) -> str:
    """The page, from the influences by target and the summary of the estimate.

    sections: names, in order; null: all that these records have data for. What the others need stands at the end.
    images: of targets by name, and of the source under ""; other examples go by their ids.
    Raises SourcewiseError as `check` does.
    """
    check(sections)
    album = Album(images or {})
    targets = [Target(name, dataset, summary, album) for name, dataset in influences.items()]
    shown, needs = [], dict[str, str]()
    for target in targets:
        built = {name: SECTIONS[name](target) for name in sections or SECTIONS}
        needs |= {name: what for name, what in built.items() if isinstance(what, str)}
        if target.name not in album.images and any(isinstance(built.get(name), Section) for name in ILLUSTRATED):
            needs["pictures"] = NO_PICTURES
        shown.append((target.name, target.id, [part for part in built.values() if isinstance(part, Section)]))
    return page.html(
        source=summary["source"],
        names=join(list(influences)),
        models=count(summary["models"], "model"),
        groups=summary["groups"],
        unit=figures.unit(summary["output"]),
        facts=_header(targets, summary),
        verdicts=[verdict(target) for target in targets],
        notes=summary["notes"],
        targets=shown,
        closing=closing.sections(summary, needs),
    )


def write(path: Path, *args: Any, **options: Any) -> Path:
    """Render the page into a file, which then is either the old page or all of the new one. Arguments as `render`."""
    write_whole(path, render(*args, **options).encode())
    return path
