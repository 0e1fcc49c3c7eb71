"""How far to trust influences: how well they predict held-out models, and how many models would do better."""

from __future__ import annotations

from collections.abc import Mapping

from sourcewise.report import figures
from sourcewise.report.page import Figure, Row, Section, Table, number
from sourcewise.report.sections.target import Target
from sourcewise.study.baselines import Baseline

UNAVAILABLE = (
    "Label and feature mapping are not available: they need a run that keeps all groups (python train.py subset=full),"
    " and groups made of whole classes."
)


def section(target: Target) -> Section:
    """From the checks of every level."""
    checks = target.facts.checks
    rows = []
    for level, found in checks.items():
        low, high = found.lds_interval
        interval = f" ({low:.2f} to {high:.2f})" if low is not None and high is not None else ""
        more = "cannot be told" if found.more_models is None else f"{found.more_models:,}"
        lds, half = (number(value) for value in (found.lds, found.split_half))
        ceiling = "–" if found.noise_ceiling is None else number(found.noise_ceiling)
        rows.append(Row(level, [found.estimator, lds + interval, ceiling, half, more]))
    tried = "; ".join(
        f"{level} level: " + ", ".join(f"{name} {number(lds)}" for name, lds in found.candidates.items())
        for level, found in checks.items()
        if found.candidates
    )
    lead = [
        *(found.verdict for level, found in checks.items() if level != "overall"),
        "LDS is the rank correlation of predicted and actual outputs over subsets that were held out; split-half"
        " reliability the correlation of influences from two halves of the models."
        + (f" LDS of the estimators tried: {tried}." if tried else ""),
        baselines_text(target.facts.baselines),
    ]
    if all(found.noise_ceiling is None for found in checks.values()):
        lead.append(
            "The noise ceiling is not known: it needs subsets trained with several seeds, such as"
            " python train.py -m subset=replicated 'subset.seed=range(0,128)'."
        )
    columns = ["Level", "Estimator", "LDS (95% interval)", "Noise ceiling", "Split-half", "More models for 0.8"]
    table = Table("checks", "How far influences can be trusted, by level", columns, rows, (2, 3, 4, 5))
    shown = []
    if all(len(checks[level].curve or ()) > 1 for level in ("class", "example")):
        caption = (
            "Split-half reliability and LDS that fewer of these models would have given, and all of them. Rising lines:"
            " more models would help."
        )
        shown.append(Figure("convergence", figures.convergence(checks), caption))
    return Section("trust", "How far to trust this", lead, figures=shown, tables=[table])


def baselines_text(baselines: Mapping[str, Baseline]) -> str:
    """Return a line on how far label and feature mapping agree with influences."""
    if not baselines:
        return UNAVAILABLE

    def show(value: float | None) -> str:
        return "unknown" if value is None else f"{value:.2f}"

    parts = [
        f"{name.replace('_', ' ')} {show(baseline.spearman_class)} by class, {show(baseline.spearman_overall)} overall"
        for name, baseline in baselines.items()
    ]
    return f"Rank correlation with what a single model would say: {'; '.join(parts)}."
