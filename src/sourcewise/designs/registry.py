"""The designs by name, and what is done with the settings `subset.*` of a run through them."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sourcewise.core.errors import SourcewiseError
from sourcewise.core.extensions import find
from sourcewise.core.settings import check_call
from sourcewise.designs import chosen_designs, random_designs
from sourcewise.designs.contract import Design, SubsetSettings

DESIGNS: Mapping[str, Design] = {
    "full": Design(chosen_designs.full),
    "random": Design(random_designs.random, is_random=True),
    "hadamard": Design(random_designs.hadamard, is_random=True),
    "replicated": Design(random_designs.replicated, is_random=True, replica=random_designs.replica_name),
    "listed": Design(chosen_designs.listed, resolve=chosen_designs.resolve_listed, names_groups=True),
    "ranked": Design(
        chosen_designs.ranked,
        resolve=chosen_designs.resolve_ranked,
        curve=chosen_designs.ranked_curve,
        names_groups=True,
    ),
}
"""The designs of ours by name, as `subset.design` gives it."""


def find_design(name: str) -> Design:
    """Return the design that the setting `subset.design` names: one of ours, or one of the user's by its dotted path.

    Imports the user's module: never for a name that a record gives (see `recorded_design`). Raises SourcewiseError for
    a name that is neither.
    """
    design: object = find(DESIGNS, name, "subset.design")
    if not isinstance(design, Design):
        raise SourcewiseError(f"subset.design={name}: this is no sourcewise.designs.Design; wrap your function in one")
    return design


def recorded_design(name: str) -> Design:
    """Return the design that a record names, without importing anything; it is not for drawing subsets.

    Of a design that is not ours, nothing is known: it counts as one without randomness, replicas or a curve.
    """
    return DESIGNS.get(name, Design(chosen_designs.full))


def resolve(subset: SubsetSettings) -> dict[str, Any]:
    """Return the settings of a subset with the content of files in place of their names.

    Every run is resolved before it is named, so that it is named by its subset, and its record stands alone. Resolving
    twice is resolving once. Raises SourcewiseError for an unknown design or setting, a value of another type, and a
    file that cannot be read.
    """
    if "design" not in subset:
        raise SourcewiseError(f"subset.design: this must be given; choose {', '.join(DESIGNS)}")
    design, settings = find_design(subset["design"]), _settings(subset)
    _check_owner(design, subset)
    check_call(design.draw, settings, "subset", later=["groups"])
    return design.resolve(subset)


def draw(groups: Sequence[str], subset: SubsetSettings) -> NDArray[np.bool_]:
    """Return the subset `bool[groups]` that the settings `subset.*` choose.

    Raises SourcewiseError as `resolve` does, and when the design cannot draw from these groups.
    """
    resolved = resolve(subset)
    mask = np.asarray(find_design(resolved["design"]).draw(groups, **_settings(resolved)))
    if mask.dtype != bool or mask.shape != (len(groups),) or not mask.any():
        raise SourcewiseError(
            f"subset.design={resolved['design']}: it must return bool[{len(groups)}], of the groups kept, and not none;"
            f" it returned {mask.dtype}{list(mask.shape)} with {np.count_nonzero(mask)} kept"
        )
    return mask


def _check_owner(design: Design, subset: SubsetSettings) -> None:
    """Raise SourcewiseError for a setting of other designs only, as an experiment has it with another subset chosen."""
    parameters = inspect.signature(design.draw).parameters
    for name in [name for name in _settings(subset) if name not in parameters]:
        owners = [key for key, owner in DESIGNS.items() if name in inspect.signature(owner.draw).parameters]
        if owners and inspect.Parameter.VAR_KEYWORD not in [parameter.kind for parameter in parameters.values()]:
            raise SourcewiseError(
                f"subset.{name}: the design {subset['design']} has no such setting, only {' and '.join(owners)};"
                " where an experiment sets it, leave out the experiment, or the choice of another subset"
            )


def _settings(subset: SubsetSettings) -> dict[str, Any]:
    return {name: value for name, value in subset.items() if name != "design"}
