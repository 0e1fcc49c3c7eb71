"""The HTML page: one self-contained file, made by a Jinja template from a report's sections.

Nothing is fetched from anywhere, and a content security policy says so. Every string is escaped.
"""

from __future__ import annotations

import base64
import hashlib
from typing import Any

import jinja2
from plotly.offline import get_plotlyjs

from sourcewise.report.drawing import THEMES
from sourcewise.report.formatting import count

SHOWN_ROWS = 40
"""Rows of a searchable table that are shown before the reader asks for more."""


def html(**parts: Any) -> str:
    """Return the page; `parts` are the variables of the template."""
    loader = jinja2.PackageLoader("sourcewise.report")
    environment = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.globals["count"] = count
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "allow_nan": False}
    style, script = (loader.get_source(environment, f"report.{kind}")[0] for kind in ("css", "js"))
    scripts = [get_plotlyjs(), script]
    digests = (base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in scripts)
    allowed = " ".join(f"'sha256-{digest}'" for digest in digests)
    return environment.get_template("report.html.j2").render(
        **parts,
        themes=THEMES,
        rows=SHOWN_ROWS,
        style=style,
        scripts=scripts,
        policy=f"default-src 'none'; img-src data: blob:; style-src 'unsafe-inline'; script-src {allowed}",
    )
