"""What influences say of a target's examples: subpopulations, and brittle examples.

`examine` gathers it, as JSON, for the report; the functions below it are on arrays, where examples and groups are
positions. Nothing here knows images: examples go by their ids.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray
from scipy.special import expit
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score

from sourcewise.estimation.arrays import Array, Index
from sourcewise.estimation.collapse import Subsets, collapse
from sourcewise.estimation.contract import Estimator
from sourcewise.estimation.inference import Mean, pvalues, qvalues
from sourcewise.study.influences import SMALL, Estimated, Study

LEAST = 20
"""Examples that a class needs to be split; a subpopulation needs a quarter as many."""
RUNS = 50
"""Models that predictions start from, at most."""
AGREE = 0.5
"""Adjusted Rand index that subpopulations from two halves of the models must reach."""


def examine(study: Study, name: str, found: Estimated, fdr: float, seed: int = 0) -> dict[str, Any]:
    """`subpopulations` and `brittle` of one target, as JSON.

    Nothing of a scalar or of groups that are examples; `unexamined` says so of more than memory should hold.
    """
    dataset, target = found.dataset, study.targets[name]
    examples, groups = dataset["influence"].shape
    if study.header.group_names is None or examples < 2:
        return {}
    if examples * max(groups, study.models) > SMALL:
        return {"unexamined": True}
    outputs = target.examples.array().astype(np.float64)
    subsets = collapse(study.packed(), outputs, np.array(study.seeds))
    units = np.random.default_rng(seed).permutation(subsets.units)
    estimator = found.assessments["example"].estimator.halved
    whole, splits = estimator.estimate_subsets(subsets), []
    if len(units) >= 2 * LEAST:
        halves = subsets.take(units[: len(units) // 2]), subsets.take(units[len(units) // 2 :])
        tables = [*(estimator.estimate_subsets(half).influence for half in halves), whole.influence]
        for position, class_name in enumerate(target.class_names):
            rows = np.flatnonzero(target.labels == position)
            held = halves[1].take(np.arange(halves[1].units), rows)
            if parts := split([table[rows] for table in tables], held, estimator, fdr):
                splits.append({"class": class_name, **_named(dataset, rows, parts)})
    splits.sort(key=lambda item: -min(part["influence"] for part in item["parts"]))
    return {
        "subpopulations": {"groups": _ends(dataset), "splits": splits},
        "brittle": _brittle(study, name, dataset, estimator),
    }


def named(facts: Mapping[str, Any]) -> set[str]:
    """Groups that set the subpopulations of a target's facts apart, whose influences a page has to show."""
    splits = facts.get("subpopulations", {}).get("splits", ())
    return {part["group"] for split in splits for part in split["parts"]}


def between(targets: Mapping[str, Mapping[str, Any]], fdr: float) -> list[dict[str, Any]]:
    """What removing each group does to several targets, the most harmful groups first; empty for one target alone.

    targets: facts by target, of which `overall` holds a group's effect. Returned are groups that all targets know,
    each with its `effects` by target; `removal`: what of it is significant, `helps all`, `hurts all`, or `trades` one
    target for another; `front`: whether it is on the Pareto front, by the estimates.
    """
    tables = {name: {effect["group"]: effect for effect in facts.get("overall", ())} for name, facts in targets.items()}
    names = [group for group in next(iter(tables.values())) if all(group in table for table in tables.values())]
    if len(tables) < 2 or not names:
        return []
    value, q = (
        np.array([[table[group][key] for group in names] for table in tables.values()], dtype=float)
        for key in ("influence", "qvalue")
    )
    sure, front = np.where(q <= fdr, np.sign(value), 0), pareto(value)
    cases = [(sure < 0).all(0), (sure > 0).all(0), (sure < 0).any(0) & (sure > 0).any(0)]
    removal = np.select(cases, ["helps all", "hurts all", "trades"], "")
    return [
        {
            "group": names[i],
            "effects": {target: table[names[i]] for target, table in tables.items()},
            "removal": str(removal[i]),
            "front": bool(front[i]),
        }
        for i in np.argsort(value.mean(0), kind="stable")
    ]


