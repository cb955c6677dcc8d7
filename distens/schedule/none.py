"""No schedule: every member is trained in one go, for the epochs in its settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from distens.records import Finished, History
from distens.schedule.protocol import Decision, Start, TrainingLength


@dataclass(frozen=True)
class NONE:  # `None` is Python's own
    """NONE: no rungs; members are started until there are as many as the search is given."""

    def planned(self, lengths: Mapping[str, TrainingLength]) -> NONE:
        """Return the schedule itself: there is nothing to fill in."""
        return self

    def total(self, members: int | None) -> int | None:
        """Return the number of members that the search is given."""
        return members

    def decide(self, history: History) -> Decision:
        """Return the start of another member."""
        return Decision(start=Start())

    def standing(self, history: History) -> Sequence[Finished]:
        """Return every finished member, in order of arrival."""
        return history.finished
