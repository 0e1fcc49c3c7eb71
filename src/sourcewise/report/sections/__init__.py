"""The sections of a report about one target, by the name that the setting `sections` calls them.

Each is a function from a `TargetContext` to its `Section`, or to a sentence that says which records it needs and the
command that makes them. A new section is one more function and one more entry here.
"""

from collections.abc import Callable

from sourcewise.report.parts import Section
from sourcewise.report.sections.context import TargetContext
from sourcewise.report.sections.counterfactuals import counterfactuals_section
from sourcewise.report.sections.examples import brittle_section, subpopulations_section
from sourcewise.report.sections.groups import between_section, classes_section, overall_section
from sourcewise.report.sections.review import review_section
from sourcewise.report.sections.search import search_section
from sourcewise.report.sections.studies import studies_section
from sourcewise.report.sections.trust import trust_section

SECTIONS: dict[str, Callable[[TargetContext], Section | str]] = {
    "search": search_section,
    "classes": classes_section,
    "overall": overall_section,
    "subpopulations": subpopulations_section,
    "trust": trust_section,
    "counterfactuals": counterfactuals_section,
    "brittle": brittle_section,
    "between": between_section,
    "compare": studies_section,
    "review": review_section,
}
"""In the order of the page."""
