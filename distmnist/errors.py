"""Errors whose message is the one line that a person reads."""


class UsageError(ValueError):
    """Something the user can mend: the message is one line that says what, where and what to do. Exit code 2."""

    printed = False
    """Whether a rank has printed the line already."""


class RunError(RuntimeError):
    """The run cannot go on, through nobody's mistyping: the message is one line that says why. Exit code 1."""

    printed = False
    """Whether a rank has printed the line already."""
