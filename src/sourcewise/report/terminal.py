"""The summary of an estimate as text for a terminal."""

from __future__ import annotations

from sourcewise.acting.counterfactuals import Comparison
from sourcewise.report.sections.counterfactuals import curation_text
from sourcewise.report.sections.trust import baselines_text
from sourcewise.report.summary import Summary
from sourcewise.study.effects import GroupEffect


def as_text(summary: Summary) -> str:
    """Return the summary for a terminal: groups that help and hurt each class most, and those that hurt overall."""
    shares = summary.output in ("prob", "correct")
    scale, unit = (100.0, "points") if shares else (1.0, f"units of {summary.output}")
    lines = []
    for name, target in summary.targets.items():
        width = max(12, *(len(row.class_name) for row in target.table))
        lines += [
            "",
            f"{name}: influence of the {summary.groups} groups of {summary.source}, in {unit} +- standard error,"
            f" from {summary.models} models ({summary.estimator})",
            f"  * = significant at {summary.fdr:.0%} false discovery rate"
            f" ({target.significant_class} of {target.cells_class} class-level influences are)",
            "",
            f"  {'class':<{width}} {'helps most':<44} hurts most",
        ]
        for row in target.table:
            helps, hurts = (
                "  ".join(f"{_show(effect, scale, summary.fdr):<20}" for effect in side[:2])
                for side in (row.helps, row.hurts)
            )
            lines.append(f"  {row.class_name:<{width}} {helps:<44} {hurts}".rstrip())
        hurting = [effect for effect in reversed(target.overall) if effect.influence < 0][:5]
        shown = ", ".join(_show(effect, scale, summary.fdr) for effect in hurting)
        lines += ["", f"  hurt {name} most overall: {shown or 'none'}"]
        levels = ("class", "example") if target.examples > 1 else ("overall",)
        lines += ["", *(f"  {target.checks[level].verdict}" for level in levels)]
        if target.baselines:
            lines.append(f"  {baselines_text(target.baselines)}")
        if not target.is_significant:
            lines.append("  No influence stands out from noise: these models cannot support a claim about any group.")
    for comparison in summary.counterfactuals:
        lines += comparison_text(comparison)
    if summary.curation:
        lines += ["", *(f"  {line}" for line in curation_text(summary.curation, summary.output))]
    lines += ["", *summary.notes]
    for item in summary.left_out[:20]:
        lines.append(f"left out: {item.path}: {item.reason}")
    if len(summary.left_out) > 20:
        lines.append(f"left out: {len(summary.left_out) - 20} more, all in summary.json")
    return "\n".join(lines).rstrip()


def _show(effect: GroupEffect, scale: float, fdr: float) -> str:
    star = "*" if effect.qvalue <= fdr else ""
    digits = 1 if scale > 1 else 3
    return f"{effect.group} {scale * effect.influence:+.{digits}f} +- {scale * effect.stderr:.{digits}f}{star}"


def comparison_text(comparison: Comparison) -> list[str]:
    """Return a small table: score in percent by curve and groups removed, and the gain over the full source."""
    where = f" ({comparison.study})" if comparison.study else ""
    lines = [
        "",
        f"  Retrained without groups{where}: score on {comparison.target}, and gain over the full source, in percent",
    ]
    for name, point in comparison.points:
        score, gain = point.score, point.full
        text = f"    {name:<24} {point.removed:>3} removed  {100 * score.value:5.1f}"
        if score.low is not None and score.high is not None:
            text += f" ({100 * score.low:.1f} to {100 * score.high:.1f})"
        if point.removed and gain and gain.low is not None and gain.high is not None:
            text += f"  gain {100 * gain.value:+.2f} ({100 * gain.low:+.2f} to {100 * gain.high:+.2f})"
        lines.append(f"{text}  {point.runs} runs")
    return lines
