"""The one exception that is meant for the user's eyes."""


class SourcewiseError(Exception):
    """Bad input: one line that says what is wrong, where, and what to do. The commands exit with status 2."""
