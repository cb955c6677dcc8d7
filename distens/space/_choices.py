"""The nodes that compose a search space: a choice, and a group of parts."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from distens.records import Floats
from distens.space._domains import Node


@dataclass(frozen=True)
class Choice:
    """One of several nodes; what lies in an option exists only where that option is chosen."""

    options: tuple[Node, ...]
    families: tuple[str, ...] = ()  # the outermost choice's option names, to find the chosen one at once

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
        inner, others = self.options[chosen].domains(value), [*self.options[:chosen], *self.options[chosen + 1 :]]
        # The choice itself and each domain inside the chosen option are equally likely to change.
        if not others or (inner and rng.integers(inner + 1)):
            return self.options[chosen].neighbour(value, rng)
        return others[int(rng.integers(len(others)))].draw(rng)

    def domains(self, value: Any) -> int:
        return (len(self.options) > 1) + self.options[self.index(value)].domains(value)

    def corners(self) -> Iterator[Any]:
        for option in self.options:
            yield from option.corners()

    def count(self) -> float:
        return sum(option.count() for option in self.options)


@dataclass(frozen=True)
class Composite:
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
        for i, part in enumerate(self.parts):  # one part at a time: the corners grow as a sum, not as a product
            for j, corner in enumerate(part.corners()):
                if j:
                    yield self._group([*first[:i], corner, *first[i + 1 :]])

    def count(self) -> float:
        return math.prod(part.count() for part in self.parts)
