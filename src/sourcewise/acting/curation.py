"""Which groups to remove: a proposal from the models there are, with what it should gain and how sure that is.

Groups are ranked on some of the models, and what removing the worst N of them brings is estimated on the others, so
that a group which came out badly by chance pays for it (the winner's curse). Many random splits are put together as in
double machine learning: the median over splits, with a variance that holds the spread between them (Chernozhukov et
al., The Econometrics Journal 21, 2018, section 3.4). What is judged is a ranking on four fifths of the models.

Subsets of one size tell groups from each other, not from nothing: they show the gain over removing as many random
groups. What those would cost is taken from models of the full source, on the straight line from the random subsets to
them: near the full source both the gain and the cost are smaller than on that line, so only retraining verifies.
"""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sourcewise.acting.counterfactuals import RANDOM, Trial, as_json, gain, means
from sourcewise.core.errors import SourcewiseError
from sourcewise.core.overrides import quote
from sourcewise.designs.files import write_names, write_ranking
from sourcewise.estimation.arrays import Array, Mask
from sourcewise.estimation.collapse import Subsets, collapse
from sourcewise.estimation.estimators import ridge
from sourcewise.estimation.inference import Mean
from sourcewise.estimation.moments import GRAM_GROUPS
from sourcewise.study.influences import UNITS, Study

FOLDS = 5
SPLITS = 20
SEEDS = 20
"""Trainings of each subset that the verification asks for."""

NO_FULL = (
    "curate: what removing groups costs is known only from models of the full source, and there are fewer than two"
    " among the records; train some: python train.py -m subset=full 'seed=range(0,5)', with the overrides of your runs"
)


@dataclass(frozen=True)
class Proposal:
    """Which groups to keep, `keep: bool[G]`; scores that rank them, float[G]; expected gains over full and random."""

    keep: Mask
    scores: Array
    over_full: Mean
    over_random: Mean

    @property
    def removed(self) -> int:
        """How many groups are removed."""
        return int((~self.keep).sum())


def propose(masks: Mask, outputs: Array, seeds: Array, full: Sequence[float], remove: int | None = None) -> Proposal:
    """Which groups to remove so that a mean output rises.

    Args:
        masks: bool[models, G] of random subsets.
        outputs: float[models], mean output of each.
        seeds: training seeds [models].
        full: mean output of each model of the full source.
        remove: how many groups; by default as many as have the largest gain less one standard error, and no more than
            the random subsets go without on average: of what lies beyond, they say nothing.

    Raises:
        SourcewiseError: fewer than two models of the full source, or fewer than twenty random subsets.
    """
    if len(full) < 2:
        raise SourcewiseError(NO_FULL)
    subsets = collapse(masks, outputs[:, None], seeds)
    units = subsets.units
    if units < 20:
        raise SourcewiseError(
            f"curate: {units} random subsets are too few to rank on some and judge on others; train 20"
        )
    scores = ridge(subsets.moments()).influence[0]
    over_random = gains(subsets)
    reach = (~masks).sum(1).mean()
    slope = Mean.from_runs(full) - Mean.from_runs(subsets.outputs[:, 0])
    over_full = over_random - slope.scaled(np.arange(1.0, masks.shape[1]) / reach)
    most = max(1, min(int(np.isfinite(scores).sum()), round(reach)))
    number = remove or int(np.argmax((over_full.value - np.sqrt(over_full.variance))[:most])) + 1
    keep = np.ones(masks.shape[1], dtype=bool)
    keep[np.argsort(scores, kind="stable")[:number]] = False  # NaN last
    at = number - 1
    return Proposal(keep, scores, *(Mean(m.value[at], m.variance[at], m.dof[at]) for m in (over_full, over_random)))


