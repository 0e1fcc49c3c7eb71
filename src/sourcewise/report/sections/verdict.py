"""The verdict: which claims about a target the data can support, in words. A reader should see it first."""

from __future__ import annotations

from dataclasses import dataclass

from sourcewise.report import figures
from sourcewise.report.formatting import count, join
from sourcewise.report.parts import Section
from sourcewise.report.sections.context import TargetContext


@dataclass(frozen=True)
class Verdict:
    """What the data can support.

    Attributes:
        supported: whether any influence is significant.
        headline: the result in one sentence.
        reliability: how far influences at class level can be trusted, in sentences.
        lead: the paragraphs after these.
    """

    supported: bool
    headline: str
    reliability: str
    lead: tuple[str, ...]

    @property
    def paragraphs(self) -> list[str]:
        """All paragraphs below the headline."""
        return [*([self.reliability] if self.reliability else []), *self.lead]

    def section(self) -> Section:
        """Return the verdict as a section for a terminal, where the section `trust` shows the reliability."""
        return Section("verdict", self.headline, self.lead)


def verdict(target: TargetContext) -> Verdict:
    """Return the verdict on one target, from the numbers of significant influences."""
    facts, models, groups, fdr = target.facts, target.summary.models, target.summary.groups, target.summary.fdr
    significant, cells, lead = facts.significant_class, facts.cells_class, []
    if not facts.is_significant:
        headline = f"These data cannot support a claim about {target.name}."
        lead.append(
            f"None of the {count(cells, 'influence')} of a group on a class, none on single examples and no overall"
            f" influence is significant at a {fdr:.0%} false discovery rate. Differences between the influences below"
            f" cannot be told from noise; they are not findings. More models than these {models:,} may show an effect,"
            " or there may be none."
        )
    else:
        headline, false = f"No influence of a group on a single class of {target.name} is significant.", ""
        if significant:
            headline = (
                f"{significant:,} of {cells:,} influences of a group on a class of {target.name} are significant."
            )
            false = f": of those {significant:,}, about {max(round(significant * fdr), 1):,} may be false"
        lead.append(
            f"The false discovery rate is held at {fdr:.0%}{false}. {facts.significant_overall:,} of"
            f" {count(groups, 'group')} have a significant overall effect, and {facts.significant_example:,} of"
            f" {facts.cells_example:,} influences on single examples are significant."
        )
    arrays = figures.arrays(target.influences, "_overall", "group")
    sides = zip(("helps", "hurts"), target.strongest("group", arrays, fdr), strict=True)
    parts = [f"what {verb} most is {join([f'{e.name} ({e.value})' for e in side])}" for verb, side in sides if side]
    lead += [f"Over all classes, {'; '.join(parts)}, in {target.unit.name}."] if parts else []
    if unknown := facts.unknown:
        were, their = ("was", "its") if unknown == 1 else ("were", "their")
        lead.append(
            f"{count(unknown, 'group')} {were} kept in every model, or in none: {their} influence is not identifiable."
        )
    return Verdict(facts.is_significant, headline, facts.verdict, tuple(lead))
