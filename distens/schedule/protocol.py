"""Schedules: which members are trained further, and for how many epochs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from distens import registry
from distens.members.protocol import TrainsInRungs
from distens.records import Finished, History, Settings


@dataclass(frozen=True)
class TrainingLength:
    """The length of training of one family's members.

    Attributes:
        epochs: the epochs in their settings; several if they differ.
        last: the first epoch at which a member's learning rate ends; None: training may continue without limit.
    """

    epochs: tuple[int, ...]
    last: int | None


@dataclass(frozen=True)
class Promotion:
    """A member to be trained further: from where its rung `entry` ended, up to `budget` epochs."""

    entry: Finished
    budget: int


@dataclass(frozen=True)
class Start:
    """A start of new members.

    Attributes:
        bracket: the bracket of the new members; their names begin with it.
        budget: epochs of their first rung; None: they are trained in one go.
        left: the largest number of members to start; None: as many as the search is given.
    """

    bracket: str = ""
    budget: int | None = None
    left: int | None = None


@dataclass(frozen=True)
class Decision:
    """A decision on free slots: promotions come first, the most urgent of them first, then new members.

    Without either, free slots wait for pending tasks; if none are pending, the search is over.
    """

    promote: Sequence[Promotion] = ()
    start: Start | None = None


class Schedule(Protocol):
    """A schedule: a frozen dataclass whose fields are its options.

    It keeps no state between calls: its decisions follow only from the history. The plan fills in its options once.
    Then a run calls `decide` whenever an actor is free, and `standing` at the end:

        >>> from distens import registry
        >>> from distens.records import History
        >>> schedule = registry.make_plugin("schedule", {"kind": "halving", "minimum": 1}, "schedule")
        >>> schedule = schedule.planned({"net": TrainingLength(epochs=(9,), last=None)})
        >>> schedule.decide(History()).start.budget  # the first member's first rung
        1
    """

    def planned(self, lengths: Mapping[str, TrainingLength]) -> Schedule:
        """Return the schedule with every option filled in.

        Args:
            lengths: family -> its length of training; only families that can be trained in parts.

        Raises:
            ValueError: the schedule has no effect on these families, or cannot be trained for the epochs that it needs.
        """
        ...

    def total(self, members: int | None) -> int | None:
        """Return the number of members to start, given the number set for the search; None: no number is set.

        Raises:
            ValueError: the number has no effect.
        """
        ...

    def decide(self, history: History) -> Decision:
        """Return the next decision; its cost grows with the members of a rung at most, not with epochs or settings."""
        ...

    def standing(self, history: History) -> Sequence[Finished]:
        """Return the entries that count in the end: one for each member, in any order."""
        ...


PLUGINS = (Schedule,)
"""The protocols of this family: a user's own plug-in must satisfy one of them."""


def trains_in_rungs(settings: Settings) -> bool:
    """Return True if a member can stop after any epoch and resume later (see `TrainsInRungs`)."""
    return registry.has_capability(registry.find_plugin("members", settings["kind"], "members"), TrainsInRungs)