def gains(subsets: Subsets, seed: int = 0) -> Mean:
    """Gain of removing the worst N of G groups over removing N random ones, arrays [G - 1] for N = 1, 2, ...

    subsets: outputs float[S, 1]. A group that every model kept, or dropped, counts as the average one.
    """
    rng = np.random.default_rng(seed)
    units = subsets.units
    found = []
    for _ in range(SPLITS):
        fold = rng.permutation(units) % FOLDS
        splits = [(np.flatnonzero(fold != f), np.flatnonzero(fold == f)) for f in range(FOLDS)]
        parts = np.array([_held_out(subsets.take(train), subsets.take(test)) for train, test in splits])
        found.append([parts[:, 0].mean(0), parts[:, 1].sum(0) / FOLDS**2])
    values, variances = np.array(found).swapaxes(0, 1)
    middle = np.median(values, axis=0)
    variance = np.median(variances + (values - middle) ** 2, axis=0)
    return Mean(middle, variance, np.full(len(middle), max(units - 3 * FOLDS, 1.0)))


def _held_out(train: Subsets, test: Subsets) -> tuple[Array, Array]:
    """Gain over random of the ranking on `train`, as estimated on `test`, and its variance, arrays [G - 1].

    The output of a test subset falls or rises with how many of the worst N it keeps. What `train` predicts is taken
    from the outputs first, and added to what is found: that changes no expectation, and leaves less noise.
    """
    slopes = np.nan_to_num(ridge(train.moments()).influence[0])
    slopes -= slopes.mean()
    order = np.argsort(slopes, kind="stable")[:-1]
    masks = test.masks.unpack()
    kept: Array = masks[:, order].astype(np.float64).cumsum(1)  # how many of the worst N, by N
    base = np.column_stack([np.ones(len(kept)), masks.sum(1)])  # subsets of one size or of several
    y = test.outputs[:, 0].astype(np.float64) - masks @ slopes
    hat = base @ np.linalg.pinv(base)
    kept, y = kept - hat @ kept, y - hat @ y
    square = np.maximum((kept**2).sum(0), 1e-12)
    slope = kept.T @ y / square
    noise = ((y[:, None] - kept * slope) ** 2).sum(0) / max(len(y) - np.linalg.matrix_rank(base) - 1, 1)
    count = np.arange(1, len(order) + 1)
    weight = count * (1 - count / masks.shape[1])  # from a slope to a sum over groups, about the mean of all
    return -(slopes[order].cumsum() + weight * slope), weight**2 * noise / square


def weights_of(setting: Any, targets: Sequence[str]) -> dict[str, float]:
    """Weights by target that sum to one, from `curate`. Raises SourcewiseError for unknown targets and bad weights."""
    weights = dict.fromkeys(targets, 1.0) if setting is True else setting
    if not isinstance(weights, Mapping) or not weights:
        raise SourcewiseError(f"curate={setting}: give true, or weights of targets as 'curate={{{targets[0]}: 1}}'")
    for name, weight in weights.items():
        if name not in targets:
            raise SourcewiseError(f"curate.{name}: no such target; the targets are {', '.join(targets)}")
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not weight > 0:
            raise SourcewiseError(f"curate.{name}={weight}: a weight must be a number above 0")
    return {name: weight / sum(weights.values()) for name, weight in weights.items()}


