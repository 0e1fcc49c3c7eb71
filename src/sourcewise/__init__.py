"""sourcewise: which parts of the source data help the target task, and which hurt it.

`load(places)` reads the records of a study, for a notebook, and `save_figure` writes what it draws for a paper;
`fit(masks, outputs)` estimates influences from plain arrays. All are imported on first use, since the commands' --help
does without.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sourcewise.commands.notebook import load as load
    from sourcewise.commands.notebook import save_figure as save_figure
    from sourcewise.estimation.fitting import Fit as Fit
    from sourcewise.estimation.fitting import fit as fit

_HOMES = {
    "Fit": "estimation.fitting",
    "fit": "estimation.fitting",
    "load": "commands.notebook",
    "save_figure": "commands.notebook",
}
__all__ = ["Fit", "fit", "load", "save_figure"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"sourcewise.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