def pareto(influences: Array) -> NDArray[np.bool_]:
    """Which groups no other one beats as a candidate for removal, `bool[G]`, from influences float[targets, G].

    One beats another that hurts every target at least as much, and one of them more.
    """
    one, other = influences[:, :, None], influences[:, None, :]
    front: NDArray[np.bool_] = ~np.any((one <= other).all(0) & (one < other).any(0), axis=0)
    return front


def split(
    tables: Sequence[Array], held: Subsets, estimator: Estimator, fdr: float, most: int = 4
) -> dict[str, Any] | None:
    """Split the examples of one class by which groups support them; None when no split holds up.

    Subpopulations are clusters (k-means) of the directions of the examples' influences, about their mean: an example
    that models hardly learn has small influences of the same kind. They are found with half of the models. A split
    holds up when the other half finds nearly the same, and every part has a group of its own that helps it more than
    the rest of the class, significantly in these other models.

    Args:
        tables: float[examples, groups], influences from one half of the models, from the other, and from all.
        held: the other half, with the class's examples.
        estimator: of influences.
        fdr: of the table of parts by groups.
        most: subpopulations at most; the most that hold up are taken.

    Returns:
        `agreement`, the adjusted Rand index of what the two halves of the models find, and `parts`: of each its
        `examples`, and the `group` that sets it apart, with `influence`, `stderr` and `qvalue` on its mean output minus
        that of the rest of the class, by models that it was not found with. Examples and groups are positions.
    """
    if len(tables[0]) < LEAST:
        return None
    first, second, whole = (_directions(table) for table in tables)
    for count in range(most, 1, -1):
        part, other = (KMeans(count, n_init=10, random_state=0).fit(x).labels_ for x in (first, second))
        size, agreement = np.bincount(part, minlength=count), float(adjusted_rand_score(part, other))
        if size.min() < LEAST // 4 or agreement < AGREE:
            continue
        inside = part[:, None] == np.arange(count)
        contrast = inside / size - ~inside / (len(part) - size)
        center = None if held.center is None else held.center @ contrast
        contrasts = replace(held, outputs=held.outputs @ contrast, center=center, within=None)
        found = estimator.estimate_subsets(contrasts)
        q = qvalues(pvalues(found.influence, found.stderr, found.dof))
        with np.errstate(divide="ignore", invalid="ignore"):
            evidence = np.where((q <= fdr) & (found.influence > 0), found.influence / found.stderr, 0.0)
        groups = evidence.argmax(1)
        if evidence.max(1).min() > 0 and len(set(groups.tolist())) == count:
            centres = np.stack([whole[part == k].mean(0) for k in range(count)])
            part = KMeans(count, init=centres, n_init=1).fit(whole).labels_
            parts = [
                {
                    "group": group,
                    "influence": float(found.influence[k, group]),
                    "stderr": float(found.stderr[k, group]),
                    "qvalue": float(q[k, group]),
                    "examples": np.flatnonzero(part == k),
                }
                for k, group in enumerate(groups.tolist())
            ]
            return {"agreement": agreement, "parts": parts}
    return None


def _directions(table: Array) -> Array:
    """Every example's influences at unit length, about the mean of all."""
    table = np.nan_to_num(table)
    table = table / np.maximum(np.linalg.norm(table, axis=1, keepdims=True), 1e-12)
    return np.asarray(table - table.mean(0))


def _example(dataset: xr.Dataset, row: int, group: int) -> dict[str, Any]:
    """One example and what one group does to it."""
    return {
        "example": int(dataset["example"].values[row]),
        "class": str(dataset["class"].values[dataset["label"].values[row]]),
        "group": str(dataset["group"].values[group]),
        **{key: float(dataset[key].values[row, group]) for key in ("influence", "stderr", "qvalue")},
    }


