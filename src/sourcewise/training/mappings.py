"""Label and feature mapping: two scores of groups from a single model of the whole source, as baselines.

Label and feature mapping follow "Selectivity Drives Productivity" (arXiv 2310.08782), which keeps the source classes
that most target examples are mapped to. In its words: label mapping asks the source model's head which source class a
target example belongs to; feature mapping, whose features lie nearest. Both are taken softly here, so that groups which
no example is mapped to are ranked too, and for every target class. Neither has a unit or an error, and neither shows
harm: they measure similarity.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sourcewise.core.splits import PARTS, parts


def groups_of_classes(labels: Tensor, groups: Tensor, classes: int) -> Tensor | None:
    """Return the group int64[classes] of each source class; None when a class is spread over groups, or empty."""
    class_groups = labels.new_full((classes,), -1).scatter(0, labels, groups)
    return class_groups if bool((class_groups[labels] == groups).all()) and bool((class_groups >= 0).all()) else None


def label_mapping(logits: Tensor, class_groups: Tensor, groups: int) -> Tensor:
    """Return the probability that the source head gives to each group, `float[n, groups]`.

    logits: of the source head for n target examples, `[n, classes]`; class_groups: int64[classes].
    """
    probability = logits.float().softmax(1)
    return probability.new_zeros(len(logits), groups).index_add(1, class_groups, probability)


def group_means(features: Tensor, source_groups: Tensor, groups: int) -> Tensor:
    """Return the mean features of each group, float[groups, f]. features: [m, f], of examples in groups int64[m]."""
    return _means(features.float(), source_groups, groups)


def feature_mapping(features: Tensor, means: Tensor) -> Tensor:
    """Return the cosine similarity of target features [n, f] with the means of groups [groups, f], float[n, groups].

    All are centred at the mean over groups.
    """
    centre = means.mean(0)
    unit_features, unit_means = (
        rows / rows.norm(dim=1, keepdim=True).clamp_min(1e-12) for rows in (features.float() - centre, means - centre)
    )
    similarity: Tensor = unit_features @ unit_means.T
    return similarity


def by_class(scores: Tensor, labels: Tensor, classes: int) -> NDArray[np.float32]:
    """Return the mean over the examples of each target class, float32[classes, groups].

    It is zero for a class without examples.
    """
    means: NDArray[np.float32] = _means(scores, labels, classes).numpy()
    return means


def by_part(scores: Tensor, labels: Tensor, classes: int) -> NDArray[np.float16]:
    """Return the means of `by_class` for each part of the examples, float16[PARTS, classes, groups].

    scores, labels: of examples sorted by id.
    """
    part = torch.from_numpy(parts(labels.numpy()))
    means = _means(scores, part * classes + labels, PARTS * classes)
    return means.reshape(PARTS, classes, -1).half().numpy()


def _means(rows: Tensor, parts: Tensor, count: int) -> Tensor:
    """Return the mean of the rows of each part, zero for a part without any."""
    sizes = parts.bincount(minlength=count).clamp(min=1)[:, None]
    return rows.new_zeros(count, rows.shape[1]).index_add(0, parts, rows) / sizes
