"""sourcewise: which parts of the source data help the target task, and which hurt it.

`fit(masks, outputs)` estimates influences from plain arrays. It is imported on first use, since the commands' --help
does without.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sourcewise.fitting import Fit as Fit
    from sourcewise.fitting import fit as fit

__all__ = ["Fit", "fit"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from sourcewise import fitting

        return getattr(fitting, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
