"""The parts of a search space: a value that is fixed, a range, a choice, a group of parts; and what is left of one when
some of it is settled.

A node draws a value, says whether a value is one of its own, changes one a little, and encodes values: `fill` writes
the columns of those that are there over what `skip` writes for one that is not.
"""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from distens.errors import ConfigError
from distens.records import Floats

INACTIVE = -1.0
"""Stands for a range that does not exist in these settings (DivBO's specification, section 3)."""


@dataclass(frozen=True)
class Constant:
    value: Any

    width = 0

    def draw(self, rng: np.random.Generator) -> Any:
        return self.value

    def contains(self, value: Any) -> bool:
        return value == self.value

    def fill(self, values: Sequence[Any], out: Floats) -> None:
        pass

    def skip(self, out: list[float]) -> None:
        pass

    def neighbour(self, value: Any, rng: np.random.Generator) -> Any:
        return value

    def domains(self, value: Any) -> int:
        return 0

    def corners(self) -> Iterator[Any]:
        yield self.value

    def count(self) -> float:
        return 1


@dataclass(frozen=True)
class Range:
    low: float
    high: float
    log: bool
    whole: bool

    width = 2

    def _scale(self, value: float) -> float:
        low, high = (math.log(self.low), math.log(self.high)) if self.log else (self.low, self.high)
        return ((math.log(value) if self.log else value) - low) / (high - low)

    def _unscale(self, unit: float) -> float | int:
        unit = min(max(unit, 0.0), 1.0)
        low, high = (math.log(self.low), math.log(self.high)) if self.log else (self.low, self.high)
        value = low + unit * (high - low)
        value = math.exp(value) if self.log else value
        if self.whole:
            return int(min(max(round(value), self.low), self.high))
        return float(min(max(value, self.low), self.high))

    def draw(self, rng: np.random.Generator) -> Any:
        if self.whole and not self.log:
            return int(rng.integers(int(self.low), int(self.high) + 1))
        return self._unscale(rng.random())

    def contains(self, value: Any) -> bool:
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        return self.low <= value <= self.high and (not self.whole or float(value).is_integer())

    def fill(self, values: Sequence[Any], out: Floats) -> None:
        numbers = np.array([math.log(value) for value in values] if self.log else values, dtype=np.float64)
        low, high = (math.log(self.low), math.log(self.high)) if self.log else (self.low, self.high)
        out[:, 0], out[:, 1] = (numbers - low) / (high - low), 1.0

    def skip(self, out: list[float]) -> None:
        out += (INACTIVE, 0.0)

    def neighbour(self, value: Any, rng: np.random.Generator) -> Any:
        moved = self._unscale(self._scale(value) + 0.2 * rng.standard_normal())
        if moved != value:
            return moved
        # A step too small for a narrow range of whole numbers, or off an end: the next number on either side.
        step = 1 if self.whole else 0.1 * (self.high - self.low)
        sides = [side for side in (value - step, value + step) if self.low <= side <= self.high]
        return sides[int(rng.integers(len(sides)))]

    def domains(self, value: Any) -> int:
        return 1

    def corners(self) -> Iterator[Any]:
        yield self._unscale(0.0)
        yield self._unscale(1.0)

    def count(self) -> float:
        return self.high - self.low + 1 if self.whole else math.inf


@dataclass(frozen=True)
class Choice:
    options: tuple[Node, ...]
    families: tuple[str, ...] = ()  # of the outermost choice: their names, by which the taken one is found at once

    @property
    def width(self) -> int:
        return len(self.options) + sum(option.width for option in self.options)

    def index(self, value: Any) -> int:
        if self.families:
            return self.families.index(value["family"])
        return next(i for i, option in enumerate(self.options) if option.contains(value))

    def draw(self, rng: np.random.Generator) -> Any:
        return self.options[int(rng.integers(len(self.options)))].draw(rng)

    def contains(self, value: Any) -> bool:
        return any(option.contains(value) for option in self.options)

    def fill(self, values: Sequence[Any], out: Floats) -> None:
        chosen = np.array([self.index(value) for value in values], dtype=np.int64)
        out[np.arange(len(values)), chosen] = 1.0
        start = len(self.options)
        for i, option in enumerate(self.options):
            columns = slice(start, start + option.width)
            rows = np.flatnonzero(chosen == i)
            if option.width and len(rows):
                part = out[rows, columns]
                option.fill([values[row] for row in rows.tolist()], part)
                out[rows, columns] = part
            start = columns.stop

    def skip(self, out: list[float]) -> None:
        out += [0.0] * len(self.options)
        for option in self.options:
            option.skip(out)

    def neighbour(self, value: Any, rng: np.random.Generator) -> Any:
        chosen = self.index(value)
        inner = self.options[chosen].domains(value)
        if inner and rng.integers(inner + 1):  # one of the chosen option's own domains, as likely as the choice itself
            return self.options[chosen].neighbour(value, rng)
        others = [option for i, option in enumerate(self.options) if i != chosen]
        return others[int(rng.integers(len(others)))].draw(rng) if others else value

    def domains(self, value: Any) -> int:
        return (len(self.options) > 1) + self.options[self.index(value)].domains(value)

    def corners(self) -> Iterator[Any]:
        for option in self.options:
            yield from option.corners()

    def count(self) -> float:
        return sum(option.count() for option in self.options)


