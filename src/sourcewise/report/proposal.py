"""A proposal of groups to remove, in sentences: what it should gain, and what retraining gained."""

from __future__ import annotations

from sourcewise.acting.counterfactuals import Interval
from sourcewise.acting.curation import Curation, VerifiedGain
from sourcewise.report.formatting import count, display_unit


def sentences(curation: Curation, output: str) -> list[str]:
    """Return the paragraphs on a proposal for a study of this output."""
    removed, kept, expected = len(curation.drop), len(curation.keep), curation.expected
    lead = [
        f"Proposed: remove {removed} of {count(removed + kept, 'group')}: {', '.join(curation.drop)}.",
        f"Expected gain in mean {output}: {_gain(expected.random, output)} over removing {removed} random groups,"
        f" {_gain(expected.full, output)} over the full source. Random subsets alone show only the first. The second"
        " adds what random groups cost, on a straight line from the random subsets to the full source. Near the full"
        " source effects are usually smaller: retrain before you rely on it.",
    ]
    if expected.full.low is None or expected.full.low <= 0:
        lead.append("These models cannot tell this gain over the full source from none.")
    for target, verified in curation.verified.items():
        lead += _verification(target, verified, output) if verified else [f"It is not verified on {target} yet."]
    return lead


def commands(curation: Curation) -> list[tuple[str, str]]:
    """Return the command that verifies a proposal, with its label, unless all targets are verified."""
    missing = any(verified is None for verified in curation.verified.values())
    return [("To verify the proposal by retraining", curation.command)] if missing else []


def _verification(target: str, verified: VerifiedGain, output: str) -> list[str]:
    """Return what retraining gained on one target."""
    line = f"Verified on {target}: score {_gain(verified.full, 'correct')} over the full source"
    line += f", {_gain(verified.random, 'correct')} over random removal" if verified.random else ""
    line += f"; mean {output} {_gain(verified.output, output)} over the full source"
    lines = [f"{line}; {verified.runs} runs against {verified.runs_full}."]
    low, high = verified.full.low, verified.full.high
    if high is not None and high < 0:
        lines.append(f"The removal hurts {target}: keep the full source.")
    elif low is None or low <= 0:
        lines.append(f"These runs cannot tell the gain on {target} over the full source from none.")
    return lines


def _gain(gain: Interval, output: str) -> str:
    """Return a gain in an output's unit, with its interval."""
    unit = display_unit(output)
    points = f" {unit.name}" if unit.factor != 1 else ""
    if gain.low is None or gain.high is None:
        return f"{unit.show(gain.value)}{points}"
    return f"{unit.show(gain.value)}{points} (95% interval {unit.show(gain.low)} to {unit.show(gain.high)})"
