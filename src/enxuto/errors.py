"""The errors that a user of enxuto may meet.

Each message says what went wrong, where, and what to do next. The command line turns each class into its
exit code (README, "Exit codes"); expected failures, such as a budget that cannot be met, are values instead.
"""

from __future__ import annotations


class EnxutoError(Exception):
    """Base of every error that enxuto raises on purpose; `exit_code` is the command line's."""

    exit_code = 2


class UsageError(EnxutoError):
    """The call itself is wrong: an unknown target, a size that is no size, a file that is not ours."""


class RecordError(UsageError):
    """A record's JSON cannot be read: corrupt, of another kind, or written by a newer version."""


class MissingDependency(UsageError):
    """An optional package is needed; the message holds the command that installs it."""


class OutOfBudget(EnxutoError, MemoryError):
    """A watched run reached the soft budget that it was given; raised where it happened, before memory is out."""

    exit_code = 1


class UndecidableError(EnxutoError):
    """The question has no honest answer here, for instance a dry trace of a data-dependent model."""

    exit_code = 3


class UserCodeError(EnxutoError):
    """The user's own model, loss, batch or optimizer raised; the cause keeps their traceback."""

    exit_code = 4
