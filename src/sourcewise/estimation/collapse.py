"""From models to subsets: average the seeds of a subset, and put a subset and its complement side by side.

The subset is the unit that was drawn at random. Seeds of one subset share its interactions, so errors must count
subsets, not models.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse, special

from sourcewise.estimation import spectra
from sourcewise.estimation.arrays import ALL, BLOCK_ROWS, TILE_COLUMNS, Array, Index, Mask, PackedMasks, cuts
from sourcewise.estimation.moments import GRAM_GROUPS, HierarchyMoments, Moments, sum_models


@dataclass(frozen=True)
class Subsets:
    """One row a subset, with the mean output over its seeds; complements side by side, first.

    Attributes:
        masks: bool[S, G], as bits.
        outputs: float[S, E].
        runs: int[S], models averaged in each row.
        unit: int[S], rows that belong together (a subset and its complement); folds never split them. Units are
            numbered by a digest of what they hold, so that what is drawn of them does not depend on the order of rows.
        pairs: the first 2 * pairs rows are pairs of complements.
        center: float[E], mean output of those rows; None without pairs.
        squares: float[S, E], sum of squares of the models of each subset about their mean; None where each has one.
        hierarchy: the columns' logits and classes; None where nobody gave them.
    """

    masks: PackedMasks
    outputs: NDArray[Any]
    runs: Index
    unit: Index
    pairs: int = 0
    center: Array | None = None
    squares: NDArray[Any] | None = None
    hierarchy: Hierarchy | None = None

    @property
    def units(self) -> int:
        """How many units there are."""
        return int(self.unit.max()) + 1 if len(self.unit) else 0

    def take(self, units: Index, columns: slice | Index = ALL) -> Subsets:
        """Return the rows of some units, which are numbered anew, and some of the columns."""
        rows = np.flatnonzero(np.isin(self.unit, units))
        center = None if self.center is None else self.center[columns]
        unit = np.unique(self.unit[rows], return_inverse=True)[1]
        pairs = int((rows < 2 * self.pairs).sum()) // 2
        cells = np.ix_(rows, np.arange(self.outputs.shape[1])[columns])
        squares = None if self.squares is None else self.squares[cells]
        hierarchy = None if self.hierarchy is None else self.hierarchy.take(units, columns)
        return Subsets(self.masks[rows], self.outputs[cells], self.runs[rows], unit, pairs, center, squares, hierarchy)

    def folds(self, seed: int = 0) -> Index:
        """Return the fold, of two to five, that each row belongs to, int[S]. Rows of one unit share it."""
        count = int(np.clip(self.units // 5, 2, 5))
        unit_folds = np.random.default_rng(seed).permutation(self.units) % count
        return np.asarray(unit_folds[self.unit], dtype=np.int64)

    def moments(
        self, columns: slice = ALL, groups: slice = ALL, hierarchy: bool = False, squares: bool = True
    ) -> Moments:
        """Return the moments of all rows, each with the weight of one; with a Gram matrix up to GRAM_GROUPS groups.

        With a Gram matrix, what a subset and its complement have in common (interactions of two groups, for instance)
        is left out. It cancels from every influence, and so must not count as noise.

        Args:
            columns: those of the moments.
            groups: those of the moments.
            hierarchy: whether to sum the columns' logits and their classes too. Columns without a hierarchy are
                examples of one class.
            squares: whether to sum the squares of outputs by group, which double the work.
        """
        gram = self.masks.groups <= GRAM_GROUPS
        width, height = len(range(*groups.indices(self.masks.groups))), self.outputs[:1, columns].shape[1]
        pairs = self.pairs if gram else 0

        def chunks() -> Iterator[tuple[Mask, NDArray[Any]]]:
            for rows in self.masks.blocks():
                outputs = self.outputs[rows, columns]
                paired = min(max(2 * pairs - rows.start, 0), len(outputs))
                if paired and self.center is not None:
                    outputs = outputs.astype(np.result_type(outputs, np.float32))
                    half = (outputs[0:paired:2] - outputs[1:paired:2]) / 2
                    outputs[0:paired:2] = self.center[columns] + half
                    outputs[1:paired:2] = self.center[columns] - half
                yield self.masks[rows].unpack(groups), outputs

        both = spectra.gram(self.masks)[groups, groups] if gram else None
        sums = sum_models(chunks(), width, height, pairs=pairs, squares=squares)
        moments = replace(sums, gram=both, models=chunks)
        if not hierarchy:
            return moments
        known = self.hierarchy or one_class(self)
        are_logits = known.logits.outputs is self.outputs
        logits = moments if are_logits else known.logits.moments(columns, groups, squares=False)
        return replace(moments, hierarchy=known.moments(logits, columns, groups))


@dataclass(frozen=True)
class Knowledge:
    """What somebody knows of the columns of outputs, models in rows; fields as in `Hierarchy`.

    Attributes:
        labels: int[E].
        scale: float[E].
        priors: float[C, G] by name.
        logits: float[models, E]; None where nobody knows any.
    """

    labels: Index
    scale: Array
    priors: Mapping[str, Array]
    logits: NDArray[Any] | None = None


@dataclass(frozen=True)
class Hierarchy:
    """What is known of columns besides their outputs.

    Attributes:
        labels: int[E], the class of each column.
        scale: float[E], units of the output that one unit of the logit is worth.
        logits: the columns on a scale where the effects of groups add up; the outputs themselves, if nobody knows any.
        classes: means of the logits by class.
        priors: tables float[C, G] by name, each of them in proportion to what one expects of the classes' effects.
    """

    labels: Index
    scale: Array
    logits: Subsets
    classes: Subsets
    priors: Mapping[str, Array]

    def take(self, units: Index, columns: slice | Index) -> Hierarchy:
        """Return what is known of some units and columns; classes keep the means over all columns."""
        return replace(
            self,
            labels=self.labels[columns],
            scale=self.scale[columns],
            logits=self.logits.take(units, columns),
            classes=self.classes.take(units),
        )

    def moments(self, logits: Moments, columns: slice, groups: slice) -> HierarchyMoments:
        """Return the moments of all rows, for some columns and groups; `logits` are those of the logits."""
        classes = self.classes.moments(ALL, groups, squares=False)
        labels, products = self.labels[columns], np.zeros(logits.columns)
        if logits.models is not None and classes.models is not None:
            for (_, example_rows), (_, class_rows) in zip(logits.models(), classes.models(), strict=True):
                for tile in cuts(len(labels), TILE_COLUMNS):
                    by_class = class_rows.T.astype(np.float64) @ example_rows[:, tile].astype(np.float64)
                    products[tile] += by_class[labels[tile], np.arange(by_class.shape[1])]
        priors = {name: table[:, groups] for name, table in self.priors.items()}
        return HierarchyMoments(labels, self.scale[columns], priors, logits, classes, products)


def one_class(subsets: Subsets) -> Hierarchy:
    """Return the hierarchy of columns of which nothing is known: examples of one class, outputs in place of logits."""
    columns = subsets.outputs.shape[1]
    return make_hierarchy(subsets, np.zeros(columns, np.int64), np.ones(columns), {})


def make_hierarchy(logits: Subsets, labels: Index, scale: Array, priors: Mapping[str, Array]) -> Hierarchy:
    """Return the hierarchy of columns with these logits. A class without columns has logits of zero."""
    classes = max(int(labels.max(initial=0)) + 1, *(len(table) for table in priors.values()), 1)
    member = sparse.csr_array((np.ones(len(labels)), (np.arange(len(labels)), labels)), (len(labels), classes))
    sizes = np.maximum(np.bincount(labels, minlength=classes), 1)
    means = np.empty((len(logits.outputs), classes))
    for rows in cuts(len(means), BLOCK_ROWS):
        means[rows] = logits.outputs[rows].astype(np.float64) @ member / sizes
    center = None if logits.center is None else means[: 2 * logits.pairs].mean(0)
    of_classes = replace(logits, outputs=means, center=center, squares=None)
    return Hierarchy(labels, scale, logits, of_classes, priors)


def collapse(
    masks: Mask | PackedMasks,
    outputs: NDArray[Any],
    seeds: NDArray[Any] | None = None,
    knowledge: Knowledge | None = None,
) -> Subsets:
    """Average the models of one subset over their seeds, and put complementary subsets side by side.

    Equal or complementary masks that no more than chance brings about, as with a handful of groups, are left alone.
    Given `seeds`, equal masks are always one subset, and a run that is there twice (same subset, seed and outputs)
    counts once.

    Args:
        masks: bool[models, G].
        outputs: float[models, E].
        seeds: training seeds [models], of any type that sorts.
        knowledge: what is known of the outputs' columns.
    """
    packed = masks if isinstance(masks, PackedMasks) else PackedMasks.pack(masks)
    logits = None if knowledge is None else knowledge.logits
    if seeds is not None:
        first = _first_runs(packed, outputs, seeds)
        if len(first) < len(packed):
            packed, outputs = packed[first], outputs[first]
            logits = None if logits is None else logits[first]
    equal_by_chance, complements_by_chance = _expected_by_chance(packed)
    subset, first = _numbered(_digests(packed.bits))
    runs = np.bincount(subset)
    squares = None
    if seeds is None and (runs * (runs - 1)).sum() / 2 <= 3 * (equal_by_chance + 1):
        runs = np.ones(len(packed), dtype=np.int64)
    elif len(first) < len(packed):
        outputs, squares = _averaged(outputs, subset, runs)
        logits = None if logits is None else _averaged(logits, subset, runs)[0]
        packed = packed[first]
    unit, pairs, center = None, _complementary_rows(packed), None
    if len(pairs) <= 3 * (complements_by_chance + 1):
        pairs = pairs[:0]
    if len(pairs):
        paired = pairs.ravel()
        single = np.setdiff1d(np.arange(len(packed)), paired)
        order = np.concatenate([paired, single])
        unit = np.concatenate([np.repeat(np.arange(len(pairs)), 2), len(pairs) + np.arange(len(single))])
        packed, outputs, runs = packed[order], outputs[order], runs[order]
        center = outputs[: len(paired)].mean(0, dtype=np.float64)
        squares = None if squares is None else squares[order]
        logits = None if logits is None else logits[order]
    unit = _numbered_by_content(packed, outputs, unit)
    subsets = Subsets(packed, outputs, runs, unit, len(pairs), center, squares)
    if knowledge is None:
        return subsets
    if logits is not None:
        logit_center = logits[: 2 * len(pairs)].mean(0, dtype=np.float64) if len(pairs) else None
        logit_subsets = replace(subsets, outputs=logits, center=logit_center, squares=None)
    else:
        logit_subsets = replace(subsets, squares=None)
    return replace(
        subsets, hierarchy=make_hierarchy(logit_subsets, knowledge.labels, knowledge.scale, knowledge.priors)
    )


def _first_runs(masks: PackedMasks, outputs: NDArray[Any], seeds: NDArray[Any]) -> Index:
    """Return the rows at which runs (same subset, seed and outputs) appear first."""
    runs = np.column_stack([np.unique(key, return_inverse=True)[1] for key in (_digests(masks.bits), seeds)])
    _, run, copies = np.unique(runs, axis=0, return_inverse=True, return_counts=True)
    repeated = np.flatnonzero(copies[run] > 1)  # only these take a look at their outputs
    content = np.zeros(len(masks), np.int64)
    content[repeated] = np.unique(_digests(outputs[row] for row in repeated), return_inverse=True)[1]
    return np.sort(np.unique(np.column_stack([run, content]), axis=0, return_index=True)[1])


def _averaged(outputs: NDArray[Any], subset: Index, runs: Index) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the mean outputs of each subset, and the sum of squares of its models about them, both [S, E]."""
    means = np.zeros((len(runs), outputs.shape[1]), np.result_type(outputs, np.float32))
    np.add.at(means, subset, outputs)
    means /= runs[:, None].astype(means.dtype)
    squares = np.zeros_like(means)
    for rows in cuts(len(outputs), BLOCK_ROWS):
        np.add.at(squares, subset[rows], (outputs[rows] - means[subset[rows]]) ** 2)
    return means, squares


