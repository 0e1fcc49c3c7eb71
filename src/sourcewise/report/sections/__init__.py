"""The sections of a report about one target, by the name that the setting `sections` calls them.

Each is a function from a `Target` to its `Section`, or to one sentence that says what records it needs and the command
that makes them. A new section is one more module and one more entry here.
"""

from collections.abc import Callable

from sourcewise.report.page import Section
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
from sourcewise.report.sections.target import Target

SECTIONS: dict[str, Callable[[Target], Section | str]] = {
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
