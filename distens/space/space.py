"""The search space: what a config's `members` section leaves open.

Every value of a member may be fixed or a domain:

    learning_rate: {low: 1e-4, high: 1e-1, log: true}      a range; whole numbers when both ends are
    dropout: {low: 0.0, high: 0.5, step: 0.1}              only the multiples of a step in a range
    gain: {mean: 0.0, sd: 1.0}                             a normal distribution
    batch_size: {choices: [32, 64, 128]}                   a choice, of values or of mappings that hold domains
    degree: {low: 2, high: 5, when: {kernel: poly}}        any of these under a condition on other options

A domain inside a choice exists only where that choice is taken (a conditional space). A condition names an option of
the same mapping, or by dots one of the family's, and the value, or a list of values, of which it must have one;
otherwise the domain's option is left out. The families of `members` are the outermost choice. Choices and ranges are
drawn uniformly, ranges on a log scale where `log` is true.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from distens.errors import ConfigError
from distens.records import Floats, Settings, settings_key
from distens.space._choices import Choice
from distens.space._domains import INACTIVE, Node
from distens.space._parsing import is_domain, parse_node
from distens.space._parts import ListedSettings, encode_values, narrow, narrow_to_family

__all__ = ["INACTIVE", "Space", "is_domain"]


class Space:
    """The search space of a config's `members`, or a part of it.

    Args:
        members: family name -> template: a mapping whose values are fixed or domains.

    Raises:
        ConfigError: there is no family, or a range or choice is empty or written wrongly.
    """

    def __init__(self, members: Mapping[str, Mapping[str, Any]], where: str = "members") -> None:
        if not members:
            raise ConfigError(f"{where}: the space holds no settings: name at least one family")
        families = [parse_node({"family": name, **template}, f"{where}.{name}") for name, template in members.items()]
        self._root: Node = Choice(tuple(families), tuple(members))
        self._families = tuple(members)

    @property
    def families(self) -> tuple[str, ...]:
        """Return the names of the families that settings may be of, in the order of `members`."""
        found = {corner["family"] for corner in self.corners()}
        return tuple(family for family in self._families if family in found)

    def narrowed(self, settings: Settings, free: Sequence[str]) -> Space:
        """Return the part of the space whose settings differ from `settings` only in `free` (dotted names).

        Its encodings are those of the whole space, so what was learned there holds here.
        """
        return self._part(narrow(self._root, settings, tuple(tuple(name.split(".")) for name in free)))

    def among(self, settings: Sequence[Settings]) -> Space:
        """Return the part of the space that holds these settings and no others; equal ones count once.

        It serves to search a table of members that were trained before, or a portfolio. Its encodings are those of the
        whole space. A neighbour is one of the listed settings that are nearest in the encoding, or at times any other;
        it is the same only if there is no other. The settings themselves are returned, not copies.

        Raises:
            ConfigError: there are no settings, or some do not lie in the space.
        """
        listed = tuple({settings_key(one): one for one in settings}.values())
        if not listed:
            raise ConfigError("the list of settings is empty: name at least one")
        foreign = next((one for one in listed if not self.contains(one)), None)
        if foreign is not None:
            raise ConfigError(f"listed settings must lie in the space; outside of it: {dict(foreign)!r}")
        return self._part(ListedSettings(self._root, listed))

    def only(self, family: str) -> Space:
        """Return the part of the space with one of its `families`, in an encoding of its own: that family's columns."""
        assert family in self.families, f"{family} is none of {self.families}"
        return self._part(narrow_to_family(self._root, family))

    def _part(self, root: Node) -> Space:
        part = copy.copy(self)
        part._root = root
        return part

    @property
    def width(self) -> int:
        """Return the length of an encoded vector."""
        return self._root.width

    @property
    def count(self) -> float:
        """Return the number of different settings; infinite with a range of real numbers or a normal distribution.

        Conditions are left out of account, so that there may be fewer.
        """
        return self._root.count()

    def draw(self, rng: np.random.Generator) -> Settings:
        """Return random settings: a family is drawn uniformly, then its values; of a list, one uniformly."""
        return self._root.draw(rng)

    def draws(self, rng: np.random.Generator) -> Iterator[Settings]:
        """Yield random settings: those of a list once each, in random order; else without end, with repeats."""
        if isinstance(self._root, ListedSettings):
            yield from (self._root.settings[place] for place in rng.permutation(len(self._root.settings)))
            return
        while True:
            yield self.draw(rng)

    def contains(self, settings: Settings) -> bool:
        """Return True if `draw` could have made these settings."""
        return self._root.contains(settings)

    def encode(self, settings: Sequence[Settings]) -> Floats:
        """Return the encodings of settings, one row each.

        A choice is one-hot. A range is a number in [0, 1] (on a log scale where it has one) and an "active" bit;
        where its condition does not hold, it is INACTIVE and 0.
        """
        return encode_values(self._root, settings)

    def neighbour(self, settings: Settings, rng: np.random.Generator) -> Settings:
        """Return settings with one domain changed (a Gaussian step of 0.2 on the unit scale, or another choice)."""
        return self._root.neighbour(settings, rng)

    def corners(self) -> Iterator[Settings]:
        """Yield settings that together take every end of every range and every choice, to be checked before a run."""
        yield from self._root.corners()