def _numbered_by_content(masks: PackedMasks, outputs: NDArray[Any], unit: Index | None = None) -> Index:
    """Return the unit of each row, int[S], numbered by the least digest of a mask in it; of equal masks, by outputs."""
    keys = [_digests(masks.bits)]
    if len(np.unique(keys[0])) < len(keys[0]):
        keys.insert(0, _digests(outputs))
    rank = np.lexsort(keys).argsort()
    if unit is not None:
        least = np.full(int(unit.max()) + 1, len(rank))
        np.minimum.at(least, unit, rank)
        rank = least[unit]
    return np.asarray(np.unique(rank, return_inverse=True)[1], dtype=np.int64)


def _complementary_rows(masks: PackedMasks) -> Index:
    """Return the rows int[pairs, 2] of subsets and their complements. Of equal masks, only the last counts."""
    row_by_mask = {key: row for row, key in enumerate(_digests(masks.bits))}
    opposite = [row_by_mask.get(key, -1) for key in _digests(masks.complements().bits)]
    pairs = [(row, partner) for row, partner in enumerate(opposite) if row < partner and opposite[partner] == row]
    return np.array(pairs, dtype=np.int64).reshape(-1, 2)


def _numbered(keys: NDArray[Any]) -> tuple[Index, Index]:
    """Return the number of each key, in the order of first appearance, and the row where each number first appears."""
    _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    order = np.argsort(first)
    number = np.empty_like(order)
    number[order] = np.arange(len(order))
    return number[inverse], first[order]


def _digests(rows: Iterable[NDArray[Any]]) -> NDArray[Any]:
    return np.array([sha256(row.tobytes()).digest() for row in rows], dtype="S32")


def _expected_by_chance(masks: PackedMasks) -> tuple[float, float]:
    """Return how many pairs of equal, and of complementary, masks are to be expected of independent draws."""
    n, kept = len(masks), masks.kept_share()
    groups = int(((kept > 0) & (kept < 1)).sum())
    share = np.bincount(masks.sizes() - int((kept == 1).sum()), minlength=groups + 1) / max(n, 1)
    ways = special.binom(groups, np.arange(groups + 1))
    # as if all subsets of one size were equally likely, or as if groups were kept independently: the larger
    by_size = share**2 / ways, share * share[::-1] / ways
    by_group = np.prod(kept**2 + (1 - kept) ** 2), np.prod(2 * kept * (1 - kept))
    equal, opposite = (n * (n - 1) / 2 * max(float(a.sum()), float(b)) for a, b in zip(by_size, by_group, strict=True))
    return equal, opposite