def curate(study: Study, weights: Mapping[str, float], out: Path, recipe: Sequence[str]) -> dict[str, Any]:
    """The proposal, also written to `out` as keep.txt, drop.txt and ranking.csv, and what its runs say; as JSON.

    A proposal that is there stays as long as the random models and the weights are those that it came from: runs that
    verify it do not change it. recipe: what to add to python train.py for the recipe of these models.

    Raises SourcewiseError as `propose` does.
    """
    if study.output not in UNITS:
        raise SourcewiseError(f"curate: it needs outputs of every example; choose outputs={', '.join(UNITS)}")
    if study.groups > GRAM_GROUPS:
        raise SourcewiseError(
            f"curate: {study.groups} groups are too many to rank by ridge; group them ({GRAM_GROUPS} at most)"
        )
    masks, names = study.packed().unpack(), study.names
    outputs = {name: np.array(study.targets[name].means)[:, -1] for name in weights}
    y: Array = sum((weight * outputs[name] for name, weight in weights.items()), np.zeros(len(masks)))
    own = [trial for trial in study.trials if not trial.study]
    full = [sum(weights[t] * trial.outputs[t] for t in weights) for trial in own if trial.mask.all()]
    content = hashlib.sha256(np.packbits(masks).tobytes() + y.tobytes() + repr(sorted(weights.items())).encode())
    mark = f"# {content.hexdigest()[:16]}"
    drop, before = out / "drop.txt", []
    if drop.is_file() and (lines := drop.read_text(encoding="utf-8").splitlines() or [""])[0].endswith(mark):
        before = lines[1:]
    found = propose(masks, y, np.array(study.seeds), full, len(before) or None)
    order = np.argsort(found.scores, kind="stable")
    kept, dropped = ([names[i] for i in order if found.keep[i] == keep] for keep in (True, False))
    for file, about, lines in (
        ("keep.txt", f"{len(kept)} groups to keep {mark}", kept),
        ("drop.txt", f"{len(dropped)} groups to remove, the worst first {mark}", dropped),
    ):
        write_names(out / file, about, lines)
    write_ranking(out / "ranking.csv", dict(zip(names, found.scores.tolist(), strict=True)))
    verify = [*recipe, "subset=ranked", f"subset.ranking={quote(str(out / 'ranking.csv'))}"]
    verify += ["subset.order=worst,random", f"subset.remove=0,{found.removed}", f"seed=range(0,{SEEDS})"]
    return {
        "weights": dict(weights),
        "drop": dropped,
        "keep": kept,
        "expected": {"full": as_json(found.over_full), "random": as_json(found.over_random)},
        "verified": {name: _verified(own, found, name) for name in weights},
        "command": shlex.join(["python", "train.py", "-m", *verify]),
    }


def as_text(found: Mapping[str, Any], output: str) -> list[str]:
    """What to say of a proposal, in sentences."""
    factor, unit = (100.0, " points") if output in ("prob", "correct") else (1.0, "")

    def show(gain: Mapping[str, float], factor: float = factor, unit: str = unit) -> str:
        low, high = factor * gain["low"], factor * gain["high"]
        return f"{factor * gain['value']:+.2f}{unit} (95% interval {low:+.2f} to {high:+.2f})"

    expected, number = found["expected"], len(found["drop"])
    text = [
        f"Proposed: remove {number} of {number + len(found['keep'])} groups: {', '.join(found['drop'])}.",
        f"Expected gain in mean {output}: {show(expected['random'])} over removing {number} random groups,"
        f" {show(expected['full'])} over the full source. Random subsets alone only show the first; the second adds"
        " what random groups cost, on a straight line from the random subsets to the full source. Near the full source"
        " effects are usually smaller: retrain before you rely on it.",
    ]
    if expected["full"]["low"] <= 0:
        text.append("These models cannot tell this gain over the full source from none.")
    for target, gained in found["verified"].items():
        if gained is None:
            text.append(f"Not verified on {target} yet: {found['command']}")
            continue
        line = f"Verified on {target}: score {show(gained['full'], 100.0, ' points')} over the full source"
        line += f", {show(gained['random'], 100.0, ' points')} over random removal" if gained["random"] else ""
        line += f"; mean {output} {show(gained['output'])} over the full source"
        text.append(f"{line}; {gained['runs']} runs against {gained['runs_full']}.")
        if gained["full"]["high"] < 0:
            text.append(f"The removal hurts {target}: keep the full source.")
        elif gained["full"]["low"] <= 0:
            text.append(f"There is no gain on {target} over the full source that these runs can tell from none.")
    return text


def _verified(trials: Sequence[Trial], found: Proposal, target: str) -> dict[str, Any] | None:
    """Gain in the target's score over the full source and over random removal; None where runs are missing."""
    kept = [t for t in trials if np.array_equal(t.mask, found.keep)]
    whole = [t for t in trials if t.mask.all()]
    removed = [t for t in trials if t.curve == RANDOM and (~t.mask).sum() == found.removed]
    runs, runs_full = len(means(kept, target)), len(means(whole, target))
    if min(runs, runs_full) < 2:
        return None
    return {
        "full": gain(kept, whole, target),
        "random": gain(kept, removed, target),
        "output": gain(kept, whole, target, "outputs"),
        "runs": runs,
        "runs_full": runs_full,
    }
