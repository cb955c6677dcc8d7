"""What can go wrong that a user, an operator or a member is to blame for.

Every message says what is wrong, where, what was found and what is allowed. A broken invariant of our own is an
`assert` instead, and shows a traceback.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class DistensError(Exception):
    """Base of every error that speaks to the user; the command line prints it without a traceback."""


class ConfigError(DistensError):
    """The configuration cannot be run as it stands."""


class DataError(DistensError):
    """The data, or rows to predict, are not what the configuration or the model says."""


class StorageError(DistensError):
    """A run's folder cannot be written or read, or a file in it is damaged."""


class RunError(DistensError):
    """A run cannot start, go on or finish (not enough resources, every member failed, …)."""


class BundleError(DistensError):
    """A bundle is damaged, incomplete, or written by a newer version."""


class Diverged(DistensError):
    """A member's loss or predictions stopped being finite; it is marked and left out, and not tried again."""


class Refused(DistensError):
    """A member cannot be trained with these settings on these data; it is not tried again."""


def did_you_mean(found: str, allowed: Iterable[str]) -> str:
    """Return `Did you mean 'x'? Allowed: …` for a name that is not among the allowed ones."""
    allowed = sorted(allowed)
    close = get_close_matches(found, allowed, n=1, cutoff=0.6)
    hint = f"Did you mean {close[0]!r}? " if close else ""
    return f"{hint}Allowed: {', '.join(allowed) or 'nothing'}"