def _ends(dataset: xr.Dataset, groups: int = 8, most: int = 5) -> list[dict[str, Any]]:
    """For the groups with the strongest evidence on any class, the examples that they help and hurt most."""
    with np.errstate(divide="ignore", invalid="ignore"):
        z = np.abs(dataset["influence_class"].values / dataset["stderr_class"].values)
    evidence = np.nan_to_num(z, nan=0.0, posinf=0.0).max(0)
    found = []
    for group in np.argsort(-evidence, kind="stable")[:groups].tolist():
        column = np.nan_to_num(dataset["influence"].values[:, group])
        examples = {}
        for side, sign in (("helps", 1), ("hurts", -1)):
            rows = np.argsort(-sign * column, kind="stable")[:most].tolist()
            examples[side] = [_example(dataset, row, group) for row in rows if sign * column[row] > 0]
        found.append({"group": str(dataset["group"].values[group]), **examples})
    return found


def _named(dataset: xr.Dataset, rows: Index, found: dict[str, Any]) -> dict[str, Any]:
    """A split of the examples in `rows`, by names and ids; the examples that lean on a group most come first."""
    for part in found["parts"]:
        mine, group = rows[part["examples"]], part["group"]
        mine = mine[np.argsort(-dataset["influence"].values[mine, group], kind="stable")]
        part |= {"group": str(dataset["group"].values[group]), "examples": dataset["example"].values[mine].tolist()}
    return found


def levelled(influence: Array, stderr: Array, kept: Array, gap: Mean) -> tuple[Array, Array]:
    """Effects of keeping each group, and their standard errors, from influences that know them up to a constant.

    Subsets of one size tell effects only against the mean of the other groups (see `contract`); models of the full
    source tell the constant: together, the groups that subsets lack make the gap. Units are those of the influences.

    Args:
        influence: float[E, G], NaN for a group that all subsets keep or lack, which counts as an average one.
        stderr: float[E, G], its standard error.
        kept: float[G], share of the subsets that kept each group.
        gap: of [E], mean output of models of the full source minus that of the subsets.
    """
    lacking, against_all = 1 - kept, 1 - 1 / np.count_nonzero((kept > 0) & (kept < 1))
    effect, error = influence * against_all, stderr * against_all
    constant = (gap.value - np.nan_to_num(effect) @ lacking) / lacking.sum()
    return effect + constant[:, None], np.sqrt(error**2 + (gap.variance / lacking.sum() ** 2)[:, None])


def shrunk(effect: Array, stderr: Array, labels: NDArray[np.integer[Any]]) -> Array:
    """Effects drawn to the mean of their class, as far as what sets them apart is noise; float[E, G], NaN as zero.

    Of many noisy effects the largest are mostly noise. Those of one group on the examples of one class are taken as
    normal about their mean, with the variance that they have beyond their errors, as if these were independent: these
    are their expected values then (empirical Bayes; Efron & Morris, J. Am. Stat. Assoc. 68, 1973). Squared errors are
    noisy too, and count as what their example and their group make of them on average.

    Args:
        effect: float[E, G], of keeping each group.
        stderr: float[E, G], its standard error.
        labels: int[E], the class of each example.
    """
    known = np.isfinite(effect) & np.isfinite(stderr)
    values, noise = np.where(known, effect, 0.0).astype(np.float64), np.where(known, stderr, 0.0) ** 2
    noise = noise.mean(1, keepdims=True) * noise.mean(0) / max(noise.mean(), 1e-300)
    for label in np.unique(labels):
        rows = labels == label
        apart = values[rows] - values[rows].mean(0)
        beyond = np.maximum((apart**2).sum(0) / max(len(apart) - 1, 1) - noise[rows].mean(0), 0.0)
        values[rows] += apart * (beyond / np.maximum(beyond + noise[rows], 1e-300) - 1)
    return values


