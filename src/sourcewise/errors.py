"""The exceptions that are meant for the user's eyes: one line that says what is wrong, where, and what to do."""


class SourcewiseError(Exception):
    """Bad input. The commands print its one line and exit with `status`."""

    status = 2


class RunFailed(SourcewiseError):  # noqa: N818  # an event of a sweep, and called so
    """A run, or some runs of a sweep, started well and did not end well."""

    status = 1
