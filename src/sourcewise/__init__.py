"""sourcewise: which parts of the source data help the target task, and which hurt it.

`load(places)` reads the records of a study, for a notebook; `fit(masks, outputs)` estimates influences from plain
arrays. Both are imported on first use, since the commands' --help does without.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sourcewise.commands.notebook import load as load
    from sourcewise.estimation.fitting import Fit as Fit
    from sourcewise.estimation.fitting import fit as fit

_HOMES = {"Fit": "estimation.fitting", "fit": "estimation.fitting", "load": "commands.notebook"}
__all__ = ["Fit", "fit", "load"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"sourcewise.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