@dataclass(frozen=True)
class Group:
    """A mapping or a list whose parts may be domains."""

    keys: tuple[str, ...] | None  # None for a list
    parts: tuple[Node, ...]

    @property
    def width(self) -> int:
        return sum(part.width for part in self.parts)

    def values(self, value: Any) -> Sequence[Any]:
        return value if self.keys is None else [value[key] for key in self.keys]

    def _group(self, values: Sequence[Any]) -> Any:
        return list(values) if self.keys is None else dict(zip(self.keys, values, strict=True))

    def draw(self, rng: np.random.Generator) -> Any:
        return self._group([part.draw(rng) for part in self.parts])

    def contains(self, value: Any) -> bool:
        if self.keys is None:
            right = isinstance(value, list | tuple) and len(value) == len(self.parts)
        else:
            right = isinstance(value, Mapping) and set(value) == set(self.keys)
        return right and all(p.contains(v) for p, v in zip(self.parts, self.values(value), strict=True))

    def fill(self, values: Sequence[Any], out: Floats) -> None:
        start = 0
        for name, part in zip(self.keys or range(len(self.parts)), self.parts, strict=True):
            if part.width:
                part.fill([value[name] for value in values], out[:, start : start + part.width])
            start += part.width

    def skip(self, out: list[float]) -> None:
        for part in self.parts:
            part.skip(out)

    def neighbour(self, value: Any, rng: np.random.Generator) -> Any:
        values = list(self.values(value))
        counts = np.array([part.domains(v) for part, v in zip(self.parts, values, strict=True)])
        if counts.sum():
            i = int(rng.choice(len(counts), p=counts / counts.sum()))
            values[i] = self.parts[i].neighbour(values[i], rng)
        return self._group(values)

    def domains(self, value: Any) -> int:
        return sum(part.domains(v) for part, v in zip(self.parts, self.values(value), strict=True))

    def corners(self) -> Iterator[Any]:
        first = [next(part.corners()) for part in self.parts]
        yield self._group(first)
        for i, part in enumerate(self.parts):  # one part at a time: their number grows as a sum, not as a product
            for j, corner in enumerate(part.corners()):
                if j:
                    yield self._group([*first[:i], corner, *first[i + 1 :]])

    def count(self) -> float:
        return math.prod(part.count() for part in self.parts)


@dataclass(frozen=True)
class Narrowed:
    """A part of the space of which some is settled: it draws from what is left, and encodes as before."""

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


Node = Constant | Range | Choice | Group | Narrowed


def narrow(node: Node, value: Any, free: tuple[tuple[str, ...], ...]) -> Node:
    """Return the part of a node where all is as in `value` but what lies under a path in `free`."""
    if () in free:
        return node
    if isinstance(node, Choice) and free:
        return Narrowed(node, narrow(node.options[node.index(value)], value, free))
    if isinstance(node, Narrowed):
        return Narrowed(node.whole, narrow(node.left, value, free))
    if isinstance(node, Group) and node.keys is not None and free:
        below = [tuple(path[1:] for path in free if path[0] == name) for name in node.keys]
        parts = zip(node.parts, node.values(value), below, strict=True)
        return Group(node.keys, tuple(narrow(part, inner, under) for part, inner, under in parts))
    return Narrowed(node, Constant(value))


def parse(value: Any, where: str) -> Node:
    if isinstance(value, Mapping):
        if "choices" in value:
            return _parse_choice(value, where)
        if "low" in value or "high" in value:
            return _parse_range(value, where)
        return Group(tuple(map(str, value)), tuple(parse(v, f"{where}.{k}") for k, v in value.items()))
    if isinstance(value, list | tuple):
        if any(isinstance(part, Mapping) for part in value):
            return Group(None, tuple(parse(part, f"{where}.{i}") for i, part in enumerate(value)))
        return Constant(list(value))
    return Constant(value)


def _parse_choice(value: Mapping[str, Any], where: str) -> Node:
    found = value["choices"]
    if set(value) != {"choices"} or not isinstance(found, list | tuple) or not found:
        raise ConfigError(f"{where}: a choice is {{choices: [one or more values]}}, found {dict(value)!r}")
    if len({json.dumps(option, sort_keys=True) for option in found}) != len(found):
        raise ConfigError(f"{where}: choices name a value twice: {found!r}")
    return Choice(tuple(parse(option, f"{where}.choices.{i}") for i, option in enumerate(found)))


def _parse_range(value: Mapping[str, Any], where: str) -> Node:
    low, high, log = value.get("low"), value.get("high"), value.get("log", False)
    numbers = all(isinstance(end, int | float) and not isinstance(end, bool) for end in (low, high))
    if set(value) - {"low", "high", "log"} or not numbers or not isinstance(log, bool):
        raise ConfigError(
            f"{where}: a range is {{low: number, high: number, log: true or false}}, found {dict(value)!r}"
        )
    assert low is not None and high is not None
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ConfigError(f"{where}: no number lies in the range from {low} to {high}; low must be below high")
    if log and low <= 0:
        raise ConfigError(f"{where}: a logarithmic range starts above 0, found low: {low}")
    return Range(low, high, log, isinstance(low, int) and isinstance(high, int))
