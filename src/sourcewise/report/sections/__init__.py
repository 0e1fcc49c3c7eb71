"""The sections of a report about one target, by the name that the setting `sections` calls them.

Each is a function from a `TargetContext` to its `Section`, or to a sentence that says which records it needs and the
command that makes them. A new section is one more module and one more entry here.
"""

from collections.abc import Callable

from sourcewise.report.parts import Section
from sourcewise.report.sections import (
    between,
    brittle,
    classes,
    counterfactuals,
    overall,
    review,
    subpopulations,
    trust,
)
from sourcewise.report.sections.context import TargetContext

SECTIONS: dict[str, Callable[[TargetContext], Section | str]] = {
    "classes": classes.section,
    "overall": overall.section,
    "trust": trust.section,
    "counterfactuals": counterfactuals.section,
    "subpopulations": subpopulations.section,
    "brittle": brittle.section,
    "between": between.section,
    "review": review.section,
}
"""In the order of the page."""
