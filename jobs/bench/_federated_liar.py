"""A kind of client: clients with certain names send their updates with the opposite sign."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from distens.errors import Diverged
from distens.members.client import Client
from distens.records import Floats


@dataclass
class Flipped(Client):
    """A client that flips the sign of its update if its name is listed.

    Attributes:
        flips: the names of the clients that do so.
    """

    flips: tuple[str, ...] = ()

    def train(self, start_P: Floats, shards: Sequence[Any], round: int, device: str = "cpu") -> Iterator[Any]:
        """Yield the updates of clients, those of some with the opposite sign."""
        for place, found in super().train(start_P, shards, round, device):
            if isinstance(found, Diverged) or shards[place].client not in self.flips:
                yield place, found
            else:
                yield place, replace(found, weights_P=2 * start_P - found.weights_P)
