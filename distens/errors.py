"""Errors that are caused by a user, an operator or a member, not by a bug of ours.

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
    """The base of every error that is shown to the user; the command line prints it without a traceback.

    Its message may quote a config or a library's own error; credentials in such quotes are hidden.
    """

    def __init__(self, message: str = "") -> None:
        super().__init__(redact(message))


class ConfigError(DistensError):
    """An error in the config: it cannot be run as it is."""


class DataError(DistensError):
    """An error in the data or in rows to predict: they do not match the config or the model."""


class StorageError(DistensError):
    """An error of storage: a run's folder cannot be written or read, or a file in it is damaged."""


class StorageFailed(StorageError):
    """A failure of the storage as a whole: it is full, unreachable for too long, or refuses access.

    The member whose files were to be written is not at fault. The run ends, and can be resumed later.
    """


class RunError(DistensError):
    """An error of a run: it cannot start, continue or finish (not enough resources, every member failed, …)."""


class BundleError(DistensError):
    """An error of a bundle: it is damaged, incomplete, or written by a newer version."""


class Diverged(DistensError):
    """An error of a member: its loss or predictions are not finite. It is marked, left out, not tried again."""


class Refused(DistensError):
    """An error of a member: it cannot be trained with these settings on these data. It is not tried again."""


DAMAGE_ERRORS = (ArithmeticError, AssertionError, AttributeError, LookupError, RecursionError, TypeError, ValueError)
"""The errors that Python raises on the content of a damaged file."""


@contextmanager
def report_damage(where: str, kind: type[DistensError] = StorageError) -> Iterator[None]:
    """Turn the errors that the content of a damaged file causes (DAMAGE_ERRORS) into one error that names the file.

    Args:
        where: the file, for the message.
        kind: the class of the error to raise.

    Raises:
        DistensError: an error of class `kind`, if the body raised one of DAMAGE_ERRORS.
    """
    try:
        yield
    except DAMAGE_ERRORS as error:
        raise kind(f"{where} is damaged: {type(error).__name__}: {error}") from error


class _Short(Repr):
    def __init__(self) -> None:
        super().__init__()
        self.maxlevel, self.maxdict, self.maxlist, self.maxtuple = 4, 20, 20, 20
        self.maxstring = self.maxother = 200

    def repr_str(self, x: str, level: int) -> str:
        return super().repr_str(redact(x), level)  # before the cut: a shortened credential might not be recognised


_SHORT = _Short()


def shorten_value(value: object) -> str:
    """Return a value as text for a message: shortened, and without credentials."""
    return _SHORT.repr(value)


def did_you_mean(found: str, allowed: Iterable[str]) -> str:
    """Return `Did you mean 'x'? Allowed: …` for a name that is not among the allowed ones."""
    allowed = sorted(allowed)
    close = get_close_matches(found, allowed, n=1, cutoff=0.6)
    hint = f"Did you mean {close[0]!r}? " if close else ""
    return f"{hint}Allowed: {', '.join(allowed) or 'nothing'}"
