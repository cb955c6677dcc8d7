"""Which members go on training, and how far."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from distens import registry
from distens.members.protocol import TrainsInRungs
from distens.records import Finished, History, Settings


@dataclass(frozen=True)
class Length:
    """How long members of one family are trained.

    Attributes:
        epochs: what their settings say; several where they differ.
        last: the epoch at which the rate of one of them ends; None: they may be trained on for ever.
    """

    epochs: tuple[int, ...]
    last: int | None


@dataclass(frozen=True)
class Promotion:
    """A member that goes on from where a rung of it ended, up to a number of epochs."""

    entry: Finished
    budget: int


@dataclass(frozen=True)
class Start:
    """New members may be started.

    Attributes:
        bracket: where they belong; it begins their names.
        budget: epochs of their first rung; None: they are trained in one go.
        left: how many at most; None: as many as the search is given.
    """

    bracket: str = ""
    budget: int | None = None
    left: int | None = None


@dataclass(frozen=True)
class Decision:
    """What free slots do, promotions first and the most urgent of them first. Neither: they wait for what is pending,
    and when nothing is, the search is over."""

    promote: Sequence[Promotion] = ()
    start: Start | None = None


class Schedule(Protocol):
    """A frozen dataclass whose fields are its options. It keeps nothing between calls: what it decides follows from
    history alone.

    The plan fills it in once; then a run asks it whenever an actor is free, and at the end what counts:

        >>> from distens import registry
        >>> from distens.records import History
        >>> schedule = registry.build("schedule", {"kind": "halving", "minimum": 1}, "schedule")
        >>> schedule = schedule.planned({"net": Length(epochs=(9,), last=None)})
        >>> schedule.decide(History()).start.budget  # the first member's first rung
        1
    """

    def planned(self, lengths: Mapping[str, Length]) -> Schedule:
        """Return the schedule with every option filled in.

        Args:
            lengths: family -> how long its members are trained; families that can be trained in parts alone.

        Raises:
            ValueError: it has no effect on these families, or they cannot be trained so far.
        """
        ...

    def total(self, members: int | None) -> int | None:
        """Return how many members are started, of as many as the search is given; None: no number is set.

        Raises:
            ValueError: the number has no effect, or is too small for the schedule to have its full effect.
        """
        ...

    def decide(self, history: History) -> Decision:
        """Return what to do next. The work is proportional to a rung's members at most, not to epochs or settings."""
        ...

    def standing(self, history: History) -> Sequence[Finished]:
        """Return what counts in the end: one entry for each member, in any order."""
        ...


PLUGINS = (Schedule,)
"""What a user's own plug-in of this family must be: one of these."""


def in_parts(settings: Settings) -> bool:
    """Return True if a member can stop after any epoch and resume later (see `TrainsInRungs`)."""
    return registry.able(registry.find("members", settings["kind"], "members"), TrainsInRungs)