def _brittle(study: Study, name: str, dataset: xr.Dataset, estimator: Estimator, most: int = 100) -> dict[str, Any]:
    """The `most` examples that one group harms most, and those that hang on one group most, with what removing it does.

    Near 0 and 1 a probability hardly moves, and models of the full source are nearer to 1 than those of subsets. So
    effects are estimated on the logit (`level_of`), and taken from every one of the models that predictions start from:
    models of the full source where there are four or more, which tell the constant of effects too; else, of subsets.

    `predicted` is the change of the mean output on removing the group, positive where that raises it; `real` what runs
    without it say, where there are any; `spearman` the rank correlation of both over these examples, `spread` the
    standard deviation of the real changes, `noise` that of their errors (root mean square); `base`, how many models of
    the full source predictions start from.
    """
    target, masks, without = study.targets[name], study.packed(), study.without.get(name, {})
    means, levels = target.examples.array().mean(0, dtype=np.float64), target.levels.array().astype(np.float64)
    found = estimator.estimate_subsets(collapse(masks, levels, np.array(study.seeds)))
    effect, error, full = found.influence, found.stderr, without.get(-1, [])
    if base := full[1 : 2 * RUNS : 2] if len(full) >= 4 else []:
        # Some for what is predicted, the others for what is real: what they shared would make them agree.
        without = {**without, -1: [*full[::2], *full[2 * RUNS + 1 :: 2]]}
        start, has = np.array([run[2] for run in base], np.float64), np.ones((len(base), study.groups), np.bool_)
        if len(np.unique(masks.sizes())) == 1:
            effect, error = levelled(effect, error, masks.kept_share(), Mean.from_runs(start) - Mean.from_runs(levels))
    else:
        some = np.linspace(0, len(levels) - 1, min(len(levels), RUNS)).astype(int)
        start, has = levels[some], masks[some].unpack()
    effect = shrunk(effect, error, target.labels)
    output = expit if study.output == "prob" else np.positive
    result: dict[str, Any] = {"base": len(base)}
    for side, sign in (("harmed", 1), ("supported", -1)):
        groups = (-sign * effect).argmax(1)
        one, kept = effect[np.arange(len(effect)), groups], has[:, groups]
        change = (output(start - kept * one) - output(start + ~kept * one)).mean(0)
        rows = np.argsort(-sign * change, kind="stable")[:most]
        examples = []
        for row in rows[sign * change[rows] > 0].tolist():
            item = _example(dataset, row, int(groups[row]))
            said = {"mean": float(means[row]), "predicted": float(change[row])}
            examples.append({**item, **said, "real": removal(without, int(groups[row]), row)})
        table = pd.DataFrame([{"predicted": item["predicted"], **item["real"]} for item in examples if item["real"]])
        result[side] = {"examples": examples, "compared": len(table)}
        if len(table) > 2:
            result[side] |= {
                "spearman": table["predicted"].corr(table["change"], method="spearman"),
                "predicted": table["predicted"].mean(),
                "real": table["change"].mean(),
                "spread": table["change"].std(),
                "noise": float(np.sqrt((table["error"] ** 2).mean())),
            }
    return result


def removal(without: Mapping[int, Sequence[NDArray[Any]]], group: int, row: int) -> dict[str, float] | None:
    """What runs without one group say of an example, against runs with all groups; None when either are missing.

    without: by group, and -1 for all groups, of every run an array whose rows are the outputs of the examples and
    whether they are right.
    change: of the mean output, with its standard `error` over runs; before and after: the share of runs that are right;
    runs: how many were without the group.
    """
    if min(len(without.get(key, ())) for key in (-1, group)) < 2:
        return None
    whole, rest = (np.array([run[:2, row] for run in without[key]], np.float64).T for key in (-1, group))
    change = Mean.from_runs(rest[0]) - Mean.from_runs(whole[0])
    return {
        "change": float(change.value),
        "error": float(np.sqrt(change.variance)),
        "before": float(whole[1].mean()),
        "after": float(rest[1].mean()),
        "runs": rest.shape[1],
    }
