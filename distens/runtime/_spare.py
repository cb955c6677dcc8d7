"""Actors without a pack, which hold room: for whom they are used again, and who makes room for others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from distens.records import Resources
from distens.runtime import _sizes
from distens.runtime._placing import Placed


@dataclass
class Spare:
    """All actors of a run that have no pack now.

    Attributes:
        idle: are up, and carried one out.
        prepared: were started before there was one, and may not be up; the oldest first, which is up if any is.
    """

    idle: list[Placed] = field(default_factory=list)
    prepared: list[Placed] = field(default_factory=list)

    def take_idle(self, needs: Resources) -> Placed | None:
        """Return an idle actor of a size, which is not spare any more; None if there is none."""
        return _taken(self.idle, needs)

    def take_prepared(self, needs: Resources) -> Placed | None:
        """Return a prepared actor of a size, which is not spare any more; None if there is none."""
        return _taken(self.prepared, needs)

    def make_room(self, needs: Resources, busy: Sequence[Resources], room: _sizes.Node) -> None:
        """End actors until there is room for one of this size; those that are spare are of other sizes.

        Args:
            busy: what actors with a pack occupy.
            room: what there is, taken or not.
        """
        spare = [*self.idle, *self.prepared]
        for place in _sizes.to_end([actor.size for actor in spare], [needs, *busy], room):
            spare[place].end()
            self.idle = [actor for actor in self.idle if actor is not spare[place]]
            self.prepared = [actor for actor in self.prepared if actor is not spare[place]]

    def end(self) -> None:
        """End all of them."""
        for actor in [*self.idle, *self.prepared]:
            actor.end()
        self.idle, self.prepared = [], []


def _taken(actors: list[Placed], needs: Resources) -> Placed | None:
    for place, actor in enumerate(actors):
        if actor.size == needs:
            return actors.pop(place)
    return None
