"""The exceptions that are meant for the user's eyes: one line that says what is wrong, where, and what to do."""

from collections.abc import Iterable
from difflib import get_close_matches

VERBOSE = "SOURCEWISE_VERBOSE"
"""In the environment of a command with `-v`, and of all that it starts."""


WORKER = "SOURCEWISE_WORKER"
"""In the environment of a launcher's worker processes, which never wait for a run that someone else is doing."""

EXIT_LEASED = 75
"""Exit status of a command whose run someone else is doing (EX_TEMPFAIL: try again later)."""


class SourcewiseError(Exception):
    """Bad input. The commands print its one line and exit with `status`."""

    status = 2


class RunFailed(SourcewiseError):  # noqa: N818  # an event of a sweep, and called so
    """A run, or some runs of a sweep, started well and did not end well."""

    status = 1


def did_you_mean(name: str, choices: Iterable[str]) -> str:
    """Return `; did you mean ...?` with the nearest choice, upper case or lower; nothing when no choice is near."""
    by_folded = {choice.casefold(): choice for choice in choices}
    near = get_close_matches(name.casefold(), by_folded, n=1)
    return f"; did you mean {by_folded[near[0]]}?" if near else ""
