"""Subsets that are worth a race: rankings of the groups by all that is known, each cut at several sizes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from sourcewise.estimation.arrays import Array, Mask
from sourcewise.estimation.collapse import Knowledge, Subsets, collapse
from sourcewise.estimation.fitting import logit_slopes
from sourcewise.estimation.hierarchical import HIERARCHICAL
from sourcewise.study.measurements import Measurement

LEAST_EXPLORED = 8
"""Models of random subsets below which these rank nothing."""
FULL = "the full source"


@dataclass(frozen=True)
class Candidate:
    """A subset that may become the source.

    Attributes:
        keep: bool[G], which groups it keeps.
        origin: where it comes from, as `label mapping`.
    """

    keep: tuple[bool, ...]
    origin: str

    @property
    def removed(self) -> int:
        """How many groups it lacks."""
        return len(self.keep) - sum(self.keep)

    @property
    def name(self) -> str:
        """How texts call it."""
        return f"without {self.removed} groups by {self.origin}" if self.removed else FULL


def mean_mappings(full: Sequence[Measurement]) -> dict[str, Array]:
    """Return the mean of each mapping over models of the full source, float[C, G] by name."""
    names = set.intersection(*(set(item.mappings) for item in full)) if full else set()
    return {name: np.mean([item.mappings[name] for item in full], axis=0) for name in sorted(names)}


def explored_subsets(
    models: Sequence[Measurement], mappings: Mapping[str, Array], shares: Array
) -> tuple[Subsets, Array]:
    """Return models of random subsets with the mean outputs of classes that have a share, and these shares, float[C].

    mappings: float[C, G] by name, which count as far as they fit the models. shares: float[C], of classes in the mean.
    """
    present = shares > 0
    outputs, logits = (np.array([getattr(item, key)[present] for item in models]) for key in ("classes", "logits"))
    tables = {name: table[present] for name, table in mappings.items()}
    knowledge = Knowledge(np.arange(present.sum()), logit_slopes(outputs, logits), tables, logits)
    return collapse(np.array([item.mask for item in models]), outputs, None, knowledge), shares[present]


def effects(models: Sequence[Measurement], mappings: Mapping[str, Array], shares: Array) -> Array:
    """Return what keeping each group is expected to add to the mean output, float[G], from models of random subsets.

    mappings, shares: as in `explored_subsets`.
    """
    subsets, present_shares = explored_subsets(models, mappings, shares)
    return np.asarray(present_shares @ HIERARCHICAL.estimate_subsets(subsets, second_pass=False).slopes)


def rankings(full: Sequence[Measurement], explored: Sequence[Measurement], shares: Array) -> dict[str, Array]:
    """Return scores of the groups, float[G] by name; the higher, the better is it to keep the group.

    shares: float[C], of classes in the mean output.
    """
    tables = mean_mappings(full)
    scores: dict[str, Array] = {name.replace("_", " "): shares @ table for name, table in tables.items()}
    if len(explored) >= LEAST_EXPLORED:
        scores["influences"] = effects(explored, {}, shares)
        if tables:
            scores["influences and mapping"] = effects(explored, tables, shares)
    return scores


def cut(scores: Mapping[str, Array], sizes: Iterable[int]) -> list[Candidate]:
    """Return the subsets without the worst groups of each ranking, for each number of groups removed, each once."""
    candidates: dict[tuple[bool, ...], Candidate] = {}
    for removed in sizes:
        for name, score in scores.items():
            keep = np.ones(len(score), dtype=bool)
            keep[np.argsort(score, kind="stable")[:removed]] = False
            chosen = as_keep(keep)
            candidates.setdefault(chosen, Candidate(chosen, name))
    return list(candidates.values())


def as_keep(mask: Mask) -> tuple[bool, ...]:
    """Return a mask as a trial has it."""
    return tuple(mask.tolist())
