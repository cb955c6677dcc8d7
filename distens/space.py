"""The search space: what a config's `members` section leaves open.

Every value of a member may be fixed or a domain:

    learning_rate: {low: 1e-4, high: 1e-1, log: true}      a range; whole numbers when both ends are
    batch_size: {choices: [32, 64, 128]}                   a choice, of values or of mappings that hold domains

A domain inside a choice exists only where that choice is taken (a conditional space). The families of `members` are
the outermost choice. Settings are drawn uniformly, on a log scale where `log` says so.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from distens._domains import INACTIVE, Choice, Node, narrow, parse
from distens.errors import ConfigError
from distens.records import Floats, Settings

__all__ = ["INACTIVE", "Space"]


class Space:
    """What `members` leaves open, as a whole.

    Args:
        members: family name -> template: a mapping whose values are fixed or domains.

    Raises:
        ConfigError: a range or choice that holds nothing, or is written wrongly.
    """

    def __init__(self, members: Mapping[str, Mapping[str, Any]], where: str = "members") -> None:
        if not members:
            raise ConfigError(f"{where}: the space holds no settings: name at least one family")
        families = [parse({"family": name, **template}, f"{where}.{name}") for name, template in members.items()]
        self._root: Node = Choice(tuple(families), tuple(members))
        self.families = tuple(members)

    def narrowed(self, settings: Settings, free: Sequence[str]) -> Space:
        """Return the part of the space that differs from settings in nothing but `free` (dotted names).

        Encodings stay as they are, so what was learned in the whole space holds here.
        """
        part = copy.copy(self)
        part._root = narrow(self._root, settings, tuple(tuple(name.split(".")) for name in free))
        return part

    @property
    def width(self) -> int:
        """The length of an encoded vector."""
        return self._root.width

    @property
    def count(self) -> float:
        """How many different settings there are; infinite with a range of real numbers."""
        return self._root.count()

    def draw(self, rng: np.random.Generator) -> Settings:
        """Return settings drawn uniformly, families first."""
        return self._root.draw(rng)

    def contains(self, settings: Settings) -> bool:
        """Return whether `draw` could have made these settings."""
        return self._root.contains(settings)

    def encode(self, settings: Sequence[Settings]) -> Floats:
        """Return one row per settings: choices one-hot, ranges in [0, 1] (log where they are) with an "active" bit,
        INACTIVE where a condition does not hold."""
        absent: list[float] = []
        self._root.skip(absent)
        rows = np.tile(np.array(absent, dtype=np.float64), (len(settings), 1))
        if len(settings):
            self._root.fill(settings, rows)
        return rows

    def neighbour(self, settings: Settings, rng: np.random.Generator) -> Settings:
        """Return settings with one domain changed (a Gaussian step of 0.2 on the unit scale, or another choice)."""
        return self._root.neighbour(settings, rng)

    def corners(self) -> Iterator[Settings]:
        """Yield settings that together take every end of every range and every choice: what to check before work."""
        yield from self._root.corners()
