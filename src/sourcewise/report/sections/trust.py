"""What the data can support: the verdict on a target, and how far its influences can be trusted."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from sourcewise.acting.search.account import sentences
from sourcewise.core.messages import first_names
from sourcewise.report import figures
from sourcewise.report.formatting import count, join, number
from sourcewise.report.parts import Figure, Row, Section, Table, as_code
from sourcewise.report.sections.context import TargetContext
from sourcewise.report.sections.search import search_with
from sourcewise.study.baselines import MAPPINGS, Baseline
from sourcewise.study.influences import Checks
from sourcewise.study.pilot import Pilot
from sourcewise.study.priors import PriorScore, Score

TITLE = "How far to trust this"


def verdict(target: TargetContext) -> Section:
    """Return which claims about a target the data can support, from the numbers of significant influences.

    The title is the result in one sentence. A terminal shows elsewhere how far influences can be trusted, and what a
    search ended with.
    """
    facts, models, groups, fdr = target.facts, target.summary.models, target.summary.groups, target.summary.fdr
    significant, cells, lead = facts.significant_class, facts.cells_class, []
    if not facts.is_significant:
        headline = f"These data cannot support a claim about {target.title}."
        lead.append(
            f"None of the {count(cells, 'influence')} of a group on a class, none on single examples and no overall"
            f" influence is significant at a {fdr:.0%} false discovery rate. Differences between the influences below"
            f" cannot be told from noise; they are not findings. More models than these {models:,} may show an effect,"
            " or there may be none."
        )
    else:
        headline, false = f"No influence of a group on a single class of {target.title} is significant.", ""
        if significant:
            headline = (
                f"{significant:,} of {cells:,} influences of a group on a class of {target.title} are significant."
            )
            false = f": of those {significant:,}, about {max(round(significant * fdr), 1):,} may be false"
        lead.append(
            f"The false discovery rate is held at {fdr:.0%}{false}. {facts.significant_overall:,} of"
            f" {count(groups, 'group')} have a significant overall effect, and {facts.significant_example:,} of"
            f" {facts.cells_example:,} influences on single examples are significant."
        )
    arrays = figures.arrays(target.influences, "_overall", "group", keys=figures.EXPECTED)
    worst = "less useful than the average group" if target.relative else "what hurts most"
    sides = target.strongest("group", arrays, fdr)
    named = zip(("what helps most", worst), sides, strict=True)
    parts = [f"{phrase} is {join([f'{e.name} ({e.value})' for e in side])}" for phrase, side in named if side]
    lead += [f"Over all classes, {'; '.join(parts)}, in {target.unit.name}."] if parts else []
    lead += [_harm(target)] if target.relative and sides[1] else []
    if unknown := facts.unknown:
        lead.append(f"The influence of {count(unknown, 'group')} is not identifiable; the notes say why.")
    reliability = [facts.verdict] if facts.verdict else []
    search = search_with(target)
    searched = sentences(search)[:1] if search else []
    return Section("verdict", headline, [*searched, *reliability, *lead], brief=Section("verdict", headline, lead))


def _harm(target: TargetContext) -> str:
    """Return which groups really hurt, where influences only compare with the average group."""
    harmful, shown = target.facts.harmful, target.facts.harmful or ()
    if harmful is None:
        return (
            "That is no harm yet: all subsets have one size, which only compares groups with each other. Models of the"
            " full source (subset=full) tell which groups hurt."
        )
    named = f"these really hurt: {first_names(shown)}" if shown else "no group significantly hurts"
    return f"By the models of the full source, {named}."


def trust_section(target: TargetContext) -> Section:
    """Return how well influences predict held-out models, and how many models would do better."""
    checks, baselines, train = target.facts.checks, target.facts.baselines, target.train_command
    tried = "; ".join(
        f"{level} level: " + ", ".join(f"{name} {number(lds)}" for name, lds in check.candidates.items())
        for level, check in checks.items()
        if check.candidates
    )
    levels = ("class", "example") if target.facts.examples > 1 else ("overall",)
    verdicts = [checks[level].verdict for level in levels]
    agreement = baseline_agreement(baselines)
    definition = (
        "LDS is the rank correlation of predicted and actual outputs over subsets that were held out. Split-half"
        " reliability is the correlation of influences from two halves of the models."
    )
    lead = [*verdicts, definition + (f" LDS of the estimators tried: {tried}." if tried else ""), agreement]
    commands = []
    if not baselines and "full" not in target.summary.designs:
        label = "Two models of the full source: label and feature mapping, which alone predict much"
        commands.append((label, train("subset=full", "seed=range(0,2)")))
    if all(check.noise_ceiling is None for check in checks.values()):
        lead.append("The noise ceiling is not known: it needs subsets that are trained with several seeds.")
        replicated = train("subset=replicated", "subset.seed=range(0,128)")
        commands.append(("Models that show the noise ceiling", replicated))
    phrases, code = as_code(commands)
    halves = ["Split-half", "Median", "Without largest"]
    columns = ["Level", "Estimator", "LDS", "Noise ceiling", *halves, "More models for 0.8"]
    rows = [_row(level, check) for level, check in checks.items()]
    caption = (
        "How far influences can be trusted, by level, with 95% intervals. Split-half reliability is over the table, in"
        " the median output, and without the group of the largest influences"
    )
    table = Table("checks", caption, columns, rows, (2, 3, 4, 5, 6, 7))
    drawn = []
    if all(len(checks[level].curve or ()) > 1 for level in ("class", "example")):
        caption = (
            "Split-half reliability and LDS that fewer of these models would have given, and all of them. Rising lines:"
            " more models would help."
        )
        drawn.append(Figure("convergence", figures.convergence(checks), caption))
    pilot = target.facts.pilot
    known = [*_known(target.facts.priors), *([pilot.verdict] if pilot else [])]
    known += _borrowed(target.facts.checks["class"])
    lead += known
    brief = Section("trust", TITLE, [*verdicts, *([agreement] if baselines else []), *known])
    tables = [table, *_prior_tables(target.facts.priors), *([_pilot_table(pilot)] if pilot else [])]
    return Section("trust", TITLE, [*lead, *phrases], figures=drawn, tables=tables, code=code, brief=brief)


def _known(priors: Mapping[str, PriorScore]) -> list[str]:
    """Return a sentence on how well priors alone predict the models, if there are any."""
    parts = [f"{_title(name)} {_interval(prior.lds)}" for name, prior in _best_first(priors)]
    if not parts:
        return []
    return [
        f"What else is known of the groups predicts these models, without any of them, with LDS: {'; '.join(parts)}."
    ]


def _borrowed(check: Checks) -> list[str]:
    """Return a sentence on how much of the influences comes from priors, if any does."""
    if check.prior_weights is None or check.lds_without_priors is None:
        return []
    used = [_title(name) for name, weight in check.prior_weights.items() if abs(weight) > 1e-3]
    if not used:
        return ["None of that fits these models, so that expected effects come from the records alone."]
    return [
        f"Expected effects (posteriors) use {join(used)} as far as that fits these models; without priors, LDS on"
        f" classes would be {number(check.lds_without_priors)} instead of {number(check.lds)}."
    ]


def _best_first(priors: Mapping[str, PriorScore]) -> list[tuple[str, PriorScore]]:
    return sorted(priors.items(), key=lambda item: -np.nan_to_num(item[1].lds.value, nan=-2.0))


def _title(name: str) -> str:
    return name.replace("_", " ", 1) if name.startswith(MAPPINGS) else name


def _interval(score: Score) -> str:
    return number(score.value, unknown="unknown") + _ends(*map(number, (score.low, score.high)))


def _prior_tables(priors: Mapping[str, PriorScore]) -> list[Table]:
    """Return the table of what else is known of the groups, if anything is."""
    caption = (
        "What else is known of the groups: from how many models, their wall time in models of this recipe, and how well"
        " it alone predicts the class means of the models here (LDS with 95% interval)"
    )
    rows = []
    for name, prior in _best_first(priors):
        cost = "–" if prior.cost is None else f"{prior.cost:,.1f}"
        models = "–" if prior.models is None else f"{prior.models:,}"
        rows.append(Row(_title(name), [models, cost, _interval(prior.lds)]))
    return [Table("priors", caption, ["Prior", "Models", "Time", "LDS"], rows, (1, 2, 3))] if rows else []


def _pilot_table(pilot: Pilot) -> Table:
    """Return the table of what models of the same cost bring."""
    caption = (
        f"What the cost of {pilot.cost:.1f} models of this recipe buys, by wall time, and how well that predicts the"
        " class means of other models of the recipe: LDS, and how far from the best of one kind, with 95% intervals"
        " that allow for other models and other subsets. Full runs of proxies are left out"
    )
    rows = []
    for choice in pilot.choices:
        title = " and ".join([*[choice.title] * bool(choice.title), *["the recipe"] * bool(choice.recipe_models)])
        models = [f"{each:,}" if each else "–" for each in (choice.proxy_models, choice.recipe_models)]
        rows.append(Row(title, [*models, _interval(choice.lds), _interval(choice.gain) if choice.gain else "–"]))
    return Table("pilot", caption, ["Models of", "Proxy", "Recipe", "LDS", "Gain"], rows, (1, 2, 3, 4))


def baseline_agreement(baselines: Mapping[str, Baseline]) -> str:
    """Return a sentence on how far label and feature mapping agree with influences."""
    if not baselines:
        return (
            "Label and feature mapping are not available: they need a model of the full source, and groups made of"
            " whole classes."
        )

    parts = [
        f"{name.replace('_', ' ')} {number(item.spearman_class, unknown='unknown')} by class,"
        f" {number(item.spearman_overall, unknown='unknown')} overall"
        for name, item in baselines.items()
    ]
    return f"Rank correlation of influences with what models of the full source say: {'; '.join(parts)}."


def _row(level: str, check: Checks) -> Row:
    low, high = check.lds_interval
    lds = number(check.lds) + _ends(number(low), number(high)) * math.isfinite(low + high)
    ceiling = number(check.noise_ceiling, unknown="–")
    if check.noise_ceiling_interval is not None:
        ceiling += _ends(*map(number, check.noise_ceiling_interval))
    more = "unknown" if check.more_models is None else f"{check.more_models:,}"
    if check.more_models_interval is not None:
        least, most = check.more_models_interval
        more += _ends(f"{least or 0:,}", "unbounded" if most is None else f"{most:,}") * (check.more_models != 0)
    halves = (check.split_half, check.split_half_median, check.split_half_without_largest)
    return Row(level, [check.estimator, lds, ceiling, *(number(each, unknown="–") for each in halves), more])


def _ends(low: str, high: str) -> str:
    """Return an interval as text behind its value."""
    return f" ({low} to {high})"
