"""The verdict on a pilot: which proxy to take, and how to split a budget between it and models of the recipe."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from sourcewise.estimation.arrays import Array
from sourcewise.estimation.equal_cost import DEALS, LEAST_BOUGHT, Purchase, compare
from sourcewise.estimation.scoring import LEAST_TO_COMPETE, LEAST_UNITS, Score
from sourcewise.study.baselines import MAPPINGS
from sourcewise.study.collect import Study
from sourcewise.study.levels import weighted_classes
from sourcewise.study.priors import Prior, PriorScore

MOST_GROUPS = 512
"""Groups beyond which the hundreds of fits of a pilot would take too long."""
SHARES = (0.25, 0.5)
"""Shares of the cost that go to models of the recipe, beside a proxy."""
ALIKE = 0.05
"""Scores that surely differ by less are alike."""


@dataclass(frozen=True)
class Choice:
    """One way to spend the cost of a pilot.

    Attributes:
        title: name of the proxy, or of its study where names are not unique; empty for the recipe alone.
        proxy_models, recipe_models: what the cost buys.
        lds: on class means of models of the recipe that are held out, with the ends of its 95% interval.
        gain: LDS less that of the best proxy, or of the recipe if that is best alone. Intervals of the proxies' gains,
            and of the splits', hold together. None for the best itself.
    """

    title: str
    proxy_models: int
    recipe_models: int
    lds: Score
    gain: Score | None


@dataclass(frozen=True)
class Pilot:
    """Proxies, and splits between the best of them and the recipe, at one cost.

    Attributes:
        cost: in models of the recipe.
        choices: the best first.
        verdict: what to take, in a few sentences.
    """

    cost: float
    choices: Sequence[Choice]
    verdict: str


def run_pilot(study: Study, target: str, priors: Mapping[str, Prior], scores: Mapping[str, PriorScore]) -> Pilot | None:
    """Compare proxies whose records are known, and the recipe itself, at the largest cost that all of them reach.

    The recipe competes with up to half of its models, if there are at least LEAST_TO_COMPETE subsets. Label and feature
    mapping of its full runs are priors of all choices; those of full runs of proxies are not.

    Returns None with fewer than two choices, fewer than ten subsets of the recipe, or more than MOST_GROUPS groups.
    """
    samples = {name: prior.sample for name, prior in priors.items() if prior.sample and scores[name].cost}
    samples = {name: sample for name, sample in samples.items() if sample.units >= LEAST_BOUGHT}
    if not samples or study.groups > MOST_GROUPS:
        return None
    mappings = {name: prior.values for name, prior in priors.items() if name in MAPPINGS}
    recipe = weighted_classes(study, {target: 1.0}, {target: mappings})[0]
    price = {name: (scores[name].cost or 0.0) / sample.units for name, sample in samples.items()}
    price[""] = float(recipe.runs.sum()) / recipe.units
    competes = recipe.units >= LEAST_TO_COMPETE
    cost = min(price[name] * sample.units for name, sample in samples.items())
    cost = min(cost, price[""] * (recipe.units // 2)) if competes else cost

    def purchase(name: str, share: float) -> Purchase:
        """Return what the cost buys if a share goes to the recipe, and the rest to a proxy."""
        return Purchase(round(share * cost / price[""]), name, round((1 - share) * cost / price[name]) if name else 0)

    bought = [purchase(name, 0) for name in samples] + [purchase("", 1)] * competes
    bought = [each for each in bought if each.recipe + each.proxy_units >= LEAST_BOUGHT]
    if recipe.units < LEAST_UNITS or len(bought) < 2:
        return None
    values, distances = compare(bought, recipe, samples)
    order, alone = np.argsort(-values, kind="stable"), len(bought)
    bought, values, distances = [bought[i] for i in order], values[order], distances[:, order]
    proxy = next(each.proxy for each in bought if each.proxy)
    splits = [purchase(proxy, share) for share in SHARES] if competes else []
    if splits := [each for each in splits if min(each.recipe, each.proxy_units) >= LEAST_BOUGHT]:
        more, further = compare(splits, recipe, samples)
        bought, values, distances = bought + splits, np.append(values, more), np.hstack([distances, further])
    titles, one, choices = _titles(priors, samples), np.eye(len(bought)), []
    for i, each in enumerate(bought):
        rivals = alone - 1 if i < alone else len(splits)
        per_unit = (priors[each.proxy].models or 0) / samples[each.proxy].units if each.proxy else 0.0
        choices.append(
            Choice(
                title=titles.get(each.proxy, ""),
                proxy_models=round(each.proxy_units * per_unit),
                recipe_models=round(each.recipe * price[""]),
                lds=_interval(values, distances, one[i]),
                gain=_interval(values, distances, one[i] - one[0], rivals) if i else None,
            )
        )
    ranked = sorted(choices, key=lambda choice: -choice.lds.value)
    return Pilot(cost, ranked, verdict(cost, choices[:alone], choices[alone:]))


def _titles(priors: Mapping[str, Prior], names: Iterable[str]) -> dict[str, str]:
    """Return what to call proxies: by their own names, where these are unique."""
    titles = {name: priors[name].proxy or name for name in names}
    uses = Counter(titles.values())
    return {name: title if uses[title] == 1 else name for name, title in titles.items()}


def _interval(values: Array, distances: Array, weights: Array, rivals: int = 1) -> Score:
    """Return a weighted sum of scores with its 95% interval, which holds together with those of its rivals."""
    value = float(values @ weights)
    half = float(stats.t.ppf(1 - 0.025 / rivals, DEALS) * np.linalg.norm(distances @ weights))
    return Score(value, max(value - half, -1.0), min(value + half, 1.0))


def verdict(cost: float, alone: Sequence[Choice], splits: Sequence[Choice] = ()) -> str:
    """Return what to take.

    Args:
        cost: of each choice, in models of the recipe.
        alone: proxies and perhaps the recipe, the best first.
        splits: between the best proxy and the recipe.
    """
    best, *rest = alone
    text = (
        f"At the cost of {cost:.1f} models of the recipe, {_models(best)} predict others of the recipe with LDS"
        f" {best.lds.value:z.2f} ({best.lds.low:z.2f} to {best.lds.high:z.2f}),"
        f" {', '.join(f'{_models(each)} with {each.lds.value:z.2f}' for each in rest)}."
    )
    rivals = [(each.title or "the recipe", each.gain) for each in rest if each.gain and each.gain.high >= 0]
    *names, last = [best.title or "the recipe", *(name for name, _ in rivals)]
    together = f"{', '.join(names)} and {last}"
    if not rivals:
        text += f" Take {best.title}." if best.title else " Take no proxy: train models of the recipe."
    elif all(gain.low > -ALIKE for _, gain in rivals):
        text += f" {together} are alike: take any of them."
    else:
        # The error of a difference shrinks with the square root of the models.
        times = np.ceil(max(((gain.high - gain.value) / max(-gain.value, 1e-9)) ** 2 for _, gain in rivals))
        more = f"about {times:.0f} times as many models" if times <= 10 else "more than ten times as many models"
        text += (
            f" These models cannot tell which of {together} is best: intervals of the differences include 0, and {more}"
            " of each would be needed. The first is the better guess."
        )
    return " ".join([text, *_advice(alone, splits)])


def _advice(alone: Sequence[Choice], splits: Sequence[Choice]) -> list[str]:
    """Return how to split a cost between the best proxy and the recipe, as far as that was tried."""
    recipe = next((each for each in alone if not each.title), None)
    if recipe is None:
        return [
            f"Once {LEAST_TO_COMPETE} subsets of the recipe are trained, the recipe and splits with it compete too."
        ]
    texts, gains = [], [each.gain for each in splits if each.gain]
    is_better = any(gain.low > 0 for gain in gains)
    if top := max(splits, key=lambda split: split.lds.value, default=None):
        outcome = "are neither surely better nor surely worse"
        if is_better or all(gain.high < 0 for gain in gains):
            outcome = "do better" if is_better else "do worse"
        texts.append(f"Splits of that cost {outcome}: the best, {_models(top)}, have LDS {top.lds.value:z.2f}.")
    if recipe.gain and recipe.gain.high < 0 and not is_better:
        texts.append(
            "So about a dozen models of the recipe, which weigh and check the proxy, are enough; put all else into the"
            " proxy."
        )
    return texts


def _models(choice: Choice) -> str:
    """Return what a choice buys, in words."""
    parts = ((choice.proxy_models, choice.title), (choice.recipe_models, "the recipe"))
    return " and ".join(f"{models} of {title}" for models, title in parts if models)
