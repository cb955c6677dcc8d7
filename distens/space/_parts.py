"""Parts of a search space: with some values fixed, of one family alone, or a list of settings.

A part with fixed values, or a list, encodes as the whole space does, so that what was learned in the whole holds in it.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from distens.records import Floats, Integers, Settings, settings_key
from distens.space._choices import Choice, Composite
from distens.space._conditions import Conditional
from distens.space._domains import Constant, Node

NEAR = 8
"""The number of neighbours of listed settings: the others that are nearest in the encoding."""


@dataclass(frozen=True)
class NarrowedSpace:
    """A part of a space in which some values are fixed: it draws from `left` and encodes as `whole`."""

    whole: Node
    left: Node

    @property
    def width(self) -> int:
        return self.whole.width

    def draw(self, rng: np.random.Generator) -> Any:
        return copy.deepcopy(self.left.draw(rng))

    def contains(self, value: Any) -> bool:
        return self.left.contains(value)

    def fill(self, values: Sequence[Any], out: Floats) -> None:
        self.whole.fill(values, out)

    def skip(self, out: list[float]) -> None:
        self.whole.skip(out)

    def neighbour(self, value: Any, rng: np.random.Generator) -> Any:
        return self.left.neighbour(value, rng)

    def domains(self, value: Any) -> int:
        return self.left.domains(value)

    def corners(self) -> Iterator[Any]:
        yield from self.left.corners()

    def count(self) -> float:
        return self.left.count()


@dataclass(frozen=True)
class ListedSettings:
    """A list of settings of a space, and no others. The settings themselves are returned, not copies."""

    whole: Node
    settings: tuple[Settings, ...]

    @cached_property
    def _places(self) -> dict[str, int]:
        return {settings_key(settings): place for place, settings in enumerate(self.settings)}

    @cached_property
    def _encoded_LD(self) -> Floats:
        return encode_values(self.whole, self.settings)

    @cached_property
    def _neighbourhoods(self) -> dict[int, tuple[int, Integers]]:
        return {}  # by place, filled on demand

    @property
    def width(self) -> int:
        return self.whole.width

    def draw(self, rng: np.random.Generator) -> Any:
        return self.settings[int(rng.integers(len(self.settings)))]

    def contains(self, value: Any) -> bool:
        return settings_key(value) in self._places

    def fill(self, values: Sequence[Any], out: Floats) -> None:
        self.whole.fill(values, out)

    def skip(self, out: list[float]) -> None:
        self.whole.skip(out)

    def neighbour(self, value: Any, rng: np.random.Generator) -> Any:
        """Return one of the nearest settings or, with probability 1 / domains, any other.

        In the whole space a neighbour is of another family as often. Without it no walk would leave a cluster of the
        list.
        """
        if len(self.settings) == 1:
            return self.settings[0]
        place = self._places.get(settings_key(value))
        domains, near = self._near(value, place)
        if rng.integers(domains):
            return self.settings[near[int(rng.integers(len(near)))]]
        other = int(rng.integers(len(self.settings) - (place is not None)))
        return self.settings[other + (place is not None and other >= place)]

    def _near(self, value: Any, place: int | None) -> tuple[int, Integers]:
        """Return the number of domains of settings (at least 2), and the places of the nearest other settings."""
        if place in self._neighbourhoods:
            return self._neighbourhoods[place]
        row_D = encode_values(self.whole, [value])[0] if place is None else self._encoded_LD[place]
        apart_L = ((self._encoded_LD - row_D) ** 2).sum(axis=1)
        if place is not None:
            apart_L[place] = np.inf
        count = min(NEAR, len(self.settings) - (place is not None))
        found = max(2, self.whole.domains(value)), np.argsort(apart_L, kind="stable")[:count]
        if place is not None:
            self._neighbourhoods[place] = found
        return found

    def domains(self, value: Any) -> int:
        return self.whole.domains(value)

    def corners(self) -> Iterator[Any]:
        yield from self.settings

    def count(self) -> float:
        return len(self.settings)


def encode_values(node: Node, values: Sequence[Any]) -> Floats:
    """Return the encodings of values, one row each."""
    absent: list[float] = []
    node.skip(absent)
    rows = np.tile(np.array(absent, dtype=np.float64), (len(values), 1))
    if len(values):
        node.fill(values, rows)
    return rows


def narrow(node: Node, value: Any, free: tuple[tuple[str, ...], ...]) -> Node:
    """Return the part of a node where everything is as in `value`, except what lies under a path in `free`."""
    if () in free:
        return node
    if isinstance(node, ListedSettings):
        part = narrow(node.whole, value, free)
        return ListedSettings(node.whole, tuple(settings for settings in node.settings if part.contains(settings)))
    if isinstance(node, Conditional):
        return replace(node, node=narrow(node.node, node.fill_up(value, next(node.node.corners())), free))
    if isinstance(node, Choice) and free:
        return NarrowedSpace(node, narrow(node.options[node.index(value)], value, free))
    if isinstance(node, NarrowedSpace):
        return NarrowedSpace(node.whole, narrow(node.left, value, free))
    if isinstance(node, Composite) and node.keys is not None and free:
        below = [tuple(path[1:] for path in free if path[0] == name) for name in node.keys]
        parts = zip(node.parts, node.values(value), below, strict=True)
        return Composite(node.keys, tuple(narrow(part, inner, under) for part, inner, under in parts))
    return NarrowedSpace(node, Constant(value))


def narrow_to_family(node: Node, family: str) -> Node:
    """Return the part of a whole space, or of a part of one, that holds one family, without the choice of families."""
    if isinstance(node, ListedSettings):
        kept = tuple(settings for settings in node.settings if settings["family"] == family)
        return ListedSettings(narrow_to_family(node.whole, family), kept)
    if isinstance(node, NarrowedSpace):
        return NarrowedSpace(narrow_to_family(node.whole, family), node.left)
    if isinstance(node, Choice) and node.families:
        return node.options[node.families.index(family)]
    return node
