"""Every member is trained in one go, as long as its settings say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from distens.records import Finished, History
from distens.schedule.protocol import Decision, Length, Start


@dataclass(frozen=True)
class NONE:  # `None` is Python's own
    """No rungs: members are started until there are as many as asked for."""

    def planned(self, lengths: Mapping[str, Length]) -> NONE:
        """Return itself: there is nothing to fill in."""
        return self

    def total(self, members: int | None) -> int | None:
        """Return as many as the search is given."""
        return members

    def decide(self, history: History) -> Decision:
        """Return that another member may be started."""
        return Decision(start=Start())

    def standing(self, history: History) -> Sequence[Finished]:
        """Return every finished member, in order of arrival."""
        return history.finished
