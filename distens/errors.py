"""What can go wrong that a user, an operator or a member is to blame for.

Every message says what is wrong, where, what was found and what is allowed. A broken invariant of our own is an
`assert` instead, and shows a traceback.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from reprlib import Repr

from distens.credentials import redact


class DistensError(Exception):
    """Base of every error that speaks to the user; the command line prints it without a traceback.

    Whatever its message repeats, of a config or of a library's own error, it repeats without credentials.
    """

    def __init__(self, message: str = "") -> None:
        super().__init__(redact(message))


class ConfigError(DistensError):
    """The configuration cannot be run as it stands."""


class DataError(DistensError):
    """The data, or rows to predict, are not what the configuration or the model says."""


class StorageError(DistensError):
    """A run's folder cannot be written or read, or a file in it is damaged."""


class StorageFailed(StorageError):
    """Storage takes or gives nothing: it is full, away for too long, or not ours. No member is at fault whose files it
    was to take: the run ends, and can go on later."""


class RunError(DistensError):
    """A run cannot start, go on or finish (not enough resources, every member failed, …)."""


class BundleError(DistensError):
    """A bundle is damaged, incomplete, or written by a newer version."""


class Diverged(DistensError):
    """A member's loss or predictions stopped being finite; it is marked and left out, and not tried again."""


class Refused(DistensError):
    """A member cannot be trained with these settings on these data; it is not tried again."""


AMISS = (ArithmeticError, AssertionError, AttributeError, LookupError, RecursionError, TypeError, ValueError)
"""What Python raises where a file does not hold what it should."""


@contextmanager
def damage(where: str, kind: type[DistensError] = StorageError) -> Iterator[None]:
    """Turn what is raised where a file does not hold what it should (AMISS) into one error that names the file.

    Raises:
        DistensError: of that kind: the body failed so.
    """
    try:
        yield
    except AMISS as error:
        raise kind(f"{where} is damaged: {type(error).__name__}: {error}") from error


class _Short(Repr):
    def __init__(self) -> None:
        super().__init__()
        self.maxlevel, self.maxdict, self.maxlist, self.maxtuple = 4, 20, 20, 20
        self.maxstring = self.maxother = 200

    def repr_str(self, x: str, level: int) -> str:
        return super().repr_str(redact(x), level)  # first: what is cut might be told no more


_SHORT = _Short()


def shown(value: object) -> str:
    """Return a value as a message repeats it: what was found, and never megabytes of it."""
    return _SHORT.repr(value)


def did_you_mean(found: str, allowed: Iterable[str]) -> str:
    """Return `Did you mean 'x'? Allowed: …` for a name that is not among the allowed ones."""
    allowed = sorted(allowed)
    close = get_close_matches(found, allowed, n=1, cutoff=0.6)
    hint = f"Did you mean {close[0]!r}? " if close else ""
    return f"{hint}Allowed: {', '.join(allowed) or 'nothing'}"
