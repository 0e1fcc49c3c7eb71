"""How the report writes numbers, units, lists and times, on the page and in a terminal."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from sourcewise.acting.counterfactuals import Interval


@dataclass(frozen=True)
class DisplayUnit:
    """The unit in which influences are shown.

    factor: multiplies the influence. name: of the unit. meaning: what is measured in it. decimals: how many are shown.
    """

    factor: float
    name: str
    meaning: str
    decimals: int = 2

    def show(self, value: float | None, sign: bool = True, error: float | None = None) -> str:
        """Return an influence in this unit as text, as exact as its error asks, with its sign if `sign`."""
        decimals = places(None if error is None else self.factor * error, self.decimals)
        return number(None if value is None else self.factor * value, decimals, sign)

    def pair(self, value: float | None, error: float | None) -> tuple[str, str]:
        """Return an influence and its standard error as texts; the error has two significant digits or more."""
        return self.show(value, error=error), self.show(error, sign=False, error=error)


_UNITS = {
    "prob": DisplayUnit(100.0, "percentage points", "the probability given to the correct class"),
    "correct": DisplayUnit(100.0, "percentage points", "the share of correct predictions"),
    "value": DisplayUnit(1.0, "units of the output", "the number in the file of outputs", 3),
    "margin": DisplayUnit(1.0, "log-odds", "the margin, the log-odds of the correct class", 3),
}


def display_unit(output: str) -> DisplayUnit:
    """Return the unit in which influences on `output` are shown; that of a metric has the metric's name.

    >>> display_unit("prob").name
    'percentage points'
    """
    return _UNITS.get(output, DisplayUnit(1.0, output, output, 3))


def join(names: Sequence[str]) -> str:
    """Return names as a list in a sentence.

    >>> join(["a", "b", "c"])
    'a, b and c'
    """
    return " and ".join([*([", ".join(names[:-1])] if names[:-1] else []), *names[-1:]])


def count(number: int, noun: str) -> str:
    """Return a number with its noun, in the plural where it needs one.

    >>> count(1, "class"), count(2, "class"), count(1200, "model")
    ('1 class', '2 classes', '1,200 models')
    """
    return f"{number:,} {noun}{'' if number == 1 else 'es' if noun.endswith('s') else 's'}"


def number(value: float | None, decimals: int = 2, sign: bool = False, unknown: str = "not identifiable") -> str:
    """Return a number with a true minus sign, and with a plus if `sign`; None and NaN are `unknown`.

    Only with `sign`, which side of zero it is on is shown even where its digits are all zero.

    >>> number(-0.5), number(-0.001), number(0.5, 1, sign=True), number(float("nan"))
    ('−0.50', '0.00', '+0.5', 'not identifiable')
    """
    if value is None or not math.isfinite(value):
        return unknown
    return f"{value:{'+' if sign else 'z'},.{decimals}f}".replace("-", "−")


def percent(interval: Interval, *, sign: bool = False) -> str:
    """Return a share as percent, with its interval where that is known.

    >>> percent(Interval(0.5, 0.25, 0.75)), percent(Interval(0.5, None, None), sign=True)
    ('50.00 (25.00 to 75.00)', '+50.00')
    """
    shown = [end for end in (interval.value, interval.low, interval.high) if end is not None]
    value, *ends = (number(100 * end, sign=sign) for end in shown)
    return f"{value} ({' to '.join(ends)})" if ends else value


def places(error: float | None, least: int = 2) -> int:
    """Return how many decimals show two significant digits of an error, `least` or more.

    >>> places(0.5), places(0.0034), places(None)
    (2, 4, 2)
    """
    if error is None or not math.isfinite(error) or error <= 0:
        return least
    return max(least, 1 - math.floor(math.log10(error)))


def q_value(q: float | None) -> str:
    """Return a q-value as text. A small one is a bound, never 0.

    >>> q_value(0.0123), q_value(1e-9), q_value(None)
    ('0.012', '< 0.0001', '–')
    """
    if q is None or not math.isfinite(q):
        return "–"
    return "< 0.0001" if q < 1e-4 else f"{q:.2g}"


def duration(seconds: float) -> str:
    """Return a time in the largest unit that suits it.

    >>> duration(75), duration(7300)
    ('1.2 min', '2.0 h')
    """
    sizes = ((2 * 86400, 86400, "days"), (3600, 3600, "h"), (60, 60, "min"))
    return next(
        (f"{seconds / size:,.1f} {name}" for least, size, name in sizes if seconds >= least), f"{seconds:.1f} s"
    )
