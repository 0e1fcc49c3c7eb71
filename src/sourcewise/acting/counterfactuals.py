"""What really happens without chosen groups: models of ranked, listed and full subsets, put side by side.

Runs of different subsets share no randomness, whatever their seeds (see `randomness.seed`): they are independent, and
pairing them by seed would gain nothing. Intervals are Student's t over seeds; differences are Welch's.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sourcewise.designs.chosen_designs import ORDERS
from sourcewise.estimation.arrays import Array, Mask
from sourcewise.estimation.inference import Mean

RANDOM = "random"


@dataclass(frozen=True)
class Trial:
    """One model of a subset that was not drawn at random.

    study: where it is of another study than the influences. curve: `worst, <ranking>`, `best, <ranking>` or `random`;
    empty for a listed subset and for the full source. mask: bool[groups]. scores, outputs: by target, the metric and
    the mean of the output fitted.
    """

    study: str
    curve: str
    mask: Mask
    seed: str
    scores: Mapping[str, float]
    outputs: Mapping[str, float]


def means(trials: Iterable[Trial], target: str, value: str = "scores") -> list[float]:
    """The score (or output) of each independent unit: a run; of random removals a subset, the mean over its seeds."""
    units: dict[tuple[bytes, str], list[float]] = {}
    for trial in trials:
        unit = trial.mask.tobytes(), "" if trial.curve == RANDOM else trial.seed
        units.setdefault(unit, []).append(getattr(trial, value)[target])
    return [float(np.mean(found)) for found in units.values()]


def gain(found: Iterable[Trial], others: Iterable[Trial], target: str, value: str = "scores") -> dict[str, Any] | None:
    """Of some trials over others, as JSON; None where fewer than two of these are independent."""
    peers = means(others, target, value)
    return as_json(Mean.from_runs(means(found, target, value)) - Mean.from_runs(peers)) if len(peers) > 1 else None


def tables(trials: Sequence[Trial], names: Sequence[str], slopes: Mapping[str, Array]) -> list[dict[str, Any]]:
    """`compare` for every study and target with trials of less than the full source.

    slopes: by target of the influences' own study.
    """
    keys = dict.fromkeys((trial.study, target) for trial in trials for target in trial.scores)
    result = []
    for study, target in sorted(keys, key=lambda key: key[0]):
        own = [trial for trial in trials if trial.study == study and target in trial.scores]
        if not all(trial.mask.all() for trial in own):
            found = compare(own, target, names, None if study else slopes.get(target))
            result.append({"study": study, "target": target, **found})
    return result


def compare(trials: Sequence[Trial], target: str, names: Sequence[str], slopes: Array | None = None) -> dict[str, Any]:
    """Curves over the number of groups removed, of the trials of one study on one target, as JSON.

    Every point has `score` and `output` (value, low, high over seeds; for random removals, over subsets), `runs`, the
    score's gain over the `full` source and over `random` removal of as many groups, and where `slopes` [G] are given,
    the fitted influences, what they predict of the output: that of random removal as it is, plus what they say of
    these groups rather than average ones. That is all that subsets of one size can predict. Listed subsets are in the
    order of their scores.
    """
    whole = [trial for trial in trials if trial.mask.all()]
    places: dict[tuple[str, Hashable], list[Trial]] = defaultdict(list)
    for trial in trials:
        if removed := int((~trial.mask).sum()):
            places[trial.curve, removed if trial.curve else trial.mask.tobytes()].append(trial)
    curves = {curve for curve, _ in places} - {""}

    def point(found: list[Trial]) -> dict[str, Any]:
        removed = int((~found[0].mask).sum())
        peers = [] if found[0].curve == RANDOM else places.get((RANDOM, removed), [])
        result: dict[str, Any] = {
            "removed": removed,
            "runs": len(found),
            "score": as_json(Mean.from_runs(means(found, target))),
            "full": gain(found, whole, target),
            "random": gain(found, peers, target),
            "output": as_json(Mean.from_runs(means(found, target, "outputs"))),
        }
        if slopes is not None and peers:
            gone = ~np.array([trial.mask for trial in found])
            effect = np.mean(gone @ (slopes - slopes.mean()))
            result["predicted"] = float(np.mean(means(peers, target, "outputs")) - effect)
        return result

    def name(found: list[Trial]) -> str:
        few = found[0].mask.mean() <= 0.5
        word, groups = "only" if few else "without", np.array(names)[found[0].mask == few].tolist()
        return f"{word} {', '.join(groups[:8])}" + (f" and {len(groups) - 8} more" if len(groups) > 8 else "")

    return {
        "full": point(whole) if whole else None,
        "curves": [
            {"name": _short(curve, curves), "points": [point(places[at]) for at in sorted(places) if at[0] == curve]}
            for curve in sorted(curves, key=lambda curve: (ORDERS.index(curve.partition(",")[0]), curve))
        ],
        "listed": sorted(
            ({"name": name(found), **point(found)} for at, found in places.items() if not at[0]),
            key=lambda point: (-point["score"]["value"], point["name"]),
        ),
    }


COLUMNS = (
    "subset",
    "removed",
    "runs",
    *(f"{name}_{end}" for name in ("score", "full", "random") for end in ("value", "low", "high")),
)
"""Of `rows`: score, and its gain over the full source and over random removal, with 95% intervals."""


def rows(found: Mapping[str, Any]) -> list[list[Any]]:
    """Every point of a comparison as a row of COLUMNS."""
    named = [("full source", found["full"])] if found["full"] else []
    named += [(curve["name"], point) for curve in found["curves"] for point in curve["points"]]
    named += [(point["name"], point) for point in found["listed"]]
    ends = ("value", "low", "high")
    return [
        [name, point["removed"], point["runs"]]
        + [(point[key] or {}).get(end) for key in ("score", "full", "random") for end in ends]
        for name, point in named
    ]


def as_text(found: Mapping[str, Any]) -> list[str]:
    """A small table for a terminal: score in percent by curve and groups removed, and the gain over the full source."""
    where = f" ({found['study']})" if found["study"] else ""
    lines = [
        "",
        f"  Retrained without groups{where}: score on {found['target']}, and gain over the full source, in percent",
    ]
    for name, removed, runs, *values in rows(found):
        score, low, high, gain, gain_low, gain_high = (None if v is None else 100 * v for v in values[:6])
        text = f"    {name:<24} {removed:>3} removed  {score:5.1f}"
        text += f" ({low:.1f} to {high:.1f})" if low is not None else ""
        if removed and gain_low is not None:
            text += f"  gain {gain:+.2f} ({gain_low:+.2f} to {gain_high:+.2f})"
        lines.append(f"{text}  {runs} runs")
    return lines


def _short(curve: str, curves: Iterable[str]) -> str:
    """A curve's name, without the hash of its ranking where names differ, and without an only ranking."""
    order, _, ranking = curve.partition(", ")
    rankings = {other.partition(", ")[2] for other in curves} - {""}
    plain = ranking.partition("@")[0]
    if not ranking or len(rankings) < 2:
        return order
    same = sum(other.partition("@")[0] == plain for other in rankings) > 1
    return f"{order}, {ranking if same else plain}"


def as_json(mean: Mean) -> dict[str, float | None]:
    """The value, and the ends of its 95% interval; null where one run cannot tell."""
    low, high = (None if np.isnan(end) else float(end) for end in mean.interval())
    return {"value": float(mean.value), "low": low, "high": high}
