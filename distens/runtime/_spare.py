"""Actors without a pack, which still occupy room: they take a pack of their size, or end to make room for one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from distens.records import Resources
from distens.runtime import _sizes
from distens.runtime._placing import PlacedActor


@dataclass
class SpareActors:
    """The actors of a run that have no pack now.

    Attributes:
        idle: actors that are up and have carried out a pack.
        prepared: actors that were started before there was a pack for them, and may not be up; the oldest first, which
            is up if any of them is.
    """

    idle: list[PlacedActor] = field(default_factory=list)
    prepared: list[PlacedActor] = field(default_factory=list)

    def take_idle(self, needs: Resources) -> PlacedActor | None:
        """Remove and return an idle actor of a size; None if there is none."""
        return _taken(self.idle, needs)

    def take_prepared(self, needs: Resources) -> PlacedActor | None:
        """Remove and return a prepared actor of a size; None if there is none."""
        return _taken(self.prepared, needs)

    def make_room(self, needs: Resources, busy: Sequence[Resources], room: _sizes.Node) -> None:
        """End spare actors until there is room for one of this size; all spare actors have other sizes.

        Args:
            needs: the size of the actor to make room for.
            busy: the sizes of actors that have a pack.
            room: the resources of all nodes, occupied or not.
        """
        spare = [*self.idle, *self.prepared]
        for place in _sizes.actors_to_end([actor.size for actor in spare], [needs, *busy], room):
            spare[place].end()
            self.idle = [actor for actor in self.idle if actor is not spare[place]]
            self.prepared = [actor for actor in self.prepared if actor is not spare[place]]

    def end(self) -> None:
        """End all spare actors."""
        for actor in [*self.idle, *self.prepared]:
            actor.end()
        self.idle, self.prepared = [], []


def _taken(actors: list[PlacedActor], needs: Resources) -> PlacedActor | None:
    for place, actor in enumerate(actors):
        if actor.size == needs:
            return actors.pop(place)
    return None
