"""The report: summary, figures, sections, page and terminal text."""
